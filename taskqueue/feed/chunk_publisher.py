"""The feeder's line to the workers: chunks to the queue of their type, receipts from a queue of its own."""

import time
from collections.abc import Callable, Iterable
from typing import Final

from taskqueue.amqp.properties import Properties
from taskqueue.broker.errands import count_messages, delete, purge
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.publisher import Publication, Publisher, PublishResult
from taskqueue.broker.session import Session, SessionListener
from taskqueue.broker.subscription import Delivery, Subscription
from taskqueue.broker.topology import Declaration, Provider, Queue, worker_queue
from taskqueue.config import AmqpSettings
from taskqueue.errors import AlreadyRunning, BrokerRefused, BrokerUnavailable, TaskqueueError
from taskqueue.feed.chunks import Chunk
from taskqueue.feed.target import receipts_queue
from taskqueue.process.logs import Log

_RECEIPTS_EXPIRE: Final = 7 * 24 * 3600 * 1000  # milliseconds that receipts wait for a feeder that is gone
_PREFETCH: Final = 60_000  # receipts that may be out until the next save
_TAKEN_TIMEOUT: Final = 3.0  # seconds until the broker has noticed that an earlier feeder was killed
_START_TIMEOUT: Final = 60.0  # seconds for the first connection; the broker may just be starting
_AGAIN: Final = 5.0  # seconds until a queue that cannot be declared is tried again


