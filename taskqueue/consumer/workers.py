"""A consumer's workers: their links, their room for workitems, their dismissal."""

import time
from typing import Any, Final

from taskqueue.broker.loop import EventLoop
from taskqueue.config import GroupSettings
from taskqueue.consumer.control import ControlMessage, Reports
from taskqueue.consumer.in_flight import Assignment
from taskqueue.consumer.link import WorkerLink
from taskqueue.consumer.listeners import WorkerListener
from taskqueue.process.logs import Log
from taskqueue.process.usage import memory_of
from taskqueue.texts import shorten

_LONGEST_ID: Final = 255  # characters of a workitem's id that administrators see
_LONGEST_CAUSE: Final = 200  # characters
_LONG: Final = 0.05  # seconds in one workitem after which a worker is given no further one


class Workers:
    """The workers that the supervisor has handed to a consumer."""

    def __init__(
        self,
        loop: EventLoop,
        reports: Reports,
        log: Log,
        group: GroupSettings,
        listener: WorkerListener,
    ) -> None:
        """Begin without workers; `listener` receives the events of all of them."""
        self._loop = loop
        self._reports = reports
        self._log = log
        self._group = group
        self._listener = listener
        self._links: dict[int, WorkerLink] = {}  # by the worker's pid
        self.wanted = group.workers  # how many there should be
        self.crashes = 0  # workers that ended unexpectedly
        self.last_crash = ""  # the cause of the last of these ends

    def add(self, message: ControlMessage) -> None:
        """Take over the files of a new worker."""
        pid = message.content["pid"]
        self._links[pid] = WorkerLink(
            self._loop,
            pid,
            message.content["name"],
            message.files,
            reports=self._reports,
            log=self._log,
            group=self._group,
            listener=self._listener,
        )

    def granted(self, pid: int) -> None:
        """Start to use a worker: the services that it has named are granted."""
        if pid in self._links:
            self._links[pid].granted()

    def remove(self, pid: int) -> WorkerLink | None:
        """Read a dead worker's remaining frames and output; return its link with its open assignments."""
        link = self._links.pop(pid, None)
        if link is not None:
            link.close()
        return link

    def count_crash(self, cause: str) -> None:
        """Count a worker that ended unexpectedly."""
        self.crashes += 1
        self.last_crash = shorten(cause, _LONGEST_CAUSE)

    def described(self) -> str:
        """Return NUMBER:PID:RSS of each worker, separated by spaces; RSS is in bytes."""
        return " ".join(
            f"{link.name.rpartition('/')[2]}:{pid}:{memory_of(pid)}" for pid, link in self._links.items()
        )

    def activities(self) -> list[dict[str, Any]]:
        """Return what each worker does: its pid, and of its workitem the id, the type and the start."""
        return [{"pid": pid, **_activity(link)} for pid, link in self._links.items()]

    def retire(self, pid: int) -> list[Assignment]:
        """Have a worker end after its workitem; return the assignments that it has not begun."""
        return self._links[pid].retire() if pid in self._links else []

    def dismiss(self, assignment: Assignment) -> bool:
        """Have the worker killed that is performing an assignment; return whether there is one."""
        for link in self._links.values():
            if link.tasks and link.tasks[0] is assignment:
                link.dismiss()
                return True
        return False

    @property
    def is_gone(self) -> bool:
        """Whether there is no worker any more."""
        return not self._links

    @property
    def ready(self) -> int:
        """The number of workers that can take work, now or after their current tasks."""
        return sum(link.is_ready for link in self._links.values())

    def with_room(self, prefetch: int) -> list[WorkerLink]:
        """Return the workers that can be given a workitem, if each may hold `prefetch` of them.

        A worker that has been in one workitem for longer than 50 ms gets no other: when it ends is unknown.
        """
        late = time.monotonic() - _LONG
        few = [link for link in self._links.values() if len(link.tasks) < prefetch]
        return [link for link in few if link.has_room(prefetch) and (not link.tasks or link.begun > late)]

    def take_back(self, after: float = _LONG) -> list[Assignment]:
        """Take back the workitems that wait behind one that has been running for `after` seconds."""
        now = time.monotonic()
        late = [each for each in self._links.values() if len(each.tasks) > 1 and now - each.begun >= after]
        return [assignment for link in late for assignment in link.take_back()]

    @property
    def is_ahead(self) -> bool:
        """Whether any worker holds workitems behind the one that it performs."""
        return any(len(link.tasks) > 1 for link in self._links.values())

    def busy_for(self) -> float:
        """Return the seconds for which every worker has been busy with one workitem; 0 if one is idle."""
        now = time.monotonic()
        ready = [link for link in self._links.values() if link.is_ready]
        return min((now - link.begun if link.tasks else 0.0 for link in ready), default=0.0)

    @property
    def busy(self) -> int:
        """The number of workers that perform a workitem."""
        return sum(bool(link.tasks) for link in self._links.values())

    def running_for(self, seconds: float) -> list[WorkerLink]:
        """Return the workers that have been performing one workitem for at least so many seconds."""
        early = time.monotonic() - seconds
        return [link for link in self._links.values() if link.tasks and link.begun <= early]

    def end_idle(self) -> None:
        """Hang up on every idle worker, so that it ends."""
        for link in self._links.values():
            if not link.tasks:
                link.hang_up()


def _activity(link: WorkerLink) -> dict[str, Any]:
    if link.tasks:
        first = link.tasks[0]
        about = {"type": first.worker_type, "since": link.since}
        return about | {"does": "works", "workitem": shorten(first.id, _LONGEST_ID)}
    return {"does": "ends" if link.is_ending else "idle" if link.is_ready else "starts"}
