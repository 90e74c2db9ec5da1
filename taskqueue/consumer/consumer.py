"""The consumer: the process that holds a group's AMQP connections and feeds its workers.

It runs no plugin code, and decodes a body only to quote it in the failure of a workitem that no worker could
describe. It acknowledges a delivery only after the broker has confirmed its outcome.
"""

import signal
import socket
from collections.abc import Callable
from typing import Final

from taskqueue.broker.loop import EventLoop
from taskqueue.broker.publisher import Publisher
from taskqueue.broker.session import Session, SessionListener
from taskqueue.config import AmqpSettings, GroupSettings, LoggingSettings
from taskqueue.consumer import control
from taskqueue.consumer.assignment import Assignment, Crash
from taskqueue.consumer.condition import Condition
from taskqueue.consumer.control import Reports
from taskqueue.consumer.link import WorkerLink
from taskqueue.consumer.suspects import BEAT_DELAY, Suspects, Writer
from taskqueue.consumer.workers import Workers
from taskqueue.consumer.workload import Workload
from taskqueue.errors import BrokerRefused, BrokerUnavailable, ConfigError, ExitStatus
from taskqueue.process import logs
from taskqueue.process.daemon import Signals
from taskqueue.process.logs import Log
from taskqueue.texts import shorten
from taskqueue.worker.frames import Outcome, ProgressFrame, Service

SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP)

_WORKERLESS_TIMEOUT: Final = 5.0  # seconds without a ready worker after which others get the work


