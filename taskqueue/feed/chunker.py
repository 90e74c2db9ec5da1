"""Makes chunks: of jobs that must be run again, of new ones from the iterator, of halves of others."""

import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, Final

from taskqueue.feed.chunks import Chunk, as_numbers, chunk_id
from taskqueue.feed.codec import Codec
from taskqueue.feed.frontier import Frontier
from taskqueue.feed.outbox import Outbox
from taskqueue.feed.pace import Pace
from taskqueue.feed.source import Source

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
