"""A roll: the workers of groups are replaced one after the other, so that one at most is missing."""

import time
from collections import deque
from collections.abc import Iterable
from typing import Any, Final

from taskqueue.process import children
from taskqueue.process.children import Slot
from taskqueue.process.logs import Log
from taskqueue.supervisor.group import Group
from taskqueue.texts import counted

#: Seconds that a new worker may take to become ready.
READY_TIMEOUT: Final = 60.0


class Roll:
    """Replaces the workers of groups; it stops at the first new one that does not become ready.

    A worker finishes its workitem, however long that takes. One that has ended by itself counts as replaced.
    """

    def __init__(self, name: str, groups: Iterable[Group], end_timeout: float) -> None:
        """Plan the roll; `advance` begins it.

        Args:
            name: of the command that wants it.
            groups: the groups, whose workers are replaced in this order.
            end_timeout: seconds that a worker without a workitem may take to end.
        """
        self.name = name
        self.failure = ""  # why it has stopped
        self.done = 0  # workers that are replaced
        self._steps = deque((group, slot) for group in groups for slot in group.workers)
        self._end_timeout = end_timeout
        self._before: float | None = None  # when the old process was started (monotonic); None: no step yet
        self._deadline: float | None = None  # monotonic; when the old one must end, or the new one be ready
        self._awaited = 0  # the process that the deadline is for
        self._log = Log("supervisor")

    @property
    def is_over(self) -> bool:
        """Whether it has replaced all workers, or has stopped."""
        return bool(self.failure) or not self._steps

    def described(self) -> dict[str, Any]:
        """Return how far it is, for administrators."""
        total = self.done + len(self._steps)
        group = self._steps[0][0].name if self._steps else ""  # whose workers are being replaced
        return {
            "name": self.name, "group": group, "done": self.done, "total": total, "failure": self.failure
        }  # fmt: skip

    def due(self) -> float | None:
        """Return when `advance` must be called at the latest (monotonic); None for no time."""
        return self._deadline

    def advance(self) -> None:
        """Do what can be done now: replace the next worker once the last one's successor is ready."""
        was_over = self.is_over
        while not self.is_over and self._is_step_done():
            self._steps.popleft()
            self._before = self._deadline = None
        if self.failure:
            self._deadline = None
            self._log.error("the roll has stopped: %s", self.failure)
        elif self.is_over and not was_over:
            self._log.info("the roll has replaced %s", counted(self.done, "worker"))

    def _is_step_done(self) -> bool:
        group, slot = self._steps[0]
        if group.is_draining or slot not in group.workers:
            return True  # a reload has replaced all of the group
        if self._before is None:
            self._before = slot.started
            group.retire(slot)
        if slot.started == self._before:
            self._watch_end(slot)
            return False
        if slot.has_begun:
            self.done += 1
            return True
        self._watch_start(slot)
        return False

    def _watch_end(self, slot: Slot) -> None:
        """Kill an old process that has no workitem and does not end."""
        if slot.pid and slot.is_retiring and self._is_late(slot.pid, self._end_timeout):
            self._log.error("killing worker %s, which did not end by itself", slot.name)
            slot.is_dismissed = True
            children.kill_group(slot.pid)

    def _watch_start(self, slot: Slot) -> None:
        """Stop if the new process has ended, or takes too long."""
        if not slot.pid:
            self.failure = f"the new worker {slot.name} ended before it was ready"
        elif self._is_late(slot.pid, READY_TIMEOUT):
            self.failure = f"the new worker {slot.name} is not ready after {READY_TIMEOUT:.0f} s"

    def _is_late(self, pid: int, timeout: float) -> bool:
        """Tell whether a process has used up its time; the first call begins to count."""
        if self._awaited != pid or self._deadline is None:
            self._awaited, self._deadline = pid, time.monotonic() + timeout
        return time.monotonic() >= self._deadline
