"""The dispatcher: routes workitems from `taskqueue` to `worker_<type>`.

A delivery is acknowledged after the broker has confirmed its publication to the next queue. Any number of
dispatchers may run, on any number of hosts.
"""

import signal
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import MalformedProperties
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.outbound import Outbound, OutboundListener
from taskqueue.broker.publisher import Publication, PublishResult
from taskqueue.broker.session import Session, SessionListener
from taskqueue.broker.subscription import Delivery, Subscription
from taskqueue.broker.topology import REJECTED_QUEUE, TASKQUEUE, type_of_lane, worker_queue
from taskqueue.config import AmqpSettings, DispatcherSettings, RecordSettings
from taskqueue.dispatcher import refusals
from taskqueue.dispatcher.in_flight import InFlightMessage
from taskqueue.dispatcher.lanes import Lanes
from taskqueue.dispatcher.record import DispatchRecord
from taskqueue.dispatcher.refusals import UnknownTypes
from taskqueue.dispatcher.rejections import Rejections
from taskqueue.dispatcher.replies import Replies
from taskqueue.dispatcher.uniqueness import Routed, Uniqueness
from taskqueue.errors import (
    BrokerRefused,
    BrokerUnavailable,
    ExitStatus,
    UnknownTask,
    Unroutable,
)
from taskqueue.messages import jsonrpc
from taskqueue.messages.events import ProcessState
from taskqueue.messages.forwarding import (
    is_near_delivery_limit,
    new_id,
    renewed,
    travelling,
    wait_of,
)
from taskqueue.messages.routing import Format, find_route
from taskqueue.process.daemon import Signals
from taskqueue.process.logs import Log
from taskqueue.unique.headers import unique_of

SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP)  # both drain, then end the process

_MOST_BYTES: Final = 64 * 1024 * 1024  # in flight; large workitems reach this limit before `window`
_NONE: Final = Properties()  # for a message with malformed properties
_REPLY_TIMEOUT: Final = 2.0  # seconds that a reply waits for room in its queue


