"""The order in which the workers of a type with lanes take waiting workitems: priority, then fair share."""

import heapq
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from taskqueue.config import GroupSettings
from taskqueue.consumer.in_flight import Assignment
from taskqueue.messages.lanes import HIGHEST_PRIORITY, priority_of, tenant_of

_MOST_STALE: Final = 1000  # entries of the heap whose assignments have left


class FairQueue:
    """Waiting assignments: the highest priority first, tenants of one priority by deficit round robin.

    In each round a tenant may take as many as its weight (Shreedhar and Varghese, "Efficient Fair Queuing
    Using Deficit Round-Robin", 1996; every workitem counts as one). An assignment that has waited longer than
    `max_wait` is taken next, but no two in succession. The wait of a lane's first workitem goes on when it is
    given back to the broker. Only tenants with waiting assignments take memory.
    """

    def __init__(
        self, weights: Mapping[str, int], max_wait: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin empty.

        weights -- by tenant; others have 1
        max_wait -- seconds; 0 for no limit
        clock -- the clock of `Assignment.delivered`
        """
        self._weights, self._max_wait, self._clock = weights, max_wait, clock
        self._levels = [_Level() for _ in range(HIGHEST_PRIORITY + 1)]
        self._places: dict[int, _Place] = {}  # by the assignment's number
        self._oldest: list[tuple[float, int]] = []  # a heap of times and numbers; with some that have left
        self._waits: dict[str, float] = {}  # by queue: since when the first that was given back waits
        self._was_overdue = False

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Assignment]:
        for level in reversed(self._levels):
            for tenant in level.ring:
                yield from tenant.waiting

    def __contains__(self, assignment: Assignment) -> bool:
        return assignment.number in self._places

    def append(self, assignment: Assignment) -> None:
        """Add an assignment behind those of its tenant and priority."""
        since = assignment.delivered
        if self._waits:
            since = self._waits.pop(assignment.delivery.queue, since)
        level, tenant = self._place(assignment, since)
        if not tenant.waiting:
            level.ring.append(tenant)
        tenant.waiting.append(assignment)

    def appendleft(self, assignment: Assignment) -> None:
        """Return an assignment that was taken: it is its tenant's next."""
        level, tenant = self._place(assignment, assignment.delivered)
        if not tenant.waiting:
            level.ring.appendleft(tenant)
        tenant.waiting.appendleft(assignment)
        tenant.credit = min(tenant.credit + 1, tenant.weight)

    def popleft(self) -> Assignment:
        """Remove and return the next assignment; there must be one."""
        overdue = None if self._was_overdue or not self._max_wait else self._overdue()
        self._was_overdue = overdue is not None
        if overdue is not None:
            self.remove(overdue)
            return overdue
        level = next(level for level in reversed(self._levels) if level.ring)
        assignment = level.take()
        del self._places[assignment.number]
        return assignment

    def remove(self, assignment: Assignment) -> None:
        """Remove an assignment that waits here."""
        level, tenant, _ = self._places.pop(assignment.number)
        tenant.waiting.remove(assignment)
        if not tenant.waiting:
            level.ring.remove(tenant)
            level.forget(tenant)

    def clear(self) -> None:
        """Remove all; the first of each queue that comes again has waited as long as these."""
        for since, number in self._oldest:
            if number in self._places:
                queue = self._places[number][2].delivery.queue
                self._waits[queue] = min(since, self._waits.get(queue, since))
        self._oldest.clear()
        self._places.clear()
        self._levels = [_Level() for _ in self._levels]

    def _place(self, assignment: Assignment, since: float) -> "tuple[_Level, _Tenant]":
        level = self._levels[priority_of(assignment.properties)]
        tenant = level.tenant(tenant_of(assignment.properties), self._weights)
        self._places[assignment.number] = level, tenant, assignment
        if self._max_wait:
            if len(self._oldest) > 2 * len(self._places) + _MOST_STALE:
                self._oldest = [each for each in self._oldest if each[1] in self._places]
                heapq.heapify(self._oldest)
            heapq.heappush(self._oldest, (since, assignment.number))
        return level, tenant

    def _overdue(self) -> Assignment | None:
        oldest = self._oldest
        while oldest and oldest[0][1] not in self._places:
            heapq.heappop(oldest)
        is_overdue = oldest and self._clock() - oldest[0][0] > self._max_wait
        return self._places[oldest[0][1]][2] if is_overdue else None


def waiting_for(group: GroupSettings) -> deque[Assignment] | FairQueue:
    """Return an empty queue for what waits in a group: without lanes, in the order of deliveries."""
    return FairQueue(dict(group.weights), group.max_wait) if group.lanes else deque()


class _Tenant:
    """The waiting assignments of one tenant and one priority."""

    __slots__ = ("credit", "name", "waiting", "weight")

    def __init__(self, name: str, weight: int) -> None:
        self.name, self.weight = name, weight
        self.credit = weight  # how many more it may take in this round
        self.waiting: deque[Assignment] = deque()


_Place = tuple["_Level", _Tenant, Assignment]


class _Level:
    """The tenants of one priority, those with waiting assignments in a ring."""

    def __init__(self) -> None:
        self.ring: deque[_Tenant] = deque()
        self._by_name: dict[str, _Tenant] = {}

    def tenant(self, name: str, weights: Mapping[str, int]) -> _Tenant:
        """Return a tenant, which may be new."""
        found = self._by_name.get(name)
        if found is None:
            found = self._by_name[name] = _Tenant(name, weights.get(name, 1))
        return found

    def forget(self, tenant: _Tenant) -> None:
        """Forget a tenant without waiting assignments."""
        del self._by_name[tenant.name]

    def take(self) -> Assignment:
        """Remove and return the next assignment; the ring is not empty."""
        tenant = self.ring[0]
        assignment = tenant.waiting.popleft()
        tenant.credit -= 1
        if not tenant.waiting:
            self.ring.popleft()
            self.forget(tenant)
        elif tenant.credit <= 0:
            tenant.credit += tenant.weight
            self.ring.rotate(-1)
        return assignment
