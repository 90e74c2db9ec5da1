"""Publishes the chunks of a feed to the queue of their worker type, and consumes their receipts."""

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, Protocol

from taskqueue.amqp.properties import Properties
from taskqueue.broker.declaration import Declaration
from taskqueue.broker.errands import count_messages, delete, purge
from taskqueue.broker.events import EventPublisher
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.outbound import Outbound, OutboundListener
from taskqueue.broker.publisher import Publication, PublishResult
from taskqueue.broker.session import Session, SessionListener
from taskqueue.broker.subscription import Delivery, Subscription
from taskqueue.broker.topology import Queue, worker_queue
from taskqueue.config import AmqpSettings
from taskqueue.errors import AlreadyRunning, BrokerRefused, BrokerUnavailable, TaskqueueError
from taskqueue.feed.chunker import Chunk
from taskqueue.feed.target import receipts_queue
from taskqueue.messages.events import Routed
from taskqueue.process.logs import Log

_RECEIPTS_EXPIRE: Final = 7 * 24 * 3600 * 1000  # milliseconds that receipts wait for a feeder that is gone
_PREFETCH: Final = 60_000  # receipts that may be out until the next save
_IN_USE_TIMEOUT: Final = 3.0  # seconds until the broker has noticed that an earlier feeder was killed
_START_TIMEOUT: Final = 60.0  # seconds for the first connection; the broker may just be starting


class ChunkListener(Protocol):
    """The owner of a publisher of chunks."""

    def publisher_opened(self) -> None:
        """The chunks of an earlier run are discarded, and its receipts are passed on. Called once."""

    def publisher_ready(self) -> None:
        """Chunks can be sent. Called whenever that may have changed."""

    def publisher_failed(self, error: TaskqueueError) -> None:
        """The queues cannot be opened."""

    def receipt_received(self, delivery: Delivery) -> None:
        """A receipt is here. It may be acknowledged once its content is saved."""

    def chunk_refused(self, chunk: Chunk, reason: str) -> None:
        """The broker refuses a chunk; it is not published again."""