class Dispatcher(SessionListener, OutboundListener):
    """One dispatcher process."""

    def __init__(
        self,
        settings: DispatcherSettings,
        amqp: AmqpSettings,
        formats: Mapping[str, Format],
        signals: Signals,
        on_state: Callable[[str], None],
        *,
        records: Mapping[str, RecordSettings],
        lanes: Mapping[str, int],
    ) -> None:
        """Prepare to `run`.

        Args:
            settings: the section [dispatcher].
            amqp: the broker's address.
            formats: the readers of bodies, by content type.
            signals: the source of SIGTERM and SIGHUP.
            on_state: takes the dispatcher's state in words, from the first attempt to connect on.
            records: what events contain of bodies, by worker type.
            lanes: the number of lanes, by worker type.
        """
        self._settings, self._formats, self._signals = settings, formats, signals
        self._on_state = on_state
        self._state = "starts"
        self._log = Log("dispatcher")
        self._loop = EventLoop()
        self._unknown_types = UnknownTypes(settings.max_types)
        self._draining = False
        self.failure = ""  # why it cannot work, in words
        self._status = ExitStatus.OK
        self._publishing = Session(
            self._loop, amqp, "taskqueue dispatcher publishes", on_error=self._on_error
        )
        self._consuming = Session(self._loop, amqp, "taskqueue dispatcher consumes", on_error=self._on_error)
        self._outbound = Outbound(self._loop, self._publishing, self, may_declare=self._unknown_types.admit)
        self._build_routing(records, lanes)
        self._subscription = Subscription(
            self._loop,
            self._consuming,
            TASKQUEUE,
            settings.window,
            on_delivery=self._dispatch,
            on_consuming=lambda: self._tell("takes work"),
            on_lost=self._forget_all,
            hold=settings.window // 4,
            most_bytes=_MOST_BYTES,
        )
        self._publishing.attach(self)
        self._consuming.attach(self)

    def _build_routing(self, records: Mapping[str, RecordSettings], lanes: Mapping[str, int]) -> None:
        self._lanes = Lanes(lanes, self._publishing)
        self._record = DispatchRecord(self._loop, self._publishing, self._outbound, records, self.recorded)
        replies = Replies(self._loop, self._outbound)
        self._rejections = Rejections(
            self._outbound, replies, self._record, publish=self.publish, on_recorded=self.recorded
        )
        self.reject = self._rejections.reject
        self.send_receipt = self._rejections.send_receipt
        self._uniqueness = Uniqueness(
            self._loop, self._publishing, self._outbound, record=self._record, replies=replies, owner=self
        )

    def run(self) -> ExitStatus:
        """Dispatch until SIGTERM or SIGHUP, then until every publication is confirmed."""
        self._loop.watch(self._signals, self._act_on_signals)
        self._record.publisher.report_process(self._described)
        self._publishing.open()
        self._loop.run()
        return self._status

    def _described(self) -> ProcessState:
        window, busy = self._settings.window, self._subscription.unacknowledged
        return ProcessState(time.time(), self._state, window, busy, prefetch=window)

    def _tell(self, state: str) -> None:
        self._state = state
        self._on_state(state)

    # --- one message ---

    def _dispatch(self, delivery: Delivery) -> None:
        """Publish a message to the queue of its worker type, or to the rejected queue."""
        in_flight, amqp = InFlightMessage(delivery, _NONE, ""), self._publishing.amqp
        code = jsonrpc.SERVER_ERROR
        try:
            received = in_flight.properties = Properties.decode(delivery.properties)
            in_flight.id = received.message_id or new_id()
            if delivery.redelivered and is_near_delivery_limit(received):
                self.publish(in_flight, TASKQUEUE, renewed(received, amqp.user).encode(), delivery.body)
                return
            wait = wait_of(received, time.time())
            code = jsonrpc.METHOD_NOT_FOUND  # from here on, Unroutable concerns the worker type
            route = find_route(received, delivery.body, self._formats)
            named = received if received.message_id else received.replace(message_id=in_flight.id)
            unique = unique_of(named, route.worker_type)
            if unique is not None and named is not received:
                self._give_id(in_flight, named)
                return
            properties = travelling(
                named,
                route.worker_type,
                content_type=route.content_type,
                login=amqp.user,
                is_cluster=amqp.is_cluster,
            )
        except (Unroutable, MalformedProperties) as error:
            self.reject(in_flight, str(error), code)
            return
        raw = delivery.properties if properties is received else properties.encode()
        is_recorded = unique is not None and unique.is_settled
        due_in = wait if wait and wait > 0 else None
        routed = Routed(route.worker_type, named, raw, route.body, due_in, is_recorded)
        if unique is None:
            self.route(in_flight, routed)
        else:
            self._uniqueness.ask(in_flight, unique, routed)

    def _give_id(self, in_flight: InFlightMessage, named: Properties) -> None:
        """Publish a unique workitem that has come without an id again, with one.

        The keeper knows by the id whose key it is. With another id after a redelivery, the workitem would be
        taken for a duplicate of itself, and dropped.
        """
        raw = renewed(named, self._publishing.amqp.user).encode()
        self.publish(in_flight, TASKQUEUE, raw, in_flight.delivery.body)

    def route(self, in_flight: InFlightMessage, routed: Routed) -> None:
        """Publish a workitem to the queue of its worker type."""
        worker_type, named, raw, body, wait, is_recorded = routed
        if not is_recorded:
            in_flight.unrecorded += self._record.routed(worker_type, named, body, wait, in_flight)
        self.publish(in_flight, self._lanes.queue(worker_type, named, wait), raw, body, wait)

    def publish(
        self, in_flight: InFlightMessage, queue: str, raw: bytes, body: bytes, wait: float | None = None
    ) -> None:
        """Publish a message, which is acknowledged once that is confirmed."""
        publication = Publication(queue, raw, body, declares=False)
        self._outbound.send(publication, partial(self._published, in_flight), wait)

    def _published(
        self, in_flight: InFlightMessage, publication: Publication, result: PublishResult, reason: str
    ) -> None:
        if result is PublishResult.CONFIRMED:
            in_flight.is_confirmed = True
            self._uniqueness.published(in_flight)
            self._settle(in_flight)
        elif result is PublishResult.RETURNED and (worker_type := type_of_lane(publication.queue)):
            self._lanes.missing(worker_type)
            self.publish(in_flight, worker_queue(worker_type), publication.properties, publication.body)
        elif result is PublishResult.RETURNED:
            self._declare_queue(in_flight, publication)
        elif result is PublishResult.UNDECLARED:
            self._declaration_failed(in_flight, publication, reason)
        elif publication.queue != REJECTED_QUEUE:
            self.reject(in_flight, f"the broker refused the message: {reason}")
        elif not in_flight.is_bare:
            self._rejections.reject_bare(in_flight, reason)
        else:  # not even the body alone
            text = "cannot be moved to %s; left unacknowledged in %s: %s"
            self._log.error(text, REJECTED_QUEUE, TASKQUEUE, reason, workitem=in_flight.id)
            self._subscription.abandon(in_flight.delivery)

    def recorded(self, in_flight: InFlightMessage) -> None:
        """Go on with a message of whose `unrecorded` one more is confirmed."""
        in_flight.unrecorded -= 1
        self._settle(in_flight)
        self._exit_if_done()

    def _settle(self, in_flight: InFlightMessage) -> None:
        """Acknowledge a message once its publication and its events are confirmed."""
        if in_flight.is_confirmed and not in_flight.unrecorded:
            self._subscription.settle(in_flight.delivery)

    # --- queues that are missing ---

    def _declare_queue(self, in_flight: InFlightMessage, publication: Publication) -> None:
        """Declare the queue of an unknown worker type: its workitems wait there for the plugin."""
        queue = publication.queue
        if queue != REJECTED_QUEUE and refusals.is_call(in_flight.properties, publication.body):
            reason = f"queue {queue} does not exist: no worker serves it"  # a call does not wait for a plugin
            self.reject(in_flight, reason, jsonrpc.METHOD_NOT_FOUND, UnknownTask)
            return
        refusal = self._unknown_types.refusal(queue)
        if refusal:
            self.reject(in_flight, refusal)
            return
        self._outbound.declare_and_send(publication, partial(self._published, in_flight))

    def _declaration_failed(self, in_flight: InFlightMessage, publication: Publication, reason: str) -> None:
        if publication.queue == REJECTED_QUEUE:
            self._outbound.send_later(publication, partial(self._published, in_flight))
            return
        if reason != self._unknown_types.refusal(publication.queue):
            self._unknown_types.forget(publication.queue)
            reason = f"queue {publication.queue} cannot be declared: {reason}"
        self.reject(in_flight, reason)

    # --- the connections to the broker ---

    def _forget_all(self) -> None:
        self._outbound.forget_all()
        self._uniqueness.forget_all()

    def outbound_ready(self) -> None:
        """Receive messages, as they can be published."""
        if not self._draining:
            self._subscription.resume()
        self._consuming.open()

    def outbound_lost(self) -> None:
        """Have the broker redeliver unconfirmed messages, whose publish result is unknown.

        If the broker closed the connection because of one of them, they stay here and are published again one
        at a time: after a redelivery, they would be sent all together.
        """
        self._subscription.pause()
        if not self._publishing.fault:
            self._subscription.restart()

    def outbound_progress(self) -> None:
        """End the process if it is draining and nothing is left to confirm."""
        self._exit_if_done()

    def session_down(self) -> None:
        """Report the state."""
        self._tell("waits for the broker")

    def session_blocked(self) -> None:
        """Stop receiving while nothing can be published, and report the state."""
        self._subscription.pause()
        self._tell("takes nothing new: the broker has an alarm")

    def session_unblocked(self) -> None:
        """Receive again."""
        if self._outbound.is_ready and not self._draining:
            self._subscription.resume()

    def _on_error(self, error: BrokerUnavailable | BrokerRefused) -> None:
        if self._publishing.is_refused(error):
            self._log.critical("%s", error)
            self.failure = str(error)
            self._status = ExitStatus.REFUSED
            self._loop.stop()
            return
        self._log.warning("%s; trying again", error)
        if self._outbound.unsettled:
            self._subscription.restart()  # for other dispatchers
        self._tell("waits for the broker")

    # --- the end ---

    def _act_on_signals(self) -> None:
        for _ in self._signals.pending():
            if self._draining:
                self._loop.stop()
            else:
                self._drain()

    def _drain(self) -> None:
        self._draining = True
        self._subscription.pause()
        self._loop.call_later(self._settings.stop_timeout, self._loop.stop)
        self._exit_if_done()

    def _exit_if_done(self) -> None:
        if not self._draining:
            return
        self._subscription.flush()
        if not self._subscription.unacknowledged:
            self._record.publisher.say_goodbye()
            self._consuming.close(lambda: self._publishing.close(self._loop.stop))
