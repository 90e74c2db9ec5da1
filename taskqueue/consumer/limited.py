"""The pending queue of a group with limits: its workitems wait for permits first."""

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from taskqueue.broker.loop import EventLoop
from taskqueue.config import GroupSettings
from taskqueue.consumer.fair import FairQueue, waiting_for
from taskqueue.consumer.in_flight import Assignment
from taskqueue.consumer.link import WorkerLink
from taskqueue.consumer.pending import PendingQueue
from taskqueue.consumer.permits import Keys, Permits
from taskqueue.consumer.prefetch import Prefetch
from taskqueue.consumer.suspects import Writer
from taskqueue.consumer.workers import Workers
from taskqueue.limits.definition import keys_of


class LimitedQueue(PendingQueue):
    """Keeps workitems back until there is a permit for them.

    Those that need the same keys form a line, in the order of the group. A permit is for a line: its first
    workitem takes the permit. No more permits are asked for than the workers can hold workitems, and the gate
    grants no more at once. A permit ends with the run, or unused if no worker begins it.
    """

    def __init__(
        self,
        loop: EventLoop,
        workers: Workers,
        prefetch: Prefetch,
        handling: Writer,
        *,
        group: GroupSettings,
        permits: Permits,
        **options: Any,
    ) -> None:
        """Begin empty.

        group -- says which limits there are, and the order of those that wait
        permits -- asks the gate for them, and calls this queue
        options -- of a PendingQueue
        """
        super().__init__(loop, workers, prefetch, handling, waiting=waiting_for(group), **options)
        self._group = group
        self._lines: dict[Keys, _Line] = {}
        self._places: dict[int, _Line] = {}  # by the number of each assignment that waits for a permit
        self._used: dict[int, tuple[Assignment, int]] = {}  # permits by the number of the assignment
        self._changed: dict[_Line, None] = {}  # lines that may need other asks
        self._crowded: dict[_Line, None] = {}  # lines that wait until more permits can be asked for
        self._capacity = 0
        self.permits = permits
        permits.listener = self

    def __len__(self) -> int:
        return super().__len__() + len(self._places)

    @property
    def waits(self) -> str:
        """The number of workitems that wait for each limit, in words; "" for none."""
        number = len(self._places)
        names = " and ".join(use.limit for use in self._group.limits)
        return f"{number} {'waits' if number == 1 else 'wait'} for limit {names}" if number else ""

    # --- the pending queue ---

    def enter(self, assignment: Assignment) -> None:
        """Append a workitem to its line."""
        self._line_of(assignment).waiting.append(assignment)

    def enter_first(self, assignment: Assignment) -> None:
        """Put a workitem that has waited before at the front of its line."""
        self._line_of(assignment).waiting.appendleft(assignment)

    def remove(self, assignment: Assignment) -> bool:
        """Remove a workitem; return whether it was here."""
        line = self._places.pop(assignment.number, None)
        if line is not None:
            line.waiting.remove(assignment)
            self._change(line)
            return True
        is_here = super().remove(assignment)
        if is_here:
            self.over(assignment)
        return is_here

    def take_out(self, wanted: Callable[[Assignment], bool] = lambda _: True) -> list[Assignment]:
        """Remove all workitems, or those that `wanted` selects; return them in order."""
        taken = super().take_out(wanted)
        for each in taken:
            self.over(each)
        for line in list(self._lines.values()):
            chosen = [each for each in line.waiting if wanted(each)]
            for each in chosen:
                self.remove(each)
            taken += chosen
        return taken

    def assign(self) -> None:
        """Give workitems that have a permit to workers, and ask for permits as far as there is room."""
        if self.permits.is_void:
            self.permits_void()
        super().assign()
        capacity = self._workers.ready * self._prefetch.ahead
        if capacity != self._capacity:
            self._capacity = capacity
            self.permits.set_capacity(capacity)
            self._return_surplus()
            self._changed |= dict.fromkeys(self._lines.values())
        changed, self._changed = self._changed, {}
        for line in changed:
            self._ask(line)
        while self._crowded and self.permits.may_ask:
            line = next(iter(self._crowded))
            del self._crowded[line]
            self._ask(line)

    def assign_soon(self) -> None:
        """Assign, and ask, at the end of the loop's round."""
        if not self._assigns:
            self._assigns = True
            self._loop.at_round_end(self.assign)

    def _line_of(self, assignment: Assignment) -> "_Line":
        keys = keys_of(self._group.limits, assignment.properties)
        line = self._lines.get(keys)
        if line is None:
            line = self._lines[keys] = _Line(keys, waiting_for(self._group))
        self._places[assignment.number] = line
        self._change(line)
        return line

    def _change(self, line: "_Line") -> None:
        self._changed[line] = None
        self.assign_soon()

    def _return_surplus(self) -> None:
        """Give back permits that no worker can use soon: another consumer can."""
        surplus = len(self._used) - self._capacity
        for assignment in tuple(self._waiting)[::-1][: max(0, surplus)]:
            self.remove(assignment)
            self.enter_first(assignment)

    def _ask(self, line: "_Line") -> None:
        """Have as many asks as workitems wait, up to what the workers can hold."""
        wanted = min(len(line.waiting), self._capacity)
        while len(line.asks) < wanted and self.permits.may_ask:
            line.asks.append(self.permits.ask(line.keys))
        if len(line.asks) < wanted:
            self._crowded[line] = None
        while len(line.asks) > len(line.waiting):
            self.permits.end(line.asks.pop())
        self.permits.tell_waiting(line.keys)
        if not line.asks and not line.waiting:
            self._lines.pop(line.keys, None)
            self._crowded.pop(line, None)

    # --- runs ---

    def begun(self, assignment: Assignment, link: WorkerLink) -> None:
        """Take note that a worker can begin a workitem."""
        if assignment.number in self._used:
            number = self._used[assignment.number][1]
            self.permits.begun(number, assignment.id, partial(link.has_taken, assignment))

    def over(self, assignment: Assignment) -> None:
        """Give back the permit of a workitem that no worker has, or has any more."""
        used = self._used.pop(assignment.number, None)
        if used is not None:
            self.permits.end(used[1])

    def all_over(self, assignments: Iterable[Assignment]) -> None:
        """Give back the permits of workitems that were given to a worker that does not perform them."""
        for each in assignments:
            self.over(each)

    # --- permits ---

    def permit_granted(self, number: int, keys: Keys) -> None:
        """Let the first workitem of a line go to a worker."""
        line = self._lines.get(keys)
        if line is None or number not in line.asks:
            self.permits.end(number)
            return
        line.asks.remove(number)
        self._change(line)
        if not line.waiting:
            self.permits.end(number)
            return
        assignment = line.waiting.popleft()
        del self._places[assignment.number]
        self._used[assignment.number] = assignment, number
        super().enter(assignment)

    def permits_void(self) -> None:
        """Have the workers killed that run limited workitems; these return to their lines."""
        self._reclaim()
        for assignment in super().take_out():
            self.over(assignment)
            self.enter_first(assignment)
        for assignment, number in self._used.values():
            self._workers.dismiss(assignment)
            self.permits.end(number)
        self._used.clear()

    def waiting_for(self, keys: Keys) -> int:
        """Return the number of workitems that wait for permits of these keys."""
        line = self._lines.get(keys)
        return len(line.waiting) if line is not None else 0


def pending_queue(
    loop: EventLoop,
    workers: Workers,
    prefetch: Prefetch,
    handling: Writer,
    *,
    group: GroupSettings,
    permits: Permits | None,
    **options: Any,
) -> tuple[PendingQueue, LimitedQueue | None]:
    """Return the pending queue of a group; if it has limits, twice. See PendingQueue."""
    if permits is None:
        order = waiting_for(group)
        return PendingQueue(loop, workers, prefetch, handling, waiting=order, **options), None
    made = LimitedQueue(loop, workers, prefetch, handling, group=group, permits=permits, **options)
    return made, made


class _Line:
    """Workitems that need the same keys, and the asks for permits of them."""

    __slots__ = ("asks", "keys", "waiting")

    def __init__(self, keys: Keys, waiting: deque[Assignment] | FairQueue) -> None:
        self.keys, self.waiting = keys, waiting
        self.asks: list[int] = []  # their numbers
