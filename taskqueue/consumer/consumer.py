"""The consumer: the process that holds a group's AMQP connections and feeds its workers.

It runs no plugin code. It decodes a body only to quote it in a failure that no worker could describe. It
acknowledges a delivery only after the broker has confirmed its outcome.
"""

import signal
import socket
import time
from collections.abc import Callable
from typing import Any, Final

from taskqueue.broker.events import EventPublisher
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.outbound import Outbound, OutboundListener
from taskqueue.broker.session import Session, SessionListener
from taskqueue.config import AmqpSettings, GroupSettings, LoggingSettings
from taskqueue.consumer import control
from taskqueue.consumer.announcing import Announcer
from taskqueue.consumer.control import ControlMessage, Reports
from taskqueue.consumer.demand import DemandMeter, Load
from taskqueue.consumer.in_flight import Assignment, Crash
from taskqueue.consumer.permits import Permits
from taskqueue.consumer.pipeline import Pipeline
from taskqueue.consumer.record import RunRecord
from taskqueue.consumer.suspects import BEAT_DELAY, Suspects, Writer
from taskqueue.errors import BrokerRefused, BrokerUnavailable, ConfigError, ExitStatus
from taskqueue.limits.wire import Identity
from taskqueue.messages.events import CONSUMER, WAITS_FOR_WORKER, ProcessState
from taskqueue.process import logs
from taskqueue.process.daemon import Signals
from taskqueue.process.logs import Log
from taskqueue.texts import shorten
from taskqueue.worker.frames import Service

SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP)

_MOST_DESCRIBED: Final = 200  # workers in one message to the supervisor
_WORKERLESS_TIMEOUT: Final = 5.0  # seconds without a ready worker after which workitems are given back


