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
from taskqueue.broker.new_types import NewTypes
from taskqueue.broker.publisher import Fate, Publication, Publisher
from taskqueue.broker.session import Part, Session
from taskqueue.broker.subscription import Delivery, Subscription
from taskqueue.broker.topology import REJECTED, TASKQUEUE, Provider, Queue, may_come_back, worker_queue
from taskqueue.config import AmqpSettings, DispatcherSettings
from taskqueue.dispatcher import refusals
from taskqueue.dispatcher.passage import Passage
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


class Dispatcher(Part):
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
        self._new_types = NewTypes(settings.max_types)
        self._open: dict[Passage, Publication] = {}  # what is unconfirmed of each delivery
        self._lost: list[tuple[Passage, Publication]] = []  # what to publish again over the next connection
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
        self._provider = Provider(self._loop, self._publishing, self._new_types.admit)
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
        passage, code, amqp = Passage(delivery, _NONE, ""), jsonrpc.SERVER_ERROR, self._publishing.amqp
        try:
            came = passage.properties = Properties.decode(delivery.properties)
            passage.id = came.message_id or new_id()
            if delivery.redelivered and is_worn(came):
                self._publish(passage, TASKQUEUE, renewed(came, amqp.user).encode(), delivery.body)
                return
            wait = wait_of(came, time.time())
            passage.due = None if wait is None else time.monotonic() + wait
            code = jsonrpc.METHOD_NOT_FOUND  # from here on, what is wrong is the worker type
            route = find_route(came, delivery.body, self._formats)
            named = came if came.message_id else came.replace(message_id=passage.id)
            properties = travelling(
                named,
                route.worker_type,
                content_type=route.content_type,
                login=amqp.user,
                is_cluster=amqp.is_cluster,
            )
        except (Unroutable, MalformedProperties) as error:
            self._reject(passage, str(error), code)
            return
        raw = delivery.properties if properties is came else properties.encode()
        self._publish(passage, worker_queue(route.worker_type), raw, route.body)

    def _publish(self, passage: Passage, queue: str, raw: bytes, body: bytes) -> None:
        publication = Publication(
            queue,
            raw,
            body,
            lambda publication, fate, reason: self._published(passage, publication, fate, reason),
        )
        self._open[passage] = publication
        self._send(passage, publication)

    def _send(self, passage: Passage, publication: Publication) -> None:
        wait = 0.0 if passage.due is None else passage.due - time.monotonic()
        if wait > 0:
            self._delays.publish(publication, wait)
        else:
            self._publisher.publish(publication)

    def _send_again(self, passage: Passage, publication: Publication) -> None:
        """Publish once more, unless the broker delivers it again or something else became of it."""
        if self._open.get(passage) is publication:
            self._send(passage, publication)

    def _published(self, passage: Passage, publication: Publication, fate: Fate, reason: str) -> None:
        if self._open.get(passage) is not publication:
            return  # the broker delivers it again
        if fate is Fate.CONFIRMED:
            del self._open[passage]
            self._subscription.settle(passage.delivery)
        elif publication.exchange and (fate is Fate.RETURNED or "no exchange" in reason):
            self._delays.publish_again(publication)
        elif fate is Fate.RETURNED:
            self._provide_queue(passage, publication)
        elif fate is Fate.UNDECLARED:
            self._declaration_failed(passage, publication, reason)
        elif publication.queue != REJECTED:
            self._reject(passage, f"the broker refuses it: {reason}")
        elif not passage.is_bare:
            self._reject_bare(passage, reason)
        else:  # not even the body alone
            self._log.error("cannot be kept, and stays unacknowledged: %s", reason, workitem=passage.id)
            del self._open[passage]
            self._subscription.leave(passage.delivery)

    def _reject(
        self,
        passage: Passage,
        reason: str,
        code: int = jsonrpc.SERVER_ERROR,
        error: type[TaskqueueError] = Unroutable,
    ) -> None:
        """Tell whoever asked for a reply that a message is rejected; then keep it.

        Args:
            passage: the message's.
            reason: why it is rejected.
            code: what a JSON-RPC response says.
            error: what the reply calls it.
        """
        self._log.warning("rejected: %s", reason, workitem=passage.id or None)
        passage.reason, passage.due = reason, None
        answer = None if passage.is_answered else self._answer_to(passage, error.__name__, code)
        if answer is None:
            self._keep(passage)
            return
        passage.is_answered = True
        self._open[passage] = answer
        self._publisher.publish(answer)
        self._await_answer(passage, answer)

    def _answer_to(self, passage: Passage, error: str, code: int) -> Publication | None:
        return refusals.refusal(
            passage.properties,
            passage.id,
            passage.delivery.body,
            Failure(error, passage.reason, code=code),
            lambda answer, fate, why: self._answered(passage, answer, fate, why),
        )

    def _await_answer(self, passage: Passage, answer: Publication) -> None:
        self._loop.call_later(_ANSWER_PATIENCE, lambda: self._give_up_full(passage, answer))

    def _give_up_full(self, passage: Passage, answer: Publication) -> None:
        """Let nobody hold the dispatcher's window by asking for replies in a queue that is full."""
        if self._open.get(passage) is not answer:
            return
        if answer.retries:
            self._publisher.withdraw(answer)
            self._answered(passage, answer, Fate.REFUSED, f"queue {answer.queue} takes nothing")
        else:  # not yet sent, or not yet confirmed
            self._await_answer(passage, answer)

    def _answered(self, passage: Passage, answer: Publication, fate: Fate, reason: str) -> None:
        if self._open.get(passage) is not answer:
            return
        if fate is not Fate.CONFIRMED:
            self._log.warning("its producer cannot be answered: %s", reason, workitem=passage.id)
        self._keep(passage)

    def _keep(self, passage: Passage) -> None:
        login = self._publishing.amqp.user
        try:
            properties = rejected(passage.properties, passage.reason, TASKQUEUE, login)
        except MalformedProperties:
            bare = passage.properties.replace(header_table=None)
            properties = rejected(bare, passage.reason, TASKQUEUE, login)
        named = properties.replace(message_id=passage.id or None)  # not in x-taskqueue-original
        self._publish(passage, REJECTED, named.encode(), passage.delivery.body)

    def _reject_bare(self, passage: Passage, reason: str) -> None:
        """Keep at least the body: the properties do not fit beside the reason."""
        passage.is_bare = True
        bare = Properties(message_id=passage.id or None)
        reasons = f"{passage.reason}; kept without its properties: {reason}"
        self._publish(passage, REJECTED, rejected(bare, reasons, TASKQUEUE).encode(), passage.delivery.body)

    # --- queues that are missing ---

    def _provide_queue(self, passage: Passage, publication: Publication) -> None:
        """Make the queue of a type that nobody serves yet: the work waits there for the plugin."""
        queue = publication.queue
        if queue != REJECTED and refusals.is_call(passage.properties, publication.body):
            reason = f"there is no queue {queue}: nobody serves it"  # no plugin will come for it
            self._reject(passage, reason, jsonrpc.METHOD_NOT_FOUND, UnknownTask)
            return
        refusal = self._new_types.refusal(queue)
        if refusal:
            self._reject(passage, refusal)
            return
        self._provider.provide(
            Queue(queue),
            done=lambda: self._send_again(passage, publication),
            failed=lambda reason: self._declaration_failed(passage, publication, reason),
        )

    def _declaration_failed(self, passage: Passage, publication: Publication, reason: str) -> None:
        if publication.queue != REJECTED and not may_come_back(reason):
            if reason != self._new_types.refusal(publication.queue):
                self._new_types.forget(publication.queue)
                reason = f"its queue {publication.queue} cannot be declared: {reason}"
            self._reject(passage, reason)
            return
        losses = self._losses
        self._loop.call_later(
            _DECLARE_AGAIN,
            lambda: self._send_again(passage, publication) if losses == self._losses else None,
        )

    # --- the broker comes and goes ---

    def _publisher_ready(self) -> None:
        lost, self._lost = self._lost, []
        for passage, publication in lost:
            self._send_again(passage, publication)
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
