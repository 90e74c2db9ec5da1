"""Which jobs are finished: a contiguous beginning, and islands beyond it."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from itertools import pairwise


class Frontier:
    """A set of job numbers, kept as intervals; jobs are counted from 0 in the order the iterator yields them.

    It holds as many intervals as there are gaps, and so no more than there are jobs out at a time.
    """

    def __init__(self, end: int = 0, islands: Iterable[tuple[int, int]] = ()) -> None:
        """Begin with the jobs before `end` and those of the islands, each from its first to before its last.

        Raises ValueError for islands that are empty, out of order, or that touch each other or the beginning.
        """
        bounds = [end, *(bound for island in islands for bound in island)]
        if end < 0 or any(left >= right for left, right in pairwise(bounds)):
            raise ValueError("islands that are empty or out of order")
        self.end = end
        self._starts = bounds[1::2]
        self._ends = bounds[2::2]

    @property
    def islands(self) -> list[tuple[int, int]]:
        """The intervals beyond the beginning, in order."""
        return list(zip(self._starts, self._ends, strict=True))

    def __len__(self) -> int:
        return self.end + sum(self._ends) - sum(self._starts)

    def __contains__(self, number: int) -> bool:
        if number < self.end:
            return number >= 0
        at = bisect_right(self._starts, number) - 1
        return at >= 0 and number < self._ends[at]

    def add(self, start: int, end: int) -> int:
        """Add the jobs from `start` to before `end`; return how many of them are new."""
        start = max(start, self.end)
        if start >= end:
            return 0
        # The islands that the new interval meets or touches become one with it.
        first, last = bisect_left(self._ends, start), bisect_right(self._starts, end)
        known = sum(
            min(end, b) - max(start, a)
            for a, b in zip(self._starts[first:last], self._ends[first:last], strict=True)
        )
        new = end - start - known
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        if start == self.end:
            self.end = end
            del self._starts[:last], self._ends[:last]
        else:
            self._starts[first:last], self._ends[first:last] = [start], [end]
        return new

    def gap(self, number: int) -> tuple[int, int | None]:
        """Return the next unfinished job from `number` on, and before which one the unfinished ones end.

        That is None where no island follows.
        """
        number = max(number, self.end)
        at = bisect_right(self._starts, number) - 1
        if at >= 0 and number < self._ends[at]:
            number = self._ends[at]
        at = bisect_right(self._starts, number)
        return number, self._starts[at] if at < len(self._starts) else None
