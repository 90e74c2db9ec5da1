"""The dispatcher: routes workitems from `taskqueue` to `worker_<type>`.

A message is acknowledged after the broker has confirmed where it went. Any number of dispatchers may
run, on any number of hosts.
"""

import signal
import time
from collections.abc import Callable, Mapping
from typing import Final

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import MalformedProperties
from taskqueue.broker.delays import Delays
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.publisher import Publication, Publisher, PublishResult
from taskqueue.broker.session import Session, SessionListener
from taskqueue.broker.subscription import Delivery, Subscription
from taskqueue.broker.topology import REJECTED_QUEUE, TASKQUEUE, Provider, Queue, may_come_back, worker_queue
from taskqueue.broker.unknown_types import UnknownTypes
from taskqueue.config import AmqpSettings, DispatcherSettings
from taskqueue.dispatcher import refusals
from taskqueue.dispatcher.in_flight import InFlightMessage
from taskqueue.errors import (
    BrokerRefused,
    BrokerUnavailable,
    ExitStatus,
    TaskqueueError,
    UnknownTask,
    Unroutable,
)
from taskqueue.messages import jsonrpc
from taskqueue.messages.forwarding import is_worn, new_id, rejected, renewed, travelling, wait_of
from taskqueue.messages.results import Failure
from taskqueue.messages.routing import Format, find_route
from taskqueue.process.daemon import Signals
from taskqueue.process.logs import Log

SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP)  # both mean: finish, and leave

_MOST_BYTES: Final = 64 * 1024 * 1024  # in flight; a window of large workitems is smaller than its number
_NONE: Final = Properties()  # of a message whose own cannot be read
_ANSWER_PATIENCE: Final = 2.0  # seconds that a reply waits for room in its queue
_DECLARE_AGAIN: Final = 5.0  # seconds after a queue could not be declared


