"""A consumer's workers: who is there, who has room, and who must be killed."""

import time
from collections.abc import Callable
from typing import Final

from taskqueue.broker.loop import EventLoop
from taskqueue.config import GroupSettings
from taskqueue.consumer.assignment import Assignment
from taskqueue.consumer.control import ControlMessage, Reports
from taskqueue.consumer.link import WorkerLink
from taskqueue.process.logs import Log
from taskqueue.worker.frames import Outcome, ProgressFrame, Service

_LONG: Final = 0.05  # seconds at one workitem after which a worker is given no other behind it


class Workers:
    """The workers that the supervisor has handed to a consumer."""

    def __init__(
        self,
        loop: EventLoop,
        reports: Reports,
        log: Log,
        group: GroupSettings,
        *,
        on_ready: Callable[[tuple[Service, ...]], None],
        on_begin: Callable[[WorkerLink, Assignment], None],
        on_progress: Callable[[Assignment, ProgressFrame], None],
        on_outcome: Callable[[WorkerLink, Assignment, Outcome], None],
    ) -> None:
        """Begin without workers.

        Args:
            loop: watches their sockets and their output.
            reports: to the supervisor, who can kill them.
            log: where their faults go, and what they print.
            group: what they may write into the log, and how long a workitem may take them.
            on_ready: another worker can take work, of the worker types that it names.
            on_begin: a worker begins with an assignment.
            on_progress: takes what a worker says about an assignment it is at.
            on_outcome: takes what a worker says became of an assignment.
        """
        self._loop = loop
        self._reports = reports
        self._log = log
        self._group = group
        self._on_ready = on_ready
        self._on_begin, self._on_progress = on_begin, on_progress
        self._on_outcome = on_outcome
        self._links: dict[int, WorkerLink] = {}  # by the worker's pid
        self._asked: dict[int, tuple[Service, ...]] = {}  # what workers have named and may not serve yet

    def welcome(self, message: ControlMessage) -> None:
        """Take over the files of a new worker."""
        pid = message.content["pid"]
        self._links[pid] = WorkerLink(
            self._loop,
            message.content["name"],
            message.files,
            self._log,
            self._group,
            on_ready=lambda services: self._ready(pid, services),
            on_begin=self._on_begin,
            on_progress=self._on_progress,
            on_outcome=self._on_outcome,
            on_retiring=lambda: self._retires(pid),
            on_hang_up=lambda: self._hung_up(pid),
            on_fault=self._fault,
        )

    def _ready(self, pid: int, services: tuple[Service, ...]) -> None:
        """Ask the supervisor for the worker types that a worker names; its group's own one it may serve."""
        self._asked[pid] = services
        if services:
            names = [service.worker_type for service in services]
            self._reports.send("serves", pid=pid, types=names)
        else:
            self.granted(pid)

    def granted(self, pid: int) -> None:
        """Begin with a worker, which may serve what it has named."""
        services = self._asked.pop(pid, None)
        if services is not None and pid in self._links:
            self._reports.send("begun", pid=pid)
            self._on_ready(services)

    def _retires(self, pid: int) -> None:
        self._reports.send("retires", pid=pid)

    def bury(self, pid: int) -> WorkerLink | None:
        """Read what a dead worker left behind; return its link, with the assignments it did not finish."""
        link = self._links.pop(pid, None)
        self._asked.pop(pid, None)
        if link is not None:
            link.close()
        return link

    def dismiss(self, assignment: Assignment) -> bool:
        """Have the worker killed that performs an assignment now; tell whether there is one."""
        for pid, link in self._links.items():
            if link.tasks and link.tasks[0] is assignment:
                if not link.is_dismissed:
                    link.dismiss()
                    self._reports.send("dismiss", pid=pid)
                return True
        return False

    @property
    def is_gone(self) -> bool:
        """Whether every worker is dead and buried."""
        return not self._links

    @property
    def ready(self) -> int:
        """How many workers can take work, now or when they have done what they have."""
        return sum(link.is_ready for link in self._links.values())

    def with_room(self, prefetch: int) -> list[WorkerLink]:
        """Return the workers that can be given a workitem, where each may have `prefetch` of them.

        Nothing is given to who has been at one workitem for long: nobody knows for how long he will be.
        """
        late = time.monotonic() - _LONG
        few = [link for link in self._links.values() if len(link.tasks) < prefetch]
        return [link for link in few if link.has_room(prefetch) and (not link.tasks or link.begun > late)]

    def take_back(self, after: float = _LONG) -> list[Assignment]:
        """Return what waits behind workitems that have been in work for `after` seconds."""
        now = time.monotonic()
        late = [each for each in self._links.values() if len(each.tasks) > 1 and now - each.begun >= after]
        return [assignment for link in late for assignment in link.take_back()]

    @property
    def is_ahead(self) -> bool:
        """Whether anything waits behind what a worker performs."""
        return any(len(link.tasks) > 1 for link in self._links.values())

    def busy_for(self) -> float:
        """Return for how many seconds every worker has been at one workitem; 0 if one has nothing to do."""
        now = time.monotonic()
        ready = [link for link in self._links.values() if link.is_ready]
        return min((now - link.begun if link.tasks else 0.0 for link in ready), default=0.0)

    def let_idle_go(self) -> None:
        """Hang up on every worker that has nothing to do."""
        for link in self._links.values():
            if not link.tasks:
                link.hang_up()

    def _hung_up(self, pid: int) -> None:
        """A worker that ends closes its socket a moment before; one that lives on is of no use."""
        if pid in self._links:  # else it is dead and buried
            self._reports.send("hung_up", pid=pid)

    def _fault(self, link: WorkerLink, reason: str) -> None:
        pid = next((pid for pid, candidate in self._links.items() if candidate is link), None)
        if pid is not None:
            self._log.error("a worker must be killed: %s", reason, worker=link.name)
            self._reports.send("kill", pid=pid)