class Consumer(SessionListener, OutboundListener):
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
        identity: Identity,
    ) -> None:
        """Prepare to `run`.

        Args:
            group: the settings of the group.
            amqp: the broker's address.
            supervisor: this process's end of the socket pair over which workers are handed in.
            signals: the source of SIGTERM and SIGHUP.
            reload: reads the broker's address again; None if it cannot be read.
            handling: records the message that is being handled.
            suspects: the messages that killed earlier consumers of the group.
            identity: who this consumer is, for the gate.
        """
        self._group, self._reload, self._handling = group, reload, handling
        self._supervisor, self._signals = supervisor, signals
        self._log = Log("consumer", group=group.name)
        self._loop = loop = EventLoop()
        self._reports = Reports(loop, supervisor)
        self._status, self._reported_state = ExitStatus.OK, ""
        self._was_disconnected = False  # whether a connection to the broker has failed
        self._publishing = Session(loop, amqp, f"taskqueue {group.name} publishes", on_error=self._on_error)
        self._consuming = Session(loop, amqp, f"taskqueue {group.name} consumes", on_error=self._on_error)
        replies = self._take_reply if group.limits else None
        self._outbound = Outbound(loop, self._publishing, self, on_reply=replies)
        self._permits = Permits(loop, self._outbound, identity) if group.limits else None
        self._events = EventPublisher[Assignment](
            loop, self._publishing, self._outbound, CONSUMER, group.name
        )
        self._announcer = Announcer(loop, self._publishing, group.name)
        self._pipeline = self._make_pipeline(suspects)
        self._events.on_given_up = self._exit_if_done
        self._workers, self._intake = self._pipeline.workers, self._pipeline.intake
        if group.most_workers:
            DemandMeter(loop, self._consuming, self._reports, self._intake.queues, self._load).begin()
        self._publishing.attach(self)
        self._consuming.attach(self)

    def _make_pipeline(self, suspects: Suspects) -> Pipeline:
        return Pipeline(
            self._loop,
            self._consuming,
            self._outbound,
            record=RunRecord(self._events, self._group),
            reports=self._reports,
            group=self._group,
            permits=self._permits,
            handling=self._handling,
            suspects=suspects,
            listener=self,
        )

    def run(self, version: str) -> ExitStatus:
        """Consume until SIGTERM, then until every delivery is settled.

        version -- of the plugin, with the name of its distribution; for events
        """
        self._version = version
        self._loop.watch(self._signals, self._act_on_signals)
        self._loop.watch(self._supervisor, self._read_supervisor)
        self._events.report_process(self._described)
        self._publishing.open()
        self._beat()
        self._loop.run()
        return self._status

    def _beat(self) -> None:
        self._handling.beat()
        self._loop.call_later(BEAT_DELAY, self._beat)

    # --- messages from the supervisor ---

    def _read_supervisor(self) -> None:
        try:
            while message := control.receive(self._supervisor):
                self._act_on(message)
        except EOFError:  # the supervisor is dead, and the kernel is about to kill this process
            self._loop.stop()

    def _act_on(self, message: ControlMessage) -> None:
        content = message.content
        actions: dict[str, Callable[[], object]] = {
            "worker": lambda: self._workers.add(message),
            "granted": lambda: self._workers.granted(content["pid"]),
            "retire": lambda: self._retire(content["pid"]),
            "resize": lambda: self._pipeline.resize(content["workers"]),
            "logging": lambda: self._set_up_logging(content),
            "orders": lambda: self._obey(content),
            "describe": lambda: self._describe(content["number"]),
            "died": lambda: self._bury(content),
        }
        actions[message.word]()

    def _retire(self, pid: int) -> None:
        self._pipeline.take_back(self._workers.retire(pid))
        self._converge()

    def _bury(self, content: dict[str, Any]) -> None:
        crash = Crash(content["cause"], content["peak_memory"])
        if not content["expected"]:
            self._workers.count_crash(crash.text)
        self._pipeline.died(content["pid"], crash)
        self._converge()
        self._exit_if_done()

    def _obey(self, orders: dict[str, Any]) -> None:
        """Stop or go on receiving; what has begun goes on."""
        wanted = self._pipeline.orders
        wanted.take(orders)
        self._intake.leave_out(wanted.paused)
        self._pipeline.give_back_waiting(wanted.refuse)
        self._converge()

    def _describe(self, number: int) -> None:
        """Tell what each worker does, in messages of a bounded size."""
        found = self._workers.activities()
        about = {"group": self._group.name, "state": self._state(), "types": self._intake.worker_types}
        for at in range(0, max(1, len(found)), _MOST_DESCRIBED):
            end = at + _MOST_DESCRIBED
            more = end < len(found)
            self._reports.send("described", number=number, workers=found[at:end], more=more, **about)

    def _set_up_logging(self, settings: dict[str, str]) -> None:
        try:
            logs.set_up(LoggingSettings(**settings), "consumer")
        except ConfigError as error:
            self._log.error("logging is unchanged: %s", error)

    # --- the wanted state: consume while there are workers and results can be published ---

    def _converge(self) -> None:
        self._pipeline.assign()
        cannot = self._pipeline.is_draining or not self._outbound.is_ready or self._publishing.is_blocked
        cannot |= bool(self._pipeline.orders.held)
        if cannot or self._pipeline.is_congested or not self._pipeline.may_receive:
            self._intake.pause()
        elif self._workers.ready:
            self._intake.resume()
        elif self._intake.is_consuming or self._pipeline.waiting:
            self._loop.call_later(_WORKERLESS_TIMEOUT, self._pause_without_workers)
        self._report_state()

    def _pause_without_workers(self) -> None:
        if not self._workers.ready:
            self._intake.pause()
            self._pipeline.give_back_waiting()

    def outbound_ready(self) -> None:
        """Receive workitems, as their outcomes can be published."""
        self._pipeline.outbound_ready()
        self._converge()
        self._consuming.open()

    def outbound_lost(self) -> None:
        """Stop receiving while results cannot be published."""
        self._converge()

    def outbound_progress(self) -> None:
        """End the process if it is draining and nothing is left to confirm."""
        self._exit_if_done()

    def pipeline_changed(self) -> None:
        """Start or stop receiving."""
        self._converge()

    def pipeline_settled(self) -> None:
        """End the process if it is draining and nothing is left to settle."""
        self._exit_if_done()

    def pipeline_serves(self, services: tuple[Service, ...]) -> None:
        """Tell the scheduler of the schedules that the plugin declares."""
        self._announcer.announce(services)

    def _take_reply(self, properties: bytes, body: bytes) -> None:
        if self._permits is not None:
            self._permits.take_reply(properties, body)

    # --- the state of the group, for the supervisor ---

    def _report_state(self) -> None:
        state = self._state()
        if state and state != self._reported_state:
            self._reported_state = state
            self._reports.send("state", state=state)
            if not self._pipeline.is_draining:
                self._events.report_state()

    def _described(self) -> ProcessState:
        workers = self._workers
        return ProcessState(
            time.time(),
            "; ".join(filter(None, (self._state(), self._pipeline.waits))),
            workers.wanted,
            workers.busy,
            version=self._version,
            prefetch=self._intake.prefetch,
            crashes=workers.crashes,
            crash=workers.last_crash,
            workers=workers.described(),
        )

    def _load(self) -> Load:
        done = self._pipeline.prefetch
        return Load(self._pipeline.waiting, self._workers.busy, done.ended, done.run_time)

    def _state(self) -> str:
        """Return the group's state in words; "" while it is about to change."""
        if not (self._publishing.is_up and self._consuming.is_up):
            return "waits for the broker" if self._was_disconnected else ""
        if self._publishing.is_blocked:
            return "takes nothing new: the broker has an alarm"
        if self._pipeline.is_draining:
            return "takes nothing new"
        if self._pipeline.orders.held:
            return self._pipeline.orders.held
        if not self._workers.ready:
            return WAITS_FOR_WORKER
        if self._intake.takes_work or self._pipeline.is_congested:
            return self._pipeline.orders.state(self._intake.worker_types)
        if self._consuming.lacks_channels:
            number = self._intake.types
            served = number - len(self._intake.unserved)
            return f"serves {served} of {number} worker types: channel_max of the broker is too low"
        return ""

    # --- the connections to the broker ---

    def session_up(self) -> None:
        """Start receiving if possible, and report the state to the supervisor."""
        self._converge()

    def session_down(self) -> None:
        """Stop receiving, and report the state to the supervisor."""
        self._was_disconnected = True
        self._converge()

    def session_blocked(self) -> None:
        """Stop receiving while results cannot be published."""
        self._converge()
        self._exit_if_done()

    def session_unblocked(self) -> None:
        """Receive again."""
        self._converge()

    def session_lacks_channels(self) -> None:
        """Log the worker types that are not served because there are too few channels."""
        if unserved := self._intake.unserved:
            names = shorten(", ".join(unserved), 4000)
            self._log.error("not serving %s: no free channel", names)
        self._converge()

    def _on_error(self, error: BrokerUnavailable | BrokerRefused) -> None:
        if self._publishing.is_refused(error):
            self._log.critical("%s", error)
            control.send(self._supervisor, "failure", reason=str(error))
            self._status = ExitStatus.REFUSED
            self._loop.stop()
            return
        self._log.warning("%s; trying again", error)
        self._was_disconnected = True
        self._report_state()

    # --- signals and the end ---

    def _act_on_signals(self) -> None:
        for number in self._signals.pending():
            if number == signal.SIGTERM and not self._pipeline.is_draining:
                self._drain()
            elif number == signal.SIGHUP:
                self._configure()

    def _configure(self) -> None:
        amqp = self._reload()
        if amqp is not None:
            self._publishing.configure(amqp)
            self._consuming.configure(amqp)

    def _drain(self) -> None:
        self._pipeline.drain()
        self._announcer.tell_end(self._log)
        self._report_state()
        self._exit_if_done()

    def _exit_if_done(self) -> None:
        is_unconfirmed = self._outbound.publisher.unsettled > self._events.dispensable
        if not self._pipeline.is_draining or not self._pipeline.is_done or is_unconfirmed:
            return
        if self._workers.is_gone:
            self._intake.flush()
            self._events.say_goodbye()
            self._consuming.close(lambda: self._publishing.close(self._loop.stop))
        else:  # the consumer must stay to log the output of their `teardown`
            self._reports.send("done")
