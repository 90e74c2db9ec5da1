"""How a feed is to run, and how far it is."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FeedProgress:
    """A feed at one moment."""

    state: str  # connecting, feeding, draining, or how it ended
    done: int  # jobs, all starts together, those that failed for good included
    failed: int  # jobs that are recorded as failed
    total: int | None  # jobs in all, where that is known
    out: int  # jobs that workers have, or could have
    workers: int  # heard of lately
    chunk: int  # jobs
    elapsed: float  # seconds since this start
    before: int  # jobs that were done at this start

    @property
    def rate(self) -> float:
        """Jobs a second since this start."""
        return (self.done - self.before) / self.elapsed if self.elapsed else 0.0


Watch = Callable[[FeedProgress], None]


@dataclass(frozen=True, slots=True)
class FeedOptions:
    """How a feed is to run."""

    worker_type: str
    size: int = 10_000  # jobs out at a time
    chunk_max: int = 10_000  # jobs in a chunk
    retries: int = 0
    max_failures: int = 0  # 0: any number
    total: int | None = None
    workers: int = 0  # expected; 0: unknown
