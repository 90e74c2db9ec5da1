"""Measures how much work a group has, for the supervisor, which adapts the number of workers."""

from collections.abc import Callable
from typing import Final, NamedTuple

from taskqueue.broker.errands import count_messages
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.session import Session
from taskqueue.consumer.control import Reports

_DELAY: Final = 1.0  # seconds between two reports


class Load(NamedTuple):
    """The work in a consumer."""

    waiting: int  # workitems without a worker
    busy: int  # workers that perform one
    ended: int  # runs since the consumer began
    run_time: float  # their seconds together


class DemandMeter:
    """Counts what waits in the group's queues and what its workers do, and reports it every second."""

    def __init__(
        self,
        loop: EventLoop,
        session: Session,
        reports: Reports,
        queues: Callable[[], list[str]],
        load: Callable[[], Load],
    ) -> None:
        """Prepare to `begin`.

        session -- over which the messages in the queues are counted
        queues -- returns the names of the group's queues
        load -- returns the work in this consumer
        """
        self._loop, self._session, self._reports = loop, session, reports
        self._queues, self._load = queues, load
        self._ready: dict[str, int] = {}  # messages by queue, as counted last
        self._asked, self._epoch = 0, 0  # queues that are being counted, and the session's epoch
        self._before = Load(0, 0, 0, 0.0)

    def begin(self) -> None:
        """Report from now on."""
        self._loop.call_later(_DELAY, self._look)

    def _look(self) -> None:
        """Report, and have the queues counted for the next report."""
        self._report()
        epoch = self._session.errands.epoch
        if self._session.is_up and (not self._asked or self._epoch != epoch):
            queues = self._queues()
            self._ready = {queue: self._ready.get(queue, 0) for queue in queues}
            self._asked, self._epoch = len(queues), epoch
            for queue in queues:
                self._count(queue)
        self.begin()

    def _count(self, queue: str) -> None:
        def counted(number: int) -> None:
            self._ready[queue] = number
            self._asked -= 1

        def failed(_reason: str) -> None:
            self._asked -= 1

        count_messages(self._session, queue, done=counted, failed=failed)

    def _report(self) -> None:
        load, before = self._load(), self._before
        self._before = load
        ended, seconds = load.ended - before.ended, load.run_time - before.run_time
        self._reports.send(
            "demand",
            waiting=sum(self._ready.values()) + load.waiting,
            busy=max(load.busy, round(seconds / _DELAY)),
            ended=ended,
            run_time=seconds / ended if ended else 0.0,
        )
