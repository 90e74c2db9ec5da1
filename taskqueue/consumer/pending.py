"""Where workitems wait that were delivered and that no worker has been given yet."""

import heapq
from collections import deque
from collections.abc import Callable
from typing import Final

from taskqueue.broker.loop import EventLoop
from taskqueue.consumer.assignment import Assignment
from taskqueue.consumer.link import WorkerLink
from taskqueue.consumer.prefetch import Prefetch
from taskqueue.consumer.suspects import Writer
from taskqueue.consumer.workers import Workers
from taskqueue.messages.forwarding import is_worn

_PATIENCE: Final = 1.0  # seconds that workitems of several queues wait for a worker of ours
_LARGE: Final = 1024 * 1024  # bytes of a body for which there may be no memory when it is copied


class PendingQueue:
    """Gives what waits to the workers that have room, the idlest first.

    Each queue may deliver as much as all workers together can begin. So where there are several queues,
    there may be more here than is begun soon: after a second without room it is crowded, which the owner
    hears, to give back what waits and take nothing more until there is room.
    """

    def __init__(
        self,
        loop: EventLoop,
        workers: Workers,
        prefetch: Prefetch,
        handling: Writer,
        on_crowded: Callable[[], None],
    ) -> None:
        """Begin empty; `prefetch` tells how many workitems a worker is given ahead."""
        self._loop = loop
        self._handling = handling
        self._workers = workers
        self._prefetch = prefetch
        self._on_crowded = on_crowded
        self._waiting: deque[Assignment] = deque()
        self._given = 0  # how many workers were given something so far
        self._is_looking = False
        self._assigns = False  # whether that is done at the end of the loop's round
        self.is_crowded = False

    def __len__(self) -> int:
        return len(self._waiting)

    def enter(self, assignment: Assignment) -> None:
        """Let a workitem wait, if it must."""
        self._waiting.append(assignment)
        self.assign_soon()

    def enter_first(self, assignment: Assignment) -> None:
        """Let a workitem wait that has waited before."""
        self._waiting.appendleft(assignment)

    def remove(self, assignment: Assignment) -> bool:
        """Take a workitem out; tell whether it was here."""
        if assignment not in self._waiting:
            return False
        self._waiting.remove(assignment)
        return True

    def take_out(self, wanted: Callable[[Assignment], bool] = lambda _: True) -> list[Assignment]:
        """Take all out, or those that are wanted out; return them in their order."""
        waiting, self._waiting = self._waiting, deque()
        taken: list[Assignment] = []
        for each in waiting:
            (taken if wanted(each) else self._waiting).append(each)
        return taken

    def assign_soon(self) -> None:
        """Give what waits to the workers that have room when the loop's round ends, all in one go."""
        if self._waiting and not self._assigns:
            self._assigns = True
            self._loop.at_round_end(self.assign)

    def assign(self) -> None:
        """Give what waits to the workers that have room, one by one to the idlest."""
        self._assigns = False
        if not self._waiting and not self.is_crowded:
            return
        prefetch = self._prefetch.ahead
        links = self._workers.with_room(prefetch)
        idlest = [(len(link.tasks), place) for place, link in enumerate(links)]
        heapq.heapify(idlest)
        while self._waiting and idlest:
            number, place = idlest[0]
            link = links[place]
            if self._give(link, self._waiting[0]):
                self._waiting.popleft()
                self._given += 1
            if link.has_room(prefetch):
                heapq.heapreplace(idlest, (number + 1, place))
            else:
                heapq.heappop(idlest)
        if self._waiting:
            self._look_later()
        elif idlest:
            self.is_crowded = False

    def _give(self, link: WorkerLink, assignment: Assignment) -> bool:
        if len(assignment.body) < _LARGE:
            return link.give(assignment)
        self._handling.begin(assignment.delivery.properties, assignment.body)
        is_given = link.give(assignment)
        self._handling.end()
        return is_given

    def _look_later(self) -> None:
        if not self._is_looking and not self.is_crowded:
            self._is_looking, given = True, self._given
            self._loop.call_later(_PATIENCE, lambda: self._look(given))

    def _look(self, given: int) -> None:
        self._is_looking = False
        if not self._waiting:
            return
        if self._given != given:
            self._look_later()
            return
        self.is_crowded = True
        self._on_crowded()


def may_be_given_back(assignment: Assignment) -> bool:
    """Tell whether the broker takes a workitem back: one with a lease, or that came often, it would not."""
    if assignment.lease is not None:
        return False
    return not is_worn(assignment.properties)
