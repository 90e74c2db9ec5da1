"""The consumer: the process that holds a group's AMQP connections and feeds its workers.

It runs no plugin code and parses no body. What it acknowledges, the broker has confirmed the end of.
"""

import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from taskqueue import logs, results
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.publisher import Publisher
from taskqueue.broker.session import Part, Session
from taskqueue.broker.subscription import Delivery, Subscription
from taskqueue.broker.topology import worker_queue
from taskqueue.config import AmqpSettings, GroupSettings, LoggingSettings
from taskqueue.daemon import Signals
from taskqueue.errors import BrokerRefused, BrokerUnavailable, ConfigError, ExitStatus
from taskqueue.logs import Log
from taskqueue.pool import control, retries
from taskqueue.pool.assignment import Assignment, Crash
from taskqueue.pool.crew import Crew
from taskqueue.pool.frames import LARGEST_BODY, Outcome, Verdict
from taskqueue.pool.ledger import Ledger
from taskqueue.pool.link import WorkerLink
from taskqueue.pool.settlement import Settlement
from taskqueue.properties import MalformedProperties, Properties

SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP)

_EARLY: Final = 0.05  # seconds; nearer than that to when it is due, a workitem runs
_WORKERLESS_TIMEOUT: Final = 5.0  # seconds without a ready worker after which others get the work


