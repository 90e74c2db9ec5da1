"""Histograms of run and wait times: their sums, and percentiles as far as the buckets tell them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self

from taskqueue.monitor.record import BUCKETS

_SIZE: Final = len(BUCKETS) + 1


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts by the upper bounds of BUCKETS; the last has no bound."""

    counts: Sequence[int]

    @classmethod
    def sum(cls, many: Iterable[Sequence[int]]) -> Self:
        """Return the sum of histograms; () has no counts."""
        total = [0] * _SIZE
        for counts in many:
            for place, count in enumerate(counts[:_SIZE]):
                total[place] += count
        return cls(tuple(total))

    @property
    def count(self) -> int:
        """The number of times."""
        return sum(self.counts)

    def percentile(self, part: float) -> float | None:
        """Return the time below which a part (0 to 1) of the times is, in seconds; None without any.

        Between the bounds of a bucket it is interpolated. Beyond the last bound it is that bound.
        """
        wanted, below = part * self.count, 0
        if not self.count:
            return None
        for place, bound in enumerate(BUCKETS):
            count = self.counts[place]
            if count and below + count >= wanted:
                least = BUCKETS[place - 1] if place else 0.0
                return least + (bound - least) * (wanted - below) / count
            below += count
        return BUCKETS[-1]
