"""Makes chunks of new jobs and of jobs that run again, and keeps those in flight.

The length of a chunk, and the number of chunks in flight, adapt to the time that jobs take.
"""

import time
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from taskqueue.feed.state import Pass, State
from taskqueue.feed.target import JobSource
from taskqueue.feed.wire import Codec, chunk_id


@dataclass(frozen=True, slots=True)
class Job:
    """A job that failed, or whose chunk did."""

    number: int  # in this pass
    origin: int  # in the iterator
    value: Any


@dataclass(slots=True, eq=False)
class Chunk:
    """Some jobs in one workitem."""

    id: str
    numbers: Sequence[int]  # of its jobs in this pass, in order; a range if they are consecutive
    origins: Sequence[int]  # of its jobs in the iterator; the same, except in a pass through failed jobs
    body: bytes


def as_numbers(numbers: Sequence[int]) -> Sequence[int]:
    """Return numbers as a range if they are consecutive, else as a tuple."""
    if all(right == left + 1 for left, right in pairwise(numbers)):
        return range(numbers[0], numbers[-1] + 1)
    return tuple(numbers)


class Outbox:
    """The jobs in flight, at most as many as the feed's size: in chunks, or waiting to run again."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.chunks: dict[str, Chunk] = {}  # by id, until their receipts come
        self.again: deque[Job] = deque()
        self.bytes = 0
        self._sent_jobs = 0
        self._runs: dict[int, int] = {}  # by job number; runs of jobs that failed, or whose chunk did

    @property
    def jobs(self) -> int:
        """Number of jobs in flight."""
        return self._sent_jobs + len(self.again)

    def add(self, chunk: Chunk) -> None:
        """Add a chunk that is sent."""
        self.chunks[chunk.id] = chunk
        self._sent_jobs += len(chunk.numbers)
        self.bytes += len(chunk.body)

    def remove(self, id_: str) -> Chunk | None:
        """Remove and return a chunk whose receipt is here; None if that came before."""
        chunk = self.chunks.pop(id_, None)
        if chunk is not None:
            self._sent_jobs -= len(chunk.numbers)
            self.bytes -= len(chunk.body)
        return chunk

    def jobs_of(self, chunk: Chunk) -> list[Job]:
        """Return the jobs of a chunk."""
        values = self.codec.decode(chunk.body)
        return [
            Job(number, origin, value)
            for number, origin, value in zip(chunk.numbers, chunk.origins, values, strict=True)
        ]

    def run_again(self, job: Job, most: int) -> bool:
        """Queue a job for another run, unless it has had `most` runs; return whether it is queued."""
        runs = self._runs[job.number] = self._runs.get(job.number, 0) + 1
        if runs >= most:
            return False
        self.again.append(job)
        return True

    def forget(self, number: int) -> int:
        """Forget the runs of a finished job; return their number, 0 if none was counted."""
        return self._runs.pop(number, 0)

    def forget_all(self, numbers: Sequence[int], failed: Collection[int] = ()) -> None:
        """Forget the runs of finished jobs, except the failed ones, which are given by their positions."""
        if self._runs:
            for at, number in enumerate(numbers):
                if at not in failed:
                    self._runs.pop(number, None)

    def find(self, number: int) -> Job | None:
        """Return a job in flight by its number; None if it is not in flight."""
        for chunk in self.chunks.values():
            if number in chunk.numbers:
                return self.jobs_of(chunk)[chunk.numbers.index(number)]
        return next((job for job in self.again if job.number == number), None)


# --- length and number of chunks ---

#: Seconds that a worker should need for a chunk.
CHUNK_TIME: Final = 0.5

_FIRST_CHUNKS: Final = 8  # in flight, before the first receipts
_FEWEST_CHUNKS: Final = 5  # in flight, however short the jobs are
_WORTHWHILE: Final = 0.01  # seconds that a chunk should take, so that its transport does not dominate
_WEIGHT: Final = 0.3  # of the newest chunk in the mean time of a job
_LARGEST_CHUNK: Final = 1024 * 1024  # bytes
_MEMORY: Final = 10.0  # seconds after its last receipt in which a worker is counted
_LEAST_TIME: Final = 1e-9


class Pace:
    """Learns from receipts how long jobs take and how many workers there are."""

    def __init__(self, size: int, most: int, workers: int = 0) -> None:
        """Begin without receipts.

        size -- maximum number of jobs in flight
        most -- maximum number of jobs in a chunk
        workers -- their expected number; 0 if it is unknown
        """
        self._size = size
        self._most = most
        self._expected = workers
        self._seen: dict[str, float] = {}  # when (monotonic) each worker last sent a receipt
        self._job_time = 0.0  # seconds, mean
        self._threads = 1  # that workers have, at most
        self._job_bytes = 1.0  # encoded, of the last chunk
        self._length_limit = 1  # bound of the length: twice the longest chunk that was measured
        self.chunks = max(_FIRST_CHUNKS, self._needed(workers))  # maximum number of chunks in flight
        self.length = 1  # number of jobs in the next chunk

    @property
    def workers(self) -> int:
        """Number of workers that have lately sent a receipt."""
        return len(self._seen)

    @property
    def chunk_time(self) -> float:
        """Seconds that a worker needs for a chunk; 0 if it is unknown."""
        return self._job_time * self.length

    def encoded(self, jobs: int, size: int) -> None:
        """Record that a chunk of `jobs` jobs has `size` bytes."""
        self._job_bytes = max(1.0, size / jobs)
        self._adapt()

    def note(self, worker: str, threads: int, jobs: int, seconds: float) -> None:
        """Record that a worker with `threads` jobs at a time has performed a chunk."""
        now = time.monotonic()
        self._seen[worker] = now
        self._threads = max(threads, self._threads)
        mean = max(seconds, _LEAST_TIME) / max(jobs, threads)  # threads without a job took the time, too
        self._job_time = mean if not self._job_time else (1 - _WEIGHT) * self._job_time + _WEIGHT * mean
        self._length_limit = max(self._length_limit, 2 * jobs, threads)
        self._adapt()

    def forget(self) -> None:
        """Forget the workers that have sent no receipt for long; called periodically."""
        oldest = time.monotonic() - max(_MEMORY, 10 * self.chunk_time)
        for worker in [worker for worker, seen in self._seen.items() if seen < oldest]:
            del self._seen[worker]
        self._adapt()

    def workers_idle(self) -> None:
        """Allow more chunks: idle workers are there that have sent no receipt."""
        self.chunks = min(self._size, self.chunks + max(_FIRST_CHUNKS, self.chunks // 2))
        self._adapt()

    def _adapt(self) -> None:
        known = max(self._expected, len(self._seen))
        if known:
            is_slow = self.chunk_time > CHUNK_TIME / 2
            self.chunks = max(self._needed(known), self.chunks if is_slow else 0)
        timely = max(self._threads, int(CHUNK_TIME / self._job_time) if self._job_time else 1)
        fitting = int(_LARGEST_CHUNK / self._job_bytes)
        share = self._size // self.chunks
        self.length = max(1, min(timely, fitting, share, self._length_limit, self._most))

    def _needed(self, workers: int) -> int:
        """Return the wanted number of chunks in flight: two for each worker, and a spare one.

        If jobs take less time than their transport, fewer and longer chunks keep the workers as busy.
        """
        worthwhile = int(self._size * self._job_time / _WORTHWHILE) if self._job_time else self._size
        return max(1, min(2 * workers + 1, max(worthwhile, _FEWEST_CHUNKS)))


# --- making chunks ---

#: Maximum seconds that jobs wait until there are enough for a chunk.
GATHER_TIME: Final = 0.05

_STOCK: Final = 4  # jobs drawn ahead, in chunks


@dataclass(slots=True)
class Chunker:
    """Draws jobs from the source, counts them, and makes chunks."""

    source: JobSource  # not started yet
    out: Outbox
    pace: Pace
    state: State
    going: Pass  # the pass of the state that is fed
    size: int  # maximum number of jobs in flight
    next_number: int = 0  # of the next job of the source
    _waits_since: float = 0.0  # monotonic; 0 while enough jobs are in stock
    _made: int = 0  # chunks

    def start(self) -> None:
        """Start to draw from the first unfinished job on; receipts of earlier runs must be applied before."""
        self.next_number = self.going.frontier.end
        self.source.start(self.next_number, 1)

    @property
    def has_ended(self) -> bool:
        """Whether no job is left to send; one in flight may still have to run again."""
        return self.source.is_empty and not self.out.again

    def next(self) -> Chunk | None:
        """Return the next chunk, None if there is none now. Raises JobUnwritable if one cannot be sent."""
        return self._of_again() if self.out.again else self._of_new()

    def halves(self, chunk: Chunk) -> list[Chunk]:
        """Divide a chunk of two jobs or more into two."""
        jobs = [job.value for job in self.out.jobs_of(chunk)]
        half = len(jobs) // 2
        return [
            self._chunk(chunk.numbers[part], chunk.origins[part], jobs[part])
            for part in (slice(half), slice(half, None))
        ]

    def peek(self) -> tuple[int, Any]:
        """Return number and value of the next job of the source. Raises IndexError if none is in stock."""
        return self.next_number, self.source.peek()

    def _of_again(self) -> Chunk:
        again = self.out.again
        jobs = [again.popleft() for _ in range(min(self.pace.length, len(again)))]
        numbers, origins = [job.number for job in jobs], [job.origin for job in jobs]
        return self._chunk(as_numbers(numbers), as_numbers(origins), [job.value for job in jobs])

    def _of_new(self) -> Chunk | None:
        most = min(self._skip_finished(), self.pace.length, self.size - self.out.jobs)
        if most <= 0 or not self._is_chunk_ready(most):
            return None
        jobs = self.source.take(most, _STOCK * self.pace.length)
        numbers = range(self.next_number, self.next_number + len(jobs))
        self.next_number = numbers.stop
        if self.going is not self.state.again:  # else these are pairs of number in the iterator and job
            return self._chunk(numbers, numbers, jobs)
        return self._chunk(numbers, as_numbers([origin for origin, _ in jobs]), [job for _, job in jobs])

    def _skip_finished(self) -> int:
        """Drop finished jobs; return the maximum number of unfinished ones that follow, 0 for none yet."""
        start, end = self.going.frontier.gap(self.next_number)
        while self.next_number < start:
            dropped = len(self.source.take(start - self.next_number, _STOCK * self.pace.length))
            if not dropped:
                return 0
            self.next_number += dropped
        return self.size if end is None else end - start

    def _is_chunk_ready(self, most: int) -> bool:
        """Return whether the jobs in stock are enough for a chunk, or have waited long enough for more."""
        stock, now = len(self.source), time.monotonic()
        if stock >= most or self.source.has_ended:
            self._waits_since = 0.0
            return stock > 0
        if not self._waits_since:
            self._waits_since = now
            self.source.want(_STOCK * self.pace.length)
        elif stock and now - self._waits_since >= GATHER_TIME:
            self._waits_since = 0.0
            return True
        return False

    def _chunk(self, numbers: Sequence[int], origins: Sequence[int], jobs: list[Any]) -> Chunk:
        body = self.out.codec.encode(jobs)
        self.pace.encoded(len(jobs), len(body))
        self._made += 1
        state = self.state
        id_ = chunk_id(state.feed, state.run, self._made, self.going.name, numbers)
        return Chunk(id_, numbers, origins, body)
