"""The agenda: a heap of what is due, so that ten thousand schedules cost nothing while none is."""

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Agenda(Generic[T]):
    """Items, each with the time at which it is due; a later time replaces an earlier one."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._numbers: dict[T, int] = {}  # the valid entry of each item
        self._count = 0

    def __len__(self) -> int:
        return len(self._numbers)

    def put(self, item: T, due: float) -> None:
        """Set the time of an item."""
        self._count += 1
        self._numbers[item] = self._count
        heapq.heappush(self._heap, (due, self._count, item))

    def drop(self, item: T) -> None:
        """Remove an item, if it is there."""
        self._numbers.pop(item, None)

    def next_due(self) -> float | None:
        """Return the first time; None if there is none."""
        while self._heap and self._numbers.get(self._heap[0][2]) != self._heap[0][1]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def take(self, now: float) -> T | None:
        """Remove and return the first item that is due at `now`; None if there is none."""
        due = self.next_due()
        if due is None or due > now:
            return None
        item = heapq.heappop(self._heap)[2]
        del self._numbers[item]
        return item

    def clear(self) -> None:
        """Remove all items."""
        self._heap.clear()
        self._numbers.clear()
