"""Chunks: what is out, until its receipt comes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

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
