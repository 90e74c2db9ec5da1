"""Chunks that are out, until their receipts come, and the jobs that wait to be sent once more."""

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from taskqueue.feed.codec import Codec


@dataclass(frozen=True, slots=True)
class Job:
    """One job that something has happened to."""

    number: int  # in this pass
    origin: int  # in the iterator
    value: Any


#: A chunk's id: which feed, which of its starts, which chunk, and which jobs, if they follow each other.
_ID: Final = re.compile(
    r"feed-(?P<feed>[0-9a-f]+)-(?P<run>\d+)-\d+-(?P<jobs>\w+)(-(?P<start>\d+)-(?P<end>\d+))?\Z"
)


@dataclass(slots=True, eq=False)
class Chunk:
    """Some jobs in one workitem."""

    id: str
    numbers: Sequence[int]  # of its jobs in this pass, in their order; a range where they follow each other
    origins: Sequence[int]  # of its jobs in the iterator: the same, unless failed ones are fed again
    body: bytes


@dataclass(frozen=True, slots=True)
class ChunkName:
    """What a chunk's id tells, whichever run of the feed has sent it."""

    feed: str
    run: int
    jobs: str  # the name of its pass
    numbers: range  # empty where they do not follow each other

    @classmethod
    def parse(cls, text: str) -> "ChunkName | None":
        """Read an id; None for a stranger's."""
        match = _ID.match(text)
        if match is None:
            return None
        numbers = range(int(match["start"]), int(match["end"])) if match["start"] else range(0)
        return cls(match["feed"], int(match["run"]), match["jobs"], numbers)


def chunk_id(feed: str, run: int, count: int, jobs: str, numbers: Sequence[int]) -> str:
    """Return the id of the `count`-th chunk of a run."""
    contiguous = f"-{numbers[0]}-{numbers[-1] + 1}" if isinstance(numbers, range) else ""
    return f"feed-{feed}-{run}-{count}-{jobs}{contiguous}"


def as_numbers(numbers: Sequence[int]) -> Sequence[int]:
    """Return numbers as a range where they follow each other."""
    if all(right == left + 1 for left, right in pairwise(numbers)):
        return range(numbers[0], numbers[-1] + 1)
    return tuple(numbers)


class Outbox:
    """Bounded by the feed's size: whatever is in here is out."""

    def __init__(self, codec: Codec) -> None:
        """Begin empty; `codec` reads the chunks' bodies again, where that is needed."""
        self.chunks: dict[str, Chunk] = {}
        self.again: deque[Job] = deque()
        self.bytes = 0
        self._codec = codec
        self._sent_jobs = 0
        self._runs: dict[int, int] = {}  # how often each job that something happened to was run

    @property
    def jobs(self) -> int:
        """How many jobs are out."""
        return self._sent_jobs + len(self.again)

    def add(self, chunk: Chunk) -> None:
        """Note that a chunk is sent."""
        self.chunks[chunk.id] = chunk
        self._sent_jobs += len(chunk.numbers)
        self.bytes += len(chunk.body)

    def remove(self, id_: str) -> Chunk | None:
        """Return a chunk whose receipt is here; None if that came before."""
        chunk = self.chunks.pop(id_, None)
        if chunk is not None:
            self._sent_jobs -= len(chunk.numbers)
            self.bytes -= len(chunk.body)
        return chunk

    def jobs_of(self, chunk: Chunk) -> list[Job]:
        """Return the jobs of a chunk."""
        values = self._codec.decode(chunk.body)
        return [
            Job(number, origin, value)
            for number, origin, value in zip(chunk.numbers, chunk.origins, values, strict=True)
        ]

    def run_again(self, job: Job, most: int) -> bool:
        """Put a job into the row of those to be run again, unless it was run so often; tell whether it is."""
        runs = self._runs[job.number] = self._runs.get(job.number, 0) + 1
        if runs >= most:
            return False
        self.again.append(job)
        return True

    def forget(self, number: int) -> int:
        """Note that a job came to its end; return how often it was run, as far as something happened then."""
        return self._runs.pop(number, 0)

    def forget_all(self, numbers: Sequence[int]) -> None:
        """Note that jobs came to their end."""
        if self._runs:
            for number in numbers:
                self._runs.pop(number, None)

    def find(self, number: int) -> Job | None:
        """Return a job that is out; None if it is not."""
        for chunk in self.chunks.values():
            if number in chunk.numbers:
                return self.jobs_of(chunk)[chunk.numbers.index(number)]
        return next((job for job in self.again if job.number == number), None)
