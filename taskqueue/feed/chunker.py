"""Makes chunks: of jobs that must be run again, of new ones from the iterator, of halves of others.

How many jobs make a chunk, and how many chunks may be out, follows from how long they take.
"""

import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, Final

from taskqueue.feed.chunks import Chunk, Outbox, as_numbers, chunk_id
from taskqueue.feed.codec import Codec
from taskqueue.feed.frontier import Frontier
from taskqueue.feed.source import Source

#: Seconds that a chunk should take its worker.
CHUNK_TIME: Final = 0.5

_FIRST_CHUNKS: Final = 8  # out, before anything is known of the workers
_FEWEST_CHUNKS: Final = 5  # out: so many are on their way where jobs take no time at all
_WORTHWHILE: Final = 0.01  # seconds that a chunk should take at least, compared with its way
_WEIGHT: Final = 0.3  # of the newest chunk in the mean time a job takes
_LARGEST_CHUNK: Final = 1024 * 1024  # bytes that a chunk should not exceed
_MEMORY: Final = 10.0  # seconds after its last receipt that a worker counts as there
_LEAST_TIME: Final = 1e-9


class Pace:
    """Learns from receipts how long jobs take and how many workers there are."""

    def __init__(self, size: int, most: int, workers: int = 0) -> None:
        """Keep at most `size` jobs out, in chunks of at most `most`; 0 `workers` expected means unknown."""
        self._size = size
        self._most = most
        self._expected = workers
        self._seen: dict[str, float] = {}  # when (monotonic) each worker last sent a receipt
        self._job_time = 0.0  # seconds, mean
        self._threads = 1  # that workers have, at most
        self._job_bytes = 1.0  # encoded, of the last chunk
        self._grown = 1  # what the length may be, as far as chunks of half of that were measured
        self._window = max(_FIRST_CHUNKS, self._needed(workers))
        self.length = 1

    @property
    def workers(self) -> int:
        """How many workers were heard of lately."""
        return len(self._seen)

    @property
    def chunk_time(self) -> float:
        """How many seconds a chunk takes its worker; 0 while that is unknown."""
        return self._job_time * self.length

    @property
    def chunks(self) -> int:
        """How many chunks may be out; more where workers wait that nobody has heard of yet."""
        return self._window

    def encoded(self, jobs: int, size: int) -> None:
        """Note how large a chunk has become, in bytes."""
        self._job_bytes = max(1.0, size / jobs)
        self._adapt()

    def note(self, worker: str, threads: int, jobs: int, seconds: float) -> None:
        """Note that a worker, which performs so many jobs at a time, has performed a chunk."""
        now = time.monotonic()
        self._seen[worker] = now
        self._threads = max(threads, self._threads)
        mean = max(seconds, _LEAST_TIME) / max(jobs, threads)  # it had time for so many
        self._job_time = mean if not self._job_time else (1 - _WEIGHT) * self._job_time + _WEIGHT * mean
        self._grown = max(self._grown, 2 * jobs, threads)
        self._adapt()

    def forget(self) -> None:
        """Forget the workers that were not heard of for long; to be called now and then."""
        oldest = time.monotonic() - max(_MEMORY, 10 * self.chunk_time)
        for worker in [worker for worker, seen in self._seen.items() if seen < oldest]:
            del self._seen[worker]
        self._adapt()

    def starve(self) -> None:
        """Note that workers wait though jobs could be out: more of them are there than were heard of."""
        self._window = min(self._size, self._window + max(_FIRST_CHUNKS, self._window // 2))
        self._adapt()

    def _adapt(self) -> None:
        known = max(self._expected, len(self._seen))
        if known:
            is_slow = self.chunk_time > CHUNK_TIME / 2
            self._window = max(self._needed(known), self._window if is_slow else 0)
        timely = max(self._threads, int(CHUNK_TIME / self._job_time) if self._job_time else 1)
        fitting = int(_LARGEST_CHUNK / self._job_bytes)
        share = self._size // self._window
        self.length = max(1, min(timely, fitting, share, self._grown, self._most))

    def _needed(self, workers: int) -> int:
        """Return how many chunks should be out: one at work and one at hand for each worker, and a spare one.

        Where jobs are so short that their way takes longer, fewer and longer chunks keep everybody as busy.
        """
        worthwhile = int(self._size * self._job_time / _WORTHWHILE) if self._job_time else self._size
        return max(1, min(2 * workers + 1, max(worthwhile, _FEWEST_CHUNKS)))


#: Seconds that jobs may wait for others until a chunk is as long as wanted.
PATIENCE: Final = 0.05

_STOCK: Final = 4  # chunks' worth of jobs that are drawn ahead


class Chunker:
    """Keeps count of the jobs that the source yields."""

    def __init__(
        self,
        source: Source,
        frontier: Frontier,
        out: Outbox,
        pace: Pace,
        codec: Codec,
        *,
        size: int,
        prefix: tuple[str, int, str],
        has_origins: bool,
        look_again: Callable[[], object],
    ) -> None:
        """Prepare; `start` begins.

        Args:
            source: yields the jobs; not started yet.
            frontier: what is finished.
            out: what is out, and what must be run again.
            pace: how long chunks should be.
            codec: how jobs travel.
            size: how many jobs may be out.
            prefix: feed, run and pass, for the chunks' ids.
            has_origins: whether each job comes with its number in an iterator before this one.
            look_again: called when `next` may have a chunk in PATIENCE seconds.
        """
        self.next_number = 0  # of the job that the source yields next
        self._source = source
        self._frontier = frontier
        self._out = out
        self._pace = pace
        self._codec = codec
        self._size = size
        self._prefix = prefix
        self._has_origins = has_origins
        self._look_again = look_again
        self._waits_since = 0.0  # monotonic; 0 while there are jobs enough
        self._counter = count(1)

    def start(self) -> None:
        """Begin with the first job that is not finished; by now the receipts of earlier runs are here."""
        self.next_number = self._frontier.end
        self._source.start(self.next_number, 1)

    @property
    def has_ended(self) -> bool:
        """Whether all jobs were drawn and made into chunks, as far as is known now."""
        return self._source.is_empty and not self._out.again

    def next(self) -> Chunk | None:
        """Return the next chunk, None if there is none now; JobUnwritable where a job cannot travel."""
        return self._of_again() if self._out.again else self._of_new()

    def halves(self, chunk: Chunk) -> list[Chunk]:
        """Return the jobs of a chunk, which has two at least, in two chunks."""
        jobs = [job.value for job in self._out.jobs_of(chunk)]
        half = len(jobs) // 2
        return [
            self._chunk(chunk.numbers[part], chunk.origins[part], jobs[part])
            for part in (slice(half), slice(half, None))
        ]

    def peek(self) -> tuple[int, Any]:
        """Return the next job of the source and its number; IndexError where none is in stock."""
        return self.next_number, self._source.peek()

    def _of_again(self) -> Chunk:
        again = self._out.again
        jobs = [again.popleft() for _ in range(min(self._pace.length, len(again)))]
        numbers, origins = [job.number for job in jobs], [job.origin for job in jobs]
        return self._chunk(as_numbers(numbers), as_numbers(origins), [job.value for job in jobs])

    def _of_new(self) -> Chunk | None:
        most = min(self._room_to_island(), self._pace.length, self._size - self._out.jobs)
        if most <= 0 or not self._is_worth_taking(most):
            return None
        jobs = self._source.take(most, _STOCK * self._pace.length)
        numbers = range(self.next_number, self.next_number + len(jobs))
        self.next_number = numbers.stop
        if not self._has_origins:
            return self._chunk(numbers, numbers, jobs)
        return self._chunk(numbers, as_numbers([origin for origin, _ in jobs]), [job for _, job in jobs])

    def _room_to_island(self) -> int:
        """Drop jobs that are finished already; return how many unfinished ones follow, 0 for none yet."""
        start, end = self._frontier.gap(self.next_number)
        while self.next_number < start:
            dropped = len(self._source.take(start - self.next_number, _STOCK * self._pace.length))
            if not dropped:
                return 0
            self.next_number += dropped
        return self._size if end is None else end - start

    def _is_worth_taking(self, most: int) -> bool:
        """Tell whether the jobs in stock are enough for a chunk, or have waited long enough for others."""
        stock, now = len(self._source), time.monotonic()
        if stock >= most or self._source.has_ended:
            self._waits_since = 0.0
            return stock > 0
        if not self._waits_since:
            self._waits_since = now
            self._source.want(_STOCK * self._pace.length)
        elif stock and now - self._waits_since >= PATIENCE:
            self._waits_since = 0.0
            return True
        self._look_again()
        return False

    def _chunk(self, numbers: Sequence[int], origins: Sequence[int], jobs: list[Any]) -> Chunk:
        body = self._codec.encode(jobs)
        self._pace.encoded(len(jobs), len(body))
        feed, run, name = self._prefix
        return Chunk(chunk_id(feed, run, next(self._counter), name, numbers), numbers, origins, body)
