"""How a feed is to run."""

from dataclasses import dataclass


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