class Dispatcher(SessionListener):
    """One dispatcher process."""

    def __init__(
        self,
        settings: DispatcherSettings,
        amqp: AmqpSettings,
        formats: Mapping[str, Format],
        signals: Signals,
        on_state: Callable[[str], None],
    ) -> None:
        """Prepare; `run` does the work.

        Args:
            settings: the section [dispatcher].
            amqp: the broker's address.
            formats: what bodies are read with, by content type.
            signals: SIGTERM and SIGHUP as they come.
            on_state: hears what the dispatcher is doing, in words, once it has tried the broker.
        """
        self._settings = settings
        self._formats = formats
        self._signals = signals
        self._on_state = on_state
        self._log = Log("dispatcher")
        self._loop = EventLoop()
        self._unknown_types = UnknownTypes(settings.max_types)
        self._open: dict[InFlightMessage, Publication] = {}  # what is unconfirmed of each delivery
        self._lost: list[
            tuple[InFlightMessage, Publication]
        ] = []  # what to publish again over the next connection
        self._losses = 0  # of the publishing connection
        self._draining = False
        self.failure = ""  # why it cannot work, in words
        self._status = ExitStatus.OK
        self._publishing = Session(
            self._loop, amqp, "taskqueue dispatcher publishes", on_trouble=self._trouble
        )
        self._consuming = Session(self._loop, amqp, "taskqueue dispatcher consumes", on_trouble=self._trouble)
        self._publisher = Publisher(
            self._loop,
            self._publishing,
            on_ready=self._publisher_ready,
            on_lost=self._publisher_lost,
            on_batch=self._leave_if_done,
        )
        self._provider = Provider(self._loop, self._publishing, self._unknown_types.admit)
        self._delays = Delays(self._loop, self._publishing, self._publisher, self._provider)
        self._subscription = Subscription(
            self._loop,
            self._consuming,
            TASKQUEUE,
            settings.window,
            on_delivery=self._dispatch,
            on_consuming=lambda: self._on_state("takes work"),
            on_lost=self._open.clear,
            hold=settings.window // 4,
            most_bytes=_MOST_BYTES,
        )
        self._publishing.attach(self)
        self._consuming.attach(self)

    def run(self) -> ExitStatus:
        """Dispatch until SIGTERM, then until nothing is left unconfirmed."""
        self._loop.watch(self._signals, self._act_on_signals)
        self._publishing.open()
        self._loop.run()
        return self._status

    # --- one message ---

    def _dispatch(self, delivery: Delivery) -> None:
        """Send a message to the queue of its worker type, or to the rejected ones."""
        in_flight, code, amqp = (
            InFlightMessage(delivery, _NONE, ""),
            jsonrpc.SERVER_ERROR,
            self._publishing.amqp,
        )
        try:
            came = in_flight.properties = Properties.decode(delivery.properties)
            in_flight.id = came.message_id or new_id()
            if delivery.redelivered and is_worn(came):
                self._publish(in_flight, TASKQUEUE, renewed(came, amqp.user).encode(), delivery.body)
                return
            wait = wait_of(came, time.time())
            in_flight.due = None if wait is None else time.monotonic() + wait
            code = jsonrpc.METHOD_NOT_FOUND  # from here on, what is wrong is the worker type
            route = find_route(came, delivery.body, self._formats)
            named = came if came.message_id else came.replace(message_id=in_flight.id)
            properties = travelling(
                named,
                route.worker_type,
                content_type=route.content_type,
                login=amqp.user,
                is_cluster=amqp.is_cluster,
            )
        except (Unroutable, MalformedProperties) as error:
            self._reject(in_flight, str(error), code)
            return
        raw = delivery.properties if properties is came else properties.encode()
        self._publish(in_flight, worker_queue(route.worker_type), raw, route.body)

    def _publish(self, in_flight: InFlightMessage, queue: str, raw: bytes, body: bytes) -> None:
        publication = Publication(
            queue,
            raw,
            body,
            lambda publication, result, reason: self._published(in_flight, publication, result, reason),
        )
        self._open[in_flight] = publication
        self._send(in_flight, publication)

    def _send(self, in_flight: InFlightMessage, publication: Publication) -> None:
        wait = 0.0 if in_flight.due is None else in_flight.due - time.monotonic()
        if wait > 0:
            self._delays.publish(publication, wait)
        else:
            self._publisher.publish(publication)

    def _send_again(self, in_flight: InFlightMessage, publication: Publication) -> None:
        """Publish once more, unless the broker delivers it again or something else became of it."""
        if self._open.get(in_flight) is publication:
            self._send(in_flight, publication)

    def _published(
        self, in_flight: InFlightMessage, publication: Publication, result: PublishResult, reason: str
    ) -> None:
        if self._open.get(in_flight) is not publication:
            return  # the broker delivers it again
        if result is PublishResult.CONFIRMED:
            del self._open[in_flight]
            self._subscription.settle(in_flight.delivery)
        elif publication.exchange and result is PublishResult.RETURNED:
            self._delays.publish_again(publication)
        elif result is PublishResult.RETURNED:
            self._provide_queue(in_flight, publication)
        elif result is PublishResult.UNDECLARED:
            self._declaration_failed(in_flight, publication, reason)
        elif publication.queue != REJECTED_QUEUE:
            self._reject(in_flight, f"the broker refuses it: {reason}")
        elif not in_flight.is_bare:
            self._reject_bare(in_flight, reason)
        else:  # not even the body alone
            self._log.error("cannot be kept, and stays unacknowledged: %s", reason, workitem=in_flight.id)
            del self._open[in_flight]
            self._subscription.leave(in_flight.delivery)

    def _reject(
        self,
        in_flight: InFlightMessage,
        reason: str,
        code: int = jsonrpc.SERVER_ERROR,
        error: type[TaskqueueError] = Unroutable,
    ) -> None:
        """Tell whoever asked for a reply that a message is rejected; then keep it.

        Args:
            in_flight: the message's.
            reason: why it is rejected.
            code: what a JSON-RPC response says.
            error: what the reply calls it.
        """
        self._log.warning("rejected: %s", reason, workitem=in_flight.id or None)
        in_flight.reason, in_flight.due = reason, None
        answer = None if in_flight.is_answered else self._answer_to(in_flight, error.__name__, code)
        if answer is None:
            self._keep(in_flight)
            return
        in_flight.is_answered = True
        self._open[in_flight] = answer
        self._publisher.publish(answer)
        self._await_answer(in_flight, answer)

    def _answer_to(self, in_flight: InFlightMessage, error: str, code: int) -> Publication | None:
        return refusals.refusal(
            in_flight.properties,
            in_flight.id,
            in_flight.delivery.body,
            Failure(error, in_flight.reason, code=code),
            lambda answer, result, why: self._answered(in_flight, answer, result, why),
        )

    def _await_answer(self, in_flight: InFlightMessage, answer: Publication) -> None:
        self._loop.call_later(_ANSWER_PATIENCE, lambda: self._give_up_full(in_flight, answer))

    def _give_up_full(self, in_flight: InFlightMessage, answer: Publication) -> None:
        """Let nobody hold the dispatcher's window by asking for replies in a queue that is full."""
        if self._open.get(in_flight) is not answer:
            return
        if answer.retries:
            self._publisher.withdraw(answer)
            self._answered(in_flight, answer, PublishResult.REFUSED, f"queue {answer.queue} takes nothing")
        else:  # not yet sent, or not yet confirmed
            self._await_answer(in_flight, answer)

    def _answered(
        self, in_flight: InFlightMessage, answer: Publication, result: PublishResult, reason: str
    ) -> None:
        if self._open.get(in_flight) is not answer:
            return
        if result is not PublishResult.CONFIRMED:
            self._log.warning("its producer cannot be answered: %s", reason, workitem=in_flight.id)
        self._keep(in_flight)

    def _keep(self, in_flight: InFlightMessage) -> None:
        login = self._publishing.amqp.user
        try:
            properties = rejected(in_flight.properties, in_flight.reason, TASKQUEUE, login)
        except MalformedProperties:
            bare = in_flight.properties.replace(header_table=None)
            properties = rejected(bare, in_flight.reason, TASKQUEUE, login)
        named = properties.replace(message_id=in_flight.id or None)  # not in x-taskqueue-original
        self._publish(in_flight, REJECTED_QUEUE, named.encode(), in_flight.delivery.body)

    def _reject_bare(self, in_flight: InFlightMessage, reason: str) -> None:
        """Keep at least the body: the properties do not fit beside the reason."""
        in_flight.is_bare = True
        bare = Properties(message_id=in_flight.id or None)
        reasons = f"{in_flight.reason}; kept without its properties: {reason}"
        self._publish(
            in_flight, REJECTED_QUEUE, rejected(bare, reasons, TASKQUEUE).encode(), in_flight.delivery.body
        )

    # --- queues that are missing ---

    def _provide_queue(self, in_flight: InFlightMessage, publication: Publication) -> None:
        """Make the queue of a type that nobody serves yet: the work waits there for the plugin."""
        queue = publication.queue
        if queue != REJECTED_QUEUE and refusals.is_call(in_flight.properties, publication.body):
            reason = f"there is no queue {queue}: nobody serves it"  # no plugin will come for it
            self._reject(in_flight, reason, jsonrpc.METHOD_NOT_FOUND, UnknownTask)
            return
        refusal = self._unknown_types.refusal(queue)
        if refusal:
            self._reject(in_flight, refusal)
            return
        self._provider.provide(
            Queue(queue),
            done=lambda: self._send_again(in_flight, publication),
            failed=lambda reason: self._declaration_failed(in_flight, publication, reason),
        )

    def _declaration_failed(self, in_flight: InFlightMessage, publication: Publication, reason: str) -> None:
        if publication.queue != REJECTED_QUEUE and not may_come_back(reason):
            if reason != self._unknown_types.refusal(publication.queue):
                self._unknown_types.forget(publication.queue)
                reason = f"its queue {publication.queue} cannot be declared: {reason}"
            self._reject(in_flight, reason)
            return
        losses = self._losses
        self._loop.call_later(
            _DECLARE_AGAIN,
            lambda: self._send_again(in_flight, publication) if losses == self._losses else None,
        )

    # --- the broker comes and goes ---

    def _publisher_ready(self) -> None:
        lost, self._lost = self._lost, []
        for in_flight, publication in lost:
            self._send_again(in_flight, publication)
        if not self._draining:
            self._subscription.resume()
        self._consuming.open()

    def _publisher_lost(self) -> None:
        """Let the broker deliver again what was on its way: nobody knows what became of it.

        Where the broker closed the connection for one of those messages, they stay here to be published again
        one at a time: delivered again, they would all be sent together.
        """
        self._losses += 1
        self._subscription.pause()
        if self._publishing.fault:
            self._lost = list(self._open.items())
        else:
            self._give_back()

    def _give_back(self) -> None:
        self._lost.clear()
        self._subscription.restart()

    def session_down(self) -> None:
        """Tell what is going on; a session calls this."""
        self._on_state("waits for the broker")

    def session_blocked(self) -> None:
        """Take nothing more while nothing can be sent on; a session calls this."""
        self._subscription.pause()
        self._on_state("takes nothing new: the broker has an alarm")

    def session_unblocked(self) -> None:
        """Go on; a session calls this."""
        if self._publisher.is_ready and not self._draining:
            self._subscription.resume()

    def _trouble(self, error: BrokerUnavailable | BrokerRefused) -> None:
        if isinstance(error, BrokerRefused) and not self._publishing.ever_up:
            self._log.critical("%s", error)
            self.failure = str(error)
            self._status = ExitStatus.REFUSED
            self._loop.stop()
            return
        self._log.warning("%s; trying again", error)
        if self._lost:
            self._give_back()  # to other dispatchers
        self._on_state("waits for the broker")

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
        self._leave_if_done()

    def _leave_if_done(self) -> None:
        if not self._draining:
            return
        self._subscription.flush()
        if not self._subscription.unacknowledged:
            self._consuming.close(lambda: self._publishing.close(self._loop.stop))
