"""The pending queue: delivered workitems that have not been given to a worker yet."""

import heapq
from collections import deque
from collections.abc import Callable
from typing import Final

from taskqueue.broker.loop import EventLoop
from taskqueue.consumer.fair import FairQueue
from taskqueue.consumer.in_flight import Assignment
from taskqueue.consumer.link import WorkerLink
from taskqueue.consumer.prefetch import Prefetch
from taskqueue.consumer.suspects import Writer
from taskqueue.consumer.workers import Workers
from taskqueue.messages.forwarding import is_near_delivery_limit
from taskqueue.messages.lanes import HIGHEST_PRIORITY, priority_of

_CONGESTION_DELAY: Final = 1.0  # seconds that workitems of several queues wait here for a worker
_LARGE: Final = 1024 * 1024  # bytes; copying a larger body may exhaust the memory


class PendingQueue:
    """Gives workitems to the workers that have room, the worker with the fewest tasks first.

    Each queue may deliver as many workitems as all workers together can begin. With several queues, more
    workitems may wait here than can begin soon. After a second without room the pending queue is congested.
    It calls `on_congested`; the owner then gives waiting workitems back, and stops receiving until there is
    room.
    """

    def __init__(
        self,
        loop: EventLoop,
        workers: Workers,
        prefetch: Prefetch,
        handling: Writer,
        *,
        waiting: deque[Assignment] | FairQueue,
        is_held: Callable[[], bool] = lambda: False,
        reclaim: Callable[[], None] = lambda: None,
        on_congested: Callable[[], None],
    ) -> None:
        """Begin empty.

        prefetch -- `prefetch.ahead` is the number of workitems that a worker may hold
        waiting -- the order: that of the deliveries, or that of priorities and tenants
        is_held -- whether workitems on their way to here may come first
        reclaim -- returns here the workitems that no worker has begun
        """
        self._loop = loop
        self._handling = handling
        self._workers = workers
        self._prefetch = prefetch
        self._on_congested = on_congested
        self._waiting = waiting
        self._is_held, self._reclaim = is_held, reclaim
        self._lowest_given = HIGHEST_PRIORITY  # of the workitems given since the last `reclaim`
        self._is_urgent = False  # whether one that waits has a higher priority
        self._given = 0  # number of workitems given to workers so far
        self._is_check_due = False
        self._assigns = False  # whether `assign` runs at the end of the loop's round
        self.is_congested = False

    def __len__(self) -> int:
        return len(self._waiting)

    def enter(self, assignment: Assignment) -> None:
        """Append a workitem; it is assigned at the end of the loop's round if a worker has room."""
        self._waiting.append(assignment)
        if type(self._waiting) is FairQueue and priority_of(assignment.properties) > self._lowest_given:
            self._is_urgent = True
        self.assign_soon()

    def enter_first(self, assignment: Assignment) -> None:
        """Put a workitem that has waited before at the front."""
        self._waiting.appendleft(assignment)

    def remove(self, assignment: Assignment) -> bool:
        """Remove a workitem; return whether it was here."""
        if assignment not in self._waiting:
            return False
        self._waiting.remove(assignment)
        return True

    def take_out(self, wanted: Callable[[Assignment], bool] = lambda _: True) -> list[Assignment]:
        """Remove all workitems, or those that `wanted` selects; return them in order."""
        waiting = tuple(self._waiting)
        self._waiting.clear()
        taken: list[Assignment] = []
        for each in waiting:
            (taken if wanted(each) else self._waiting).append(each)
        return taken

    def assign_soon(self) -> None:
        """Assign waiting workitems at the end of the loop's round, all in one go."""
        if self._waiting and not self._assigns:
            self._assigns = True
            self._loop.at_round_end(self.assign)

    def assign(self) -> None:
        """Give waiting workitems to the workers that have room, each to the worker with the fewest tasks."""
        self._assigns = False
        if (not self._waiting and not self.is_congested) or self._is_held():
            return
        if self._is_urgent:
            self._is_urgent, self._lowest_given = False, HIGHEST_PRIORITY
            self._reclaim()
        prefetch = self._prefetch.ahead
        links = self._workers.with_room(prefetch)
        idlest = [(len(link.tasks), place) for place, link in enumerate(links)]
        heapq.heapify(idlest)
        while self._waiting and idlest:
            number, place = idlest[0]
            link = links[place]
            assignment = self._waiting.popleft()
            if self._give(link, assignment):
                self._given += 1
                if type(self._waiting) is FairQueue:
                    self._lowest_given = min(self._lowest_given, priority_of(assignment.properties))
            else:
                self._waiting.appendleft(assignment)
            if link.has_room(prefetch):
                heapq.heapreplace(idlest, (number + 1, place))
            else:
                heapq.heappop(idlest)
        if self._waiting:
            self._check_later()
        elif idlest:
            self.is_congested = False

    def _give(self, link: WorkerLink, assignment: Assignment) -> bool:
        if len(assignment.body) < _LARGE:
            return link.give(assignment)
        self._handling.begin(assignment.delivery.properties, assignment.body)
        is_given = link.give(assignment)
        self._handling.end()
        return is_given

    def _check_later(self) -> None:
        if not self._is_check_due and not self.is_congested:
            self._is_check_due, given = True, self._given
            self._loop.call_later(_CONGESTION_DELAY, lambda: self._check(given))

    def _check(self, given: int) -> None:
        self._is_check_due = False
        if not self._waiting:
            return
        if self._given != given or self._is_held():
            self._check_later()
            return
        self.is_congested = True
        self._on_congested()


def may_be_given_back(assignment: Assignment) -> bool:
    """Return whether a workitem can be given back: not if it has a lease or was delivered often."""
    if assignment.lease is not None:
        return False
    return not is_near_delivery_limit(assignment.properties)
