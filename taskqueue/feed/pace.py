"""How many jobs make a chunk, and how many chunks may be out."""

import time
from typing import Final

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
