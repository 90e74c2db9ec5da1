"""The consumer: the process that holds a group's AMQP connections and feeds its workers.

It runs no plugin code and parses no body. What it acknowledges, the broker has confirmed the end of.
"""

import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

from taskqueue import logs
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.publisher import Publisher
from taskqueue.broker.session import Part, Session
from taskqueue.broker.subscription import Delivery, Subscription
from taskqueue.broker.topology import worker_queue
from taskqueue.config import AmqpSettings, GroupSettings, LoggingSettings
from taskqueue.daemon import Signals
from taskqueue.errors import BrokerRefused, BrokerUnavailable, ConfigError, ExitStatus
from taskqueue.logs import Log
from taskqueue.pool import control
from taskqueue.pool.assignment import Assignment, Crash
from taskqueue.pool.crew import Crew
from taskqueue.pool.frames import LARGEST_BODY, Outcome
from taskqueue.pool.judge import Judge
from taskqueue.pool.leases import Leases
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
        self._ledger = Ledger(group.worker_type, self._answers_for)
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
            self._group.depth,
            consumers=self._group.workers,
            on_delivery=self._take,
            on_consuming=self._tell_supervisor,
            on_lost=self._deliveries_lost,
        )
        self._settlement = Settlement(
            loop, self._publishing, self._publisher, self._group, on_settled=self._settled
        )
        self._judge = Judge(self._group, self._settlement, self._log)
        self._leases = Leases(
            loop,
            self._publishing,
            self._consuming,
            self._publisher,
            subscription=self._subscription,
            ledger=self._ledger,
            group=self._group,
            on_old=self._grown_old,
            on_released=self._flush,
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
            self._judge.reject(self._ledger.enter(delivery, Properties()), str(error))
            return
        known = self._ledger.adopt(delivery, properties)
        if known is not None:
            self._log.info("goes on: delivered again while it is in work", workitem=known.id)
            known.possibly_doubled &= delivery.redelivered  # to somebody else, if its lease was lost
            self._leases.release(known)
        elif self._ledger.is_superfluous(delivery, properties):
            self._subscription.settle(delivery)
            self._flush()
        else:
            self._enter(self._ledger.enter(delivery, properties))

    def _enter(self, assignment: Assignment) -> None:
        if assignment.deadline is not None and assignment.deadline < time.time():
            self._judge.give_up(
                assignment, "WorkitemExpired", "its expiration passed before a worker was free"
            )
        elif len(assignment.body) > LARGEST_BODY:
            reason = f"{len(assignment.body)} bytes; a worker takes at most {LARGEST_BODY}"
            self._judge.give_up(assignment, "WorkitemUnreadable", reason)
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

    # --- from a worker to the broker ---

    def _outcome(self, link: WorkerLink, assignment: Assignment, outcome: Outcome) -> None:
        self._leases.before_end(assignment, lambda: self._judge.performed(assignment, link.name, outcome))
        if self._draining:
            self._crew.let_idle_go()
        self._assign()
        self._flush()

    def _settled(self, assignment: Assignment) -> None:
        """The broker has confirmed all that a workitem came to: its delivery may be acknowledged."""
        if self._ledger.close(assignment):
            self._subscription.settle(assignment.delivery)
        self._leases.release(assignment)

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
            assignment = link.tasks.popleft()
            self._leases.before_end(assignment, partial(self._crashed, assignment, link, crash))
        for assignment in reversed(link.tasks):
            if self._answers_for(assignment):
                self._waiting.appendleft(assignment)
            else:
                self._drop(assignment)
        if self._draining:
            self._give_back_waiting()
        self._converge()
        self._flush()

    def _crashed(self, assignment: Assignment, link: WorkerLink, crash: Crash) -> None:
        if self._answers_for(assignment):
            self._judge.crashed(assignment, link.name, link.since, crash)
            return
        self._drop(assignment)
        self._log.warning(
            "its worker crashed (%s); the broker delivers it again",
            crash.text,
            workitem=assignment.id,
            worker=link.name,
        )

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
            self._give_back(self._waiting.popleft())

    def _give_back(self, assignment: Assignment) -> None:
        self._drop(assignment)
        self._subscription.give_back(assignment.delivery)

    def _drop(self, assignment: Assignment) -> None:
        """Leave a workitem to whom the broker gives it next."""
        self._ledger.drop(assignment)
        self._leases.abandon(assignment)

    def _grown_old(self, assignment: Assignment) -> None:
        """Act before the broker's patience ends: what waits for a worker may find one elsewhere."""
        if assignment in self._waiting:
            self._waiting.remove(assignment)
            self._give_back(assignment)
        else:
            self._leases.take(assignment)

    def _deliveries_lost(self) -> None:
        """Forget what no worker has begun: the broker delivers it again, here or elsewhere."""
        self._leases.deliveries_lost()
        for assignment in tuple(self._waiting):
            if not self._answers_for(assignment):
                self._waiting.remove(assignment)
                self._drop(assignment)

    def _publisher_ready(self) -> None:
        self._settlement.publish_again()
        self._leases.publisher_ready()
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

    def _answers_for(self, assignment: Assignment) -> bool:
        """Tell whether the broker still counts on us for a workitem; else it delivers it again."""
        is_leased = assignment.lease is not None and assignment.lease.is_held
        return is_leased or self._subscription.is_current(assignment.delivery)

    def _tell_supervisor(self) -> None:
        """Say in a word what this group is doing, when that has changed."""
        if not (self._publishing.is_up and self._consuming.is_up):
            if not self._had_trouble:
                return  # the first connection is being made
            state = "waits for the broker"
        elif not self._crew.has_ready:
            state = "waits for a worker"
        elif self._publishing.is_blocked:
            state = "takes nothing new: the broker has an alarm"
        elif self._draining:
            state = "takes nothing new"
        elif self._subscription.is_consuming or self._subscription.is_all_withheld:
            state = "takes work"
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
        if not self._ledger and not self._publisher.unsettled and not self._leases.is_releasing:
            self._consuming.close(lambda: self._publishing.close(self._loop.stop))