class Consumer(Part):
    """Feeds the workers of one group from the queue of its worker type."""

    def __init__(
        self,
        group: GroupSettings,
        amqp: AmqpSettings,
        supervisor: socket.socket,
        signals: Signals,
        reload: Callable[[], AmqpSettings | None],
    ) -> None:
        """Prepare; `run` does the work.

        Args:
            group: what to consume and where results go.
            amqp: the broker's address.
            supervisor: this process's end of the pair over which workers are handed in.
            signals: SIGTERM and SIGHUP as they come.
            reload: reads the broker's address anew, None where it cannot be read.
        """
        self._group = group
        self._supervisor = supervisor
        self._signals = signals
        self._reload = reload
        self._log = Log("consumer", group=group.name)
        self._loop = EventLoop()
        self._crew = Crew(
            self._loop,
            supervisor,
            self._log,
            group,
            on_ready=self._converge,
            on_outcome=self._outcome,
        )
        self._waiting: deque[Assignment] = deque()  # delivered, not yet given to a worker
        self._ledger = Ledger(group.worker_type, self._is_current)
        self._draining = False
        self._status = ExitStatus.OK
        self._told = ""
        self._had_trouble = False
        self._open_sessions(amqp)

    def _open_sessions(self, amqp: AmqpSettings) -> None:
        loop, name = self._loop, f"taskqueue {self._group.name}"
        self._publishing = Session(loop, amqp, f"{name} publishes", on_trouble=self._trouble)
        self._consuming = Session(loop, amqp, f"{name} consumes", on_trouble=self._trouble)
        self._publisher = Publisher(
            loop,
            self._publishing,
            on_ready=self._publisher_ready,
            on_lost=self._publisher_lost,
            on_batch=self._flush,
        )
        self._subscription = Subscription(
            loop,
            self._consuming,
            worker_queue(self._group.worker_type),
            self._group.workers * self._group.depth,
            on_delivery=self._take,
            on_consuming=self._tell_supervisor,
            on_lost=self._deliveries_lost,
        )
        self._settlement = Settlement(
            loop, self._publishing, self._publisher, self._group, on_settled=self._settled
        )
        self._publishing.attach(self)
        self._consuming.attach(self)

    def run(self) -> ExitStatus:
        """Consume until SIGTERM, then until nothing is left to be settled."""
        self._loop.watch(self._signals, self._act_on_signals)
        self._loop.watch(self._supervisor, self._hear_supervisor)
        self._publishing.open()
        self._loop.run()
        return self._status

    # --- from the broker to a worker ---

    def _take(self, delivery: Delivery) -> None:
        """Take a delivery in: a new workitem, or one that we know from a connection that was lost."""
        try:
            properties = Properties.decode(delivery.properties)
        except MalformedProperties as error:
            self._reject(delivery, str(error))
            return
        if self._ledger.adopt(delivery, properties):
            self._log.info("goes on: delivered again while it is in work", workitem=properties.message_id)
        elif self._ledger.has_finished(delivery, properties):
            self._subscription.settle(delivery)
            self._flush()
        else:
            self._enter(self._ledger.enter(delivery, properties))

    def _enter(self, assignment: Assignment) -> None:
        if assignment.deadline is not None and assignment.deadline < time.time():
            self._give_up(assignment, "WorkitemExpired", "its expiration passed before a worker was free")
        elif len(assignment.body) > LARGEST_BODY:
            reason = f"{len(assignment.body)} bytes; a worker takes at most {LARGEST_BODY}"
            self._give_up(assignment, "WorkitemUnreadable", reason)
        elif assignment.due is not None and assignment.due > time.time() + _EARLY:
            self._settlement.postpone(assignment, assignment.due)
        else:
            self._waiting.append(assignment)
            self._assign()

    def _assign(self) -> None:
        """Give what waits to the workers that have room, the idlest first."""
        while self._waiting:
            link = self._crew.idlest(self._group.depth)
            if link is None:
                return
            if link.give(self._waiting[0]):
                self._waiting.popleft()

    def _give_up(self, assignment: Assignment, error: str, reason: str) -> None:
        """Fail a workitem that no worker is to begin."""
        now, failure = time.time(), results.Failure(error, reason)
        self._log.warning("failed: %s", failure, workitem=assignment.id)
        self._settlement.fail(assignment, assignment.run("", now, now), failure)

    def _reject(self, delivery: Delivery, reason: str) -> None:
        self._log.error("rejected: %s", reason)
        self._settlement.reject(self._ledger.enter(delivery, Properties()), reason)

    # --- from a worker to the broker ---

    def _outcome(self, link: WorkerLink, assignment: Assignment, outcome: Outcome) -> None:
        run = assignment.run(link.name, outcome.started, outcome.ended)
        self._settle(self._log.bind(workitem=assignment.id, worker=link.name), assignment, run, outcome)
        if self._draining:
            self._crew.let_idle_go()
        self._assign()
        self._flush()

    def _settle(self, log: Log, assignment: Assignment, run: results.Run, outcome: Outcome) -> None:
        if outcome.verdict is Verdict.SUCCEEDED:
            log.debug("succeeded")
            self._settlement.succeed(assignment, run, outcome)
            return
        delay = retries.retry_delay(self._group, assignment, outcome)
        if delay is not None:
            log.warning("runs again in %.1f s, attempt %d: %s", delay, assignment.attempt + 1, outcome.error)
            self._settlement.run_later(assignment, run, outcome.error, delay)
        elif outcome.verdict is Verdict.REJECTED:
            log.warning("rejected: %s", outcome.error)
            self._settlement.reject_with(assignment, run, outcome)
        else:
            log.warning("failed: %s", outcome.error)
            self._settlement.fail_with(assignment, run, outcome)

    def _settled(self, assignment: Assignment) -> None:
        """The broker has confirmed all that a workitem came to: its delivery may be acknowledged."""
        if self._ledger.close(assignment):
            self._subscription.settle(assignment.delivery)

    def _flush(self) -> None:
        self._subscription.flush()
        if self._draining:
            self._leave_if_done()

    # --- workers come and go ---

    def _hear_supervisor(self) -> None:
        try:
            while message := control.receive(self._supervisor):
                if message.word == "worker":
                    self._crew.welcome(message)
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

    def _bury(self, pid: int, crash: Crash) -> None:
        """Charge a worker's death to the workitem it was performing; the others go to other workers."""
        link = self._crew.bury(pid)
        if link is None:
            return
        if link.had_begun:
            crash = replace(crash, text=f"{crash.text}: {link.sentence}") if link.sentence else crash
            self._crashed(link.tasks.popleft(), link, crash)
        for assignment in reversed(link.tasks):
            if self._is_current(assignment.delivery):
                self._waiting.appendleft(assignment)
            else:
                self._ledger.drop(assignment)
        if self._draining:
            self._give_back_waiting()
        self._converge()
        self._flush()

    def _crashed(self, assignment: Assignment, link: WorkerLink, crash: Crash) -> None:
        log = self._log.bind(workitem=assignment.id, worker=link.name)
        if not self._is_current(assignment.delivery):
            self._ledger.drop(assignment)
            log.warning("its worker crashed (%s); the broker delivers it again", crash.text)
            return
        crashes, now = assignment.crashes + 1, time.time()
        run = assignment.run(link.name, link.since, now)
        if crashes < self._group.max_crashes:
            delay = retries.crash_delay(self._group, crashes)
            log.warning(
                "its worker crashed (%s); crash %d, it runs again in %g s", crash.text, crashes, delay
            )
            self._settlement.run_after_crash(assignment, run, crash, delay)
            return
        log.error("failed: its worker crashed (%s); crash %d, it is given up", crash.text, crashes)
        failure = results.Failure("WorkerCrashed", f"{crash.text}; {crashes} crashes in all")
        self._settlement.crash(assignment, run, crash, failure)

    # --- what is wanted: to consume while there are workers and results can be published ---

    def _converge(self) -> None:
        self._assign()
        if self._draining or not self._publisher.is_ready or self._publishing.is_blocked:
            self._subscription.pause()
        elif self._crew.has_ready:
            self._subscription.resume()
        elif self._subscription.is_consuming:
            self._loop.call_later(_WORKERLESS_TIMEOUT, self._pause_without_workers)
        self._tell_supervisor()

    def _pause_without_workers(self) -> None:
        if not self._crew.has_ready:
            self._subscription.pause()
            self._give_back_waiting()

    def _give_back_waiting(self) -> None:
        while self._waiting:
            assignment = self._waiting.popleft()
            self._ledger.drop(assignment)
            self._subscription.give_back(assignment.delivery)

    def _deliveries_lost(self) -> None:
        """Forget what no worker has begun: the broker delivers it again, here or elsewhere."""
        while self._waiting:
            self._ledger.drop(self._waiting.popleft())

    def _publisher_ready(self) -> None:
        self._settlement.publish_again()
        self._converge()
        self._consuming.open()

    def _publisher_lost(self) -> None:
        self._settlement.connection_lost()
        self._converge()

    def session_up(self) -> None:
        """Tell the supervisor; a session calls this."""
        self._converge()

    def session_down(self) -> None:
        """Tell the supervisor; a session calls this."""
        self._had_trouble = True
        self._converge()

    def session_blocked(self) -> None:
        """Take nothing new while results cannot be published; a session calls this."""
        self._converge()

    def session_unblocked(self) -> None:
        """Go on; a session calls this."""
        self._converge()

    def _trouble(self, error: BrokerUnavailable | BrokerRefused) -> None:
        if isinstance(error, BrokerRefused) and not self._publishing.ever_up:
            self._log.critical("%s", error)
            control.send(self._supervisor, "failure", reason=str(error))
            self._status = ExitStatus.REFUSED
            self._loop.stop()
            return
        self._log.warning("%s; trying again", error)
        self._had_trouble = True
        self._tell_supervisor()

    def _is_current(self, delivery: Delivery) -> bool:
        """Tell whether the broker still counts on us for it; else it delivers it again."""
        return delivery.epoch == self._subscription.epoch

    def _tell_supervisor(self) -> None:
        """Say in a word what this group is doing, when that has changed."""
        if not (self._publishing.is_up and self._consuming.is_up):
            if not self._had_trouble:
                return  # the first connection is being made
            state = "waits for the broker"
        elif not self._crew.has_ready:
            state = "waits for a worker"
        elif self._subscription.is_consuming:
            state = "takes work"
        elif self._publishing.is_blocked or self._draining:
            state = "takes nothing new"
        else:
            return  # it is about to consume
        if state != self._told:
            self._told = state
            control.send(self._supervisor, "state", state=state)

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
        self._draining = True
        self._subscription.pause()
        self._give_back_waiting()
        self._crew.let_idle_go()
        self._leave_if_done()

    def _leave_if_done(self) -> None:
        if not self._ledger and not self._publisher.unsettled:
            self._consuming.close(lambda: self._publishing.close(self._loop.stop))