class ChunkPublisher(SessionListener, OutboundListener):
    """Publishes chunks until the broker has confirmed them, and consumes receipts."""

    def __init__(
        self,
        loop: EventLoop,
        amqp: AmqpSettings,
        type_: str,
        content_type: str,
        listener: ChunkListener,
    ) -> None:
        """Prepare; `open` connects.

        type_ -- the worker type
        content_type -- of the chunks
        """
        self._loop = loop
        self._type = type_
        self._content_type = content_type
        self._listener = listener
        self._log = Log("feed")
        self._sent: dict[Chunk, Publication] = {}  # unconfirmed
        self._is_open = False
        self.was_lost = False  # whether an open connection was lost; the owner resets it
        self._since = time.monotonic()
        self._publishing = Session(loop, amqp, "taskqueue feed publishes", on_error=self._session_error)
        self._consuming = Session(loop, amqp, "taskqueue feed consumes", on_error=self._session_error)
        self._outbound = Outbound(loop, self._publishing, self)
        self.events = EventPublisher[Chunk](loop, self._publishing, self._outbound, "feeder", self._type)
        self._subscription = Subscription(
            loop,
            self._consuming,
            receipts_queue(self._type),
            _PREFETCH,
            on_delivery=listener.receipt_received,
            on_consuming=self._consumes,
            on_lost=lambda: None,
            arguments={"x-expires": _RECEIPTS_EXPIRE},
            on_in_use=self._queue_in_use,
        )
        self._publishing.attach(self)

    @property
    def is_ready(self) -> bool:
        """Whether a chunk would be sent at once."""
        return self._is_open and self._outbound.is_ready and not self._publishing.is_blocked

    def open(self) -> None:
        """Connect."""
        self._publishing.open()
        self._subscription.resume()

    def send(self, chunk: Chunk) -> None:
        """Publish a chunk, and again after a lost connection until the broker has confirmed it."""
        properties = Properties(
            content_type=self._content_type,
            delivery_mode=2,
            correlation_id=chunk.id,
            reply_to=receipts_queue(self._type),
            message_id=chunk.id,
            type=self._type,
        )
        publication = Publication(worker_queue(self._type), properties.encode(), chunk.body)
        self._sent[chunk] = publication
        self.events.emit(Routed(chunk.id, self._type, time.time(), len(chunk.body)))
        self._outbound.send(publication, partial(self._published, chunk))

    def forget(self, chunk: Chunk) -> None:
        """Stop publishing a chunk, whose receipt is here."""
        publication = self._sent.pop(chunk, None)
        if publication is not None:
            self._outbound.forget(publication)

    def acknowledge(self, receipts: Iterable[Delivery]) -> None:
        """Acknowledge receipts at once; the broker redelivers those of a lost connection."""
        for receipt in receipts:
            self._subscription.settle(receipt)
        self._subscription.flush()  # the connection may be closed before the round's end

    def drop(self, message: Delivery) -> None:
        """Acknowledge a message that is not a receipt, at the end of the round."""
        self._subscription.settle(message)

    def count_waiting(self, done: Callable[[int], None]) -> None:
        """Pass `done` the number of chunks that wait for a worker; not called without a connection."""
        if self._publishing.is_up:
            count_messages(self._publishing, worker_queue(self._type), done=done, failed=self._log.error)

    def withdraw(self, done: Callable[[int], None]) -> None:
        """Remove the chunks that wait for a worker, and pass `done` their number; needs a connection."""
        if self._publishing.is_up:
            purge(self._publishing, worker_queue(self._type), done=done, failed=self._log.error)

    def close(self, then: Callable[[], None], *, is_finished: bool) -> None:
        """Close both connections, and first delete the queue of receipts if the feed is finished."""
        self._subscription.pause()

        def close_both(_: object = None) -> None:
            self.events.say_goodbye()
            self._consuming.close(lambda: self._publishing.close(then))

        if is_finished and self._publishing.is_up:
            queue = receipts_queue(self._type)
            delete(self._publishing, queue, done=close_both, failed=close_both)
        else:
            close_both()

    # --- opening ---

    def _consumes(self) -> None:
        """Discard the chunks of an earlier run before new ones are sent; its receipts are coming."""
        if self._is_open:
            return
        queue = Queue(worker_queue(self._type))
        Declaration(self._loop, self._consuming, queue, done=self._discard, failed=self._unusable)

    def _discard(self) -> None:
        queue = worker_queue(self._type)
        purge(self._consuming, queue, done=self._discarded, failed=self._unusable)

    def _unusable(self, reason: str) -> None:
        error = BrokerRefused(f"queue {worker_queue(self._type)} cannot be used: {reason}")
        self._listener.publisher_failed(error)

    def _discarded(self, count: int) -> None:
        if count:
            self._log.info("discarded %d chunks of an earlier run", count)
        self._subscription.after_deliveries(self._opened)

    def _opened(self) -> None:
        if not self._is_open:
            self._is_open = True
            self._listener.publisher_opened()

    def _queue_in_use(self) -> None:
        """Fail if the queue still has another consumer after 3 s, so that it was not killed."""
        if not self._is_open and time.monotonic() - self._since > _IN_USE_TIMEOUT:
            error = AlreadyRunning(f"another feeder feeds the workers of {self._type}")
            self._listener.publisher_failed(error)

    def _session_error(self, error: BrokerUnavailable | BrokerRefused) -> None:
        waited = time.monotonic() - self._since
        if not self._publishing.ever_up and (isinstance(error, BrokerRefused) or waited > _START_TIMEOUT):
            self._listener.publisher_failed(error)
        else:
            self._log.warning("%s; trying again", error)

    # --- publishing ---

    def _published(self, chunk: Chunk, publication: Publication, result: PublishResult, reason: str) -> None:
        if result is PublishResult.UNDECLARED:
            self._outbound.send_later(publication, partial(self._published, chunk))
            return
        del self._sent[chunk]
        if result is PublishResult.REFUSED:
            self._listener.chunk_refused(chunk, reason)

    def outbound_ready(self) -> None:
        """Consume receipts, and send chunks."""
        self._consuming.open()
        self._listener.publisher_ready()

    def outbound_progress(self) -> None:
        """Send more chunks."""
        self._listener.publisher_ready()

    def session_down(self) -> None:
        """Record that the broker may have been restarted."""
        self.was_lost = self._is_open

    def session_unblocked(self) -> None:
        """Send more chunks."""
        self._listener.publisher_ready()