class ChunkPublisher(SessionListener):
    """Sends chunks until the broker has confirmed them, and takes receipts."""

    def __init__(
        self,
        loop: EventLoop,
        amqp: AmqpSettings,
        type_: str,
        content_type: str,
        *,
        on_open: Callable[[], None],
        on_ready: Callable[[], None],
        on_receipt: Callable[[Delivery], None],
        on_refused: Callable[[Chunk, str], None],
        on_error: Callable[[TaskqueueError], None],
    ) -> None:
        """Prepare; nothing is connected before `open`.

        type_ -- the worker type
        content_type -- of the chunks
        on_open -- called once: what an earlier run left behind is discarded, its receipts were handed over
        on_ready -- chunks can be sent; called whenever that may have changed
        on_receipt -- takes each receipt; nothing may be acknowledged before its content is saved
        on_refused -- the broker never takes a chunk, with the reason
        on_error -- the line cannot be opened
        """
        self._loop = loop
        self._type = type_
        self._content_type = content_type
        self._on_open, self._on_ready = on_open, on_ready
        self._on_refused, self._on_error = on_refused, on_error
        self._log = Log("feed")
        self._sent: dict[Chunk, Publication] = {}  # and not confirmed
        self._is_open = False
        self.was_lost = False  # since it was open, and nobody has taken note of that
        self._since = time.monotonic()
        self._open_sessions(amqp, on_receipt)

    def _open_sessions(self, amqp: AmqpSettings, on_receipt: Callable[[Delivery], None]) -> None:
        loop = self._loop
        self._publishing = Session(loop, amqp, "taskqueue feed publishes", on_trouble=self._trouble)
        self._consuming = Session(loop, amqp, "taskqueue feed consumes", on_trouble=self._trouble)
        self._provider = Provider(loop, self._publishing)
        self._publisher = Publisher(
            loop, self._publishing, on_ready=self._send_again, on_lost=_nothing, on_batch=self._on_ready
        )
        self._subscription = Subscription(
            loop,
            self._consuming,
            receipts_queue(self._type),
            _PREFETCH,
            on_delivery=on_receipt,
            on_consuming=self._consumes,
            on_lost=_nothing,
            arguments={"x-expires": _RECEIPTS_EXPIRE},
            on_taken=self._taken,
        )
        self._publishing.attach(self)

    @property
    def is_ready(self) -> bool:
        """Whether a chunk that is sent now leaves now."""
        return self._is_open and self._publisher.is_ready and not self._publishing.is_blocked

    def open(self) -> None:
        """Connect."""
        self._publishing.open()
        self._subscription.resume()

    def send(self, chunk: Chunk) -> None:
        """Publish a chunk; it is published again as long as the broker has not confirmed it."""
        properties = Properties(
            content_type=self._content_type,
            delivery_mode=2,
            correlation_id=chunk.id,
            reply_to=receipts_queue(self._type),
            message_id=chunk.id,
            type=self._type,
        )
        publication = Publication(
            worker_queue(self._type),
            properties.encode(),
            chunk.body,
            lambda publication, result, reason: self._settled(chunk, publication, result, reason),
        )
        self._sent[chunk] = publication
        self._publisher.publish(publication)

    def forget(self, chunk: Chunk) -> None:
        """Note that a chunk's receipt is here: it need not be published again."""
        self._sent.pop(chunk, None)

    def acknowledge(self, receipts: Iterable[Delivery]) -> None:
        """Have the broker forget receipts; those of a connection that was lost come again."""
        for receipt in receipts:
            self._subscription.settle(receipt)
        self._subscription.flush()  # the connection may be closed before the round's end

    def drop(self, message: Delivery) -> None:
        """Have the broker forget what is no receipt."""
        self._subscription.settle(message)

    def count_waiting(self, done: Callable[[int], None]) -> None:
        """Ask how many chunks wait that no worker has been given; not answered without a connection."""
        if self._publishing.is_up:
            count_messages(self._publishing, worker_queue(self._type), done=done, failed=self._log.error)

    def withdraw(self, done: Callable[[int], None]) -> None:
        """Remove the chunks that no worker has been given; `done` takes their number, if there is one."""
        if self._publishing.is_up:
            purge(self._publishing, worker_queue(self._type), done=done, failed=self._log.error)

    def close(self, then: Callable[[], None], *, is_finished: bool) -> None:
        """Close both connections; where no receipt will be wanted any more, delete their queue before."""
        self._subscription.pause()

        def leave(_: object = None) -> None:
            self._consuming.close(lambda: self._publishing.close(then))

        if is_finished and self._publishing.is_up:
            queue = receipts_queue(self._type)
            delete(self._publishing, queue, done=leave, failed=leave)
        else:
            leave()

    # --- opening ---

    def _consumes(self) -> None:
        """The receipts of an earlier run are coming; its chunks must go before new ones are sent."""
        if self._is_open:
            return
        queue = Queue(worker_queue(self._type))
        Declaration(self._loop, self._consuming, queue, done=self._discard, failed=self._unusable)

    def _discard(self) -> None:
        queue = worker_queue(self._type)
        purge(self._consuming, queue, done=self._discarded, failed=self._unusable)

    def _unusable(self, reason: str) -> None:
        self._on_error(BrokerRefused(f"queue {worker_queue(self._type)} cannot be used: {reason}"))

    def _discarded(self, count: int) -> None:
        if count:
            self._log.info("%d chunks of an earlier run discarded", count)
        self._subscription.after_deliveries(self._opened)

    def _opened(self) -> None:
        if not self._is_open:
            self._is_open = True
            self._on_open()

    def _taken(self) -> None:
        """Somebody consumes the receipts: a feeder that was just killed, or one that lives."""
        if not self._is_open and time.monotonic() - self._since > _TAKEN_TIMEOUT:
            self._on_error(AlreadyRunning(f"another feeder feeds the workers of {self._type}"))

    def _trouble(self, error: BrokerUnavailable | BrokerRefused) -> None:
        waited = time.monotonic() - self._since
        if not self._publishing.ever_up and (isinstance(error, BrokerRefused) or waited > _START_TIMEOUT):
            self._on_error(error)
        else:
            self._log.warning("%s; trying again", error)

    # --- publishing ---

    def _settled(self, chunk: Chunk, publication: Publication, result: PublishResult, reason: str) -> None:
        if self._sent.get(chunk) is not publication:
            return
        if result is PublishResult.RETURNED:
            self._provide(publication)
            return
        del self._sent[chunk]
        if result is PublishResult.REFUSED:
            self._on_refused(chunk, reason)

    def _provide(self, publication: Publication) -> None:
        def failed(reason: str) -> None:
            self._log.error("queue %s cannot be declared: %s", publication.queue, reason)
            self._loop.call_later(_AGAIN, lambda: self._provide(publication))

        self._provider.provide(
            Queue(publication.queue), done=lambda: self._publisher.publish(publication), failed=failed
        )

    def _send_again(self) -> None:
        """Publish once more what was unconfirmed; its receipt may come twice."""
        for publication in list(self._sent.values()):
            self._publisher.publish(publication)
        self._consuming.open()
        self._on_ready()

    def session_down(self) -> None:
        """Note that the broker may have been restarted; a session calls this."""
        self.was_lost = self._is_open

    def session_unblocked(self) -> None:
        """Go on; a session calls this."""
        self._on_ready()


def _nothing() -> None:
    pass