class Consumer(SessionListener):
    """Feeds the workers of one group from the queues of the worker types that they serve."""

    def __init__(
        self,
        group: GroupSettings,
        amqp: AmqpSettings,
        supervisor: socket.socket,
        signals: Signals,
        reload: Callable[[], AmqpSettings | None],
        *,
        handling: Writer,
        suspects: Suspects,
    ) -> None:
        """Prepare; `run` does the work.

        Args:
            group: what to consume and where results go.
            amqp: the broker's address.
            supervisor: this process's end of the pair over which workers are handed in.
            signals: SIGTERM and SIGHUP as they come.
            reload: reads the broker's address anew, None where it cannot be read.
            handling: takes what is handled at each moment.
            suspects: the messages that earlier consumers of the group died of.
        """
        self._supervisor = supervisor
        self._signals = signals
        self._reload = reload
        self._handling = handling
        self._log = Log("consumer", group=group.name)
        self._loop = loop = EventLoop()
        self._reports = Reports(loop, supervisor)
        self._draining = False
        self._status = ExitStatus.OK
        self._publishing = Session(loop, amqp, f"taskqueue {group.name} publishes", on_trouble=self._trouble)
        self._consuming = Session(loop, amqp, f"taskqueue {group.name} consumes", on_trouble=self._trouble)
        self._publisher = Publisher(
            loop,
            self._publishing,
            on_ready=self._publisher_ready,
            on_lost=self._publisher_lost,
            on_batch=self._leave_if_done,
        )
        self._gather(group, handling, suspects)
        self._publishing.attach(self)
        self._consuming.attach(self)

    def _gather(self, group: GroupSettings, handling: Writer, suspects: Suspects) -> None:
        self._workers = Workers(
            self._loop,
            self._reports,
            self._log,
            group,
            on_ready=self._worker_ready,
            on_begin=self._begun,
            on_progress=self._progress,
            on_outcome=self._outcome,
        )
        self._workload = Workload(
            self._loop,
            self._publishing,
            self._consuming,
            self._publisher,
            workers=self._workers,
            group=group,
            handling=handling,
            suspects=suspects,
            on_acquitted=lambda key: self._reports.send("acquitted", key=key),
            on_change=self._converge,
            on_settled=self._leave_if_done,
        )
        self._intake = self._workload.intake
        self._condition = Condition(
            self._reports, self._publishing, self._consuming, self._workers, self._intake
        )

    def run(self) -> ExitStatus:
        """Consume until SIGTERM, then until nothing is left to be settled."""
        self._loop.watch(self._signals, self._act_on_signals)
        self._loop.watch(self._supervisor, self._hear_supervisor)
        self._publishing.open()
        self._beat()
        self._loop.run()
        return self._status

    def _beat(self) -> None:
        self._handling.beat()
        self._loop.call_later(BEAT_DELAY, self._beat)

    # --- workers come and go ---

    def _hear_supervisor(self) -> None:
        try:
            while message := control.receive(self._supervisor):
                if message.word == "worker":
                    self._workers.welcome(message)
                elif message.word == "granted":
                    self._workers.granted(message.content["pid"])
                elif message.word == "logging":
                    self._set_up_logging(message.content)
                elif message.word == "died":
                    self._bury(
                        message.content["pid"],
                        Crash(message.content["cause"], message.content["peak_memory"]),
                    )
        except EOFError:  # the supervisor is dead, and the kernel about to kill us
            self._loop.stop()

    def _set_up_logging(self, settings: dict[str, str]) -> None:
        try:
            logs.set_up(LoggingSettings(**settings), "consumer")
        except ConfigError as error:
            self._log.error("logging stays as it was: %s", error)

    def _worker_ready(self, services: tuple[Service, ...]) -> None:
        self._workload.serve(services)
        self._converge()
        if self._draining:
            self._workers.let_idle_go()

    def _begun(self, link: WorkerLink, assignment: Assignment) -> None:
        self._workload.begun(link, assignment)

    def _progress(self, assignment: Assignment, progress: ProgressFrame) -> None:
        self._workload.progress(assignment, progress)

    def _outcome(self, link: WorkerLink, assignment: Assignment, outcome: Outcome) -> None:
        self._workload.performed(link, assignment, outcome)
        if self._draining:
            self._workers.let_idle_go()

    def _bury(self, pid: int, crash: Crash) -> None:
        """Have a worker's death charged to the workitem it was performing."""
        link = self._workers.bury(pid)
        if link is None:
            return
        self._workload.died(link, crash)
        if self._draining:
            self._workload.give_back_waiting()
        self._converge()
        self._leave_if_done()

    # --- what is wanted: to consume while there are workers and results can be published ---

    def _converge(self) -> None:
        self._workload.assign()
        cannot = self._draining or not self._publisher.is_ready or self._publishing.is_blocked
        cannot |= not self._workload.may_begin
        self._condition.is_crowded = self._workload.is_crowded
        if cannot or self._workload.is_crowded:
            self._intake.pause()
        elif self._workers.ready:
            self._intake.resume()
        elif self._intake.is_consuming or self._workload.is_waiting:
            self._loop.call_later(_WORKERLESS_TIMEOUT, self._pause_without_workers)
        self._condition.tell()

    def _pause_without_workers(self) -> None:
        if not self._workers.ready:
            self._intake.pause()
            self._workload.give_back_waiting()

    def _publisher_ready(self) -> None:
        self._workload.publisher_ready()
        self._converge()
        self._consuming.open()

    def _publisher_lost(self) -> None:
        self._workload.publisher_lost()
        self._converge()

    def session_up(self) -> None:
        """Tell the supervisor; a session calls this."""
        self._converge()

    def session_down(self) -> None:
        """Tell the supervisor; a session calls this."""
        self._condition.had_trouble = True
        self._converge()

    def session_blocked(self) -> None:
        """Take nothing new while results cannot be published; a session calls this."""
        self._converge()

    def session_unblocked(self) -> None:
        """Go on; a session calls this."""
        self._converge()

    def session_short(self) -> None:
        """Say what is not served for want of a channel; a session calls this."""
        if unserved := self._intake.unserved:
            self._log.error("no channel, so nothing is taken of %s", shorten(", ".join(unserved), 4000))
        self._converge()

    def _trouble(self, error: BrokerUnavailable | BrokerRefused) -> None:
        if isinstance(error, BrokerRefused) and not self._publishing.ever_up:
            self._log.critical("%s", error)
            control.send(self._supervisor, "failure", reason=str(error))
            self._status = ExitStatus.REFUSED
            self._loop.stop()
            return
        self._log.warning("%s; trying again", error)
        self._condition.had_trouble = True
        self._condition.tell()

    # --- signals and the end ---

    def _act_on_signals(self) -> None:
        for number in self._signals.pending():
            if number == signal.SIGTERM and not self._draining:
                self._drain()
            elif number == signal.SIGHUP:
                self._configure()

    def _configure(self) -> None:
        amqp = self._reload()
        if amqp is not None:
            self._publishing.configure(amqp)
            self._consuming.configure(amqp)

    def _drain(self) -> None:
        """Take nothing new, give back what no worker has begun, let the workers finish, then leave."""
        self._draining = self._condition.is_draining = True
        self._intake.pause()
        self._workload.give_back_waiting()
        self._workers.let_idle_go()
        self._leave_if_done()

    def _leave_if_done(self) -> None:
        if not self._draining or not self._workload.is_done or self._publisher.unsettled:
            return
        if self._workers.is_gone:
            self._intake.flush()
            self._consuming.close(lambda: self._publishing.close(self._loop.stop))
        else:  # somebody must take down what they print in `teardown`
            self._reports.send("done")
