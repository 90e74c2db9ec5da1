"""Reading a queue of dead letters, to browse, purge, retry or renew them.

The queue is consumed without acknowledgements. When the connection ends, for whatever reason, the broker
requeues unacknowledged messages at their old positions. One message at a time is held here.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import MalformedProperties
from taskqueue.broker.errands import QueueSize, count_messages, measure
from taskqueue.broker.events import EventPublisher
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.outbound import Outbound, OutboundListener
from taskqueue.broker.publisher import Publication, PublishResult
from taskqueue.broker.session import Session, SessionListener
from taskqueue.broker.subscription import Delivery, Subscription
from taskqueue.broker.topology import TASKQUEUE
from taskqueue.config import AmqpSettings
from taskqueue.deadletters.message import DeadLetter, Wanted, origin, restored
from taskqueue.errors import BrokerRefused, BrokerUnavailable, NotRetried, Unroutable
from taskqueue.messages.events import Retried
from taskqueue.messages.forwarding import is_near_delivery_limit, renewed
from taskqueue.messages.recording import tenant_and_labels

_MOST_PREFETCH: Final = 65_535  # prefetch is a short integer in AMQP; beyond it, 0 for no limit is used
_MOST_UNCONFIRMED: Final = 500  # messages that are sent back and not confirmed yet
_MOST_BYTES: Final = 16 * 1024 * 1024  # bytes of their bodies
_MOST_TOLD: Final = 20  # reported messages that cannot be sent back
_QUIET: Final = 1.0  # seconds without a delivery after which the queue's depth is read again
_OTHERS_TIMEOUT: Final = 5.0  # seconds to wait for messages that another reader has
_OTHERS_DELAY: Final = 0.1  # seconds between two measurements of the queue meanwhile
_SILENCE: Final = 30.0  # seconds without a delivery or confirm after which reading fails


class Reading(SessionListener):
    """Reads a queue once, oldest message first, up to its depth at the start."""

    def __init__(self, amqp: AmqpSettings, place: str, *, at_least: int = 0, most: int | None = None) -> None:
        self.amqp = amqp
        self.place = place
        self._loop = EventLoop()
        self._at_least = at_least
        self._most = most
        self._subscription: Subscription | None = None
        self._seen = 0
        self.done = 0  # number of messages that were removed
        self._target = 0  # number of messages to read
        self._unfinished = 0  # of these, the unconfirmed ones
        self._is_read = False
        self._is_closing = False
        self.has_others = False  # whether another process reads the queue, which is empty otherwise
        self._wait_until = time.monotonic() + _OTHERS_TIMEOUT
        self.has_near_limit = False  # whether the queue may drop a message soon, after many deliveries
        self._last_progress = time.monotonic()
        self._session = Session(self._loop, amqp, "taskqueue deadletters reads", on_error=self._loop.fail)
        self._session.attach(self)

    def run(self) -> None:
        """Read until the connection is closed. Raises the first error."""
        self._start()
        self._loop.call_later(_QUIET, self._watch)
        try:
            self._loop.run()
        finally:
            self._loop.close()

    @property
    def left(self) -> int:
        """Number of messages that were in the queue at the start and stay there."""
        return self._target - self.done

    def _start(self) -> None:
        self._session.open()

    def _handle(self, delivery: Delivery, letter: DeadLetter) -> None:
        raise NotImplementedError

    def _close(self) -> None:
        self._session.close(self._loop.stop)

    # --- reading ---

    def session_up(self) -> None:
        """Measure the queue, then begin to consume."""
        measure(self._session, self.place, done=self._begin, failed=self._refused)

    def _begin(self, found: QueueSize) -> None:
        self._target = max(found.messages, self._at_least)
        self.has_others = bool(found.consumers and not self._target)
        if self.has_others and time.monotonic() < self._wait_until:
            self._last_progress = time.monotonic()  # the broker requeues what a reader had once it is gone
            self._loop.call_later(_OTHERS_DELAY, self.session_up)
        elif not self._target:
            self._leave_when_done()
        else:
            self._consume()

    def _consume(self) -> None:
        ahead = self._target if self._most is None else min(self._target, self._most)
        self._subscription = Subscription(
            self._loop,
            self._session,
            self.place,
            ahead if ahead <= _MOST_PREFETCH else 0,
            on_delivery=self._deliver,
            on_lost=self._lost,
            on_consuming=lambda: None,
        )
        self._subscription.resume()

    def _deliver(self, delivery: Delivery) -> None:
        if self._is_read:
            return  # beyond the depth at the start; it is requeued with the others
        self._last_progress = time.monotonic()
        self._seen += 1
        letter = DeadLetter.of(delivery.properties, delivery.body)
        self.has_near_limit |= delivery.redelivered and is_near_delivery_limit(letter.properties)
        self._handle(delivery, letter)
        self._leave_when_done()

    def _leave_when_done(self) -> None:
        self._is_read = self._is_read or self._seen >= self._target
        if self._is_read and not self._unfinished and not self._is_closing:
            self._is_closing = True
            if self._subscription is not None:
                self._subscription.flush()
            self._close()

    def _remove(self, delivery: Delivery) -> None:
        if self._subscription is not None:
            self._subscription.settle(delivery)
        self.done += 1

    # --- failures ---

    def _refused(self, reason: str) -> None:
        self._loop.fail(BrokerRefused(f"queue {self.place} cannot be read: {reason}"))

    def session_down(self) -> None:
        """Fail with BrokerUnavailable."""
        self._lost()

    def _lost(self) -> None:
        self._loop.fail(BrokerUnavailable("the connection to the broker was lost before everything was done"))

    def _watch(self) -> None:
        """End the reading if others have taken the remaining messages, or fail if the broker stays silent."""
        silent = time.monotonic() - self._last_progress
        if silent > _SILENCE:
            self._loop.fail(BrokerUnavailable(f"no message or confirm from the broker for {_SILENCE:g} s"))
        elif (
            silent > _QUIET and self._subscription is not None and not self._is_read and not self._unfinished
        ):
            count_messages(self._session, self.place, done=self._look_again, failed=self._refused)
        self._loop.call_later(_QUIET, self._watch)

    def _look_again(self, depth: int) -> None:
        if not depth and self._subscription is not None:
            self._subscription.after_deliveries(self._nothing_left)

    def _nothing_left(self) -> None:
        self._is_read = True
        self._leave_when_done()


class Browsing(Reading):
    """Passes each message to `look` and acknowledges none."""

    def __init__(
        self, amqp: AmqpSettings, place: str, look: Callable[[DeadLetter], Any], most: int | None
    ) -> None:
        super().__init__(amqp, place, most=most)
        self._look = look

    def _handle(self, _delivery: Delivery, letter: DeadLetter) -> None:
        if self._look(letter) is True:
            self._is_read = True


class Purging(Reading):
    """Acknowledges the messages that `wanted` selects, which removes them."""

    def __init__(
        self, amqp: AmqpSettings, place: str, wanted: Wanted, at_least: int, body: bytes | None = None
    ) -> None:
        super().__init__(amqp, place, at_least=at_least)
        self._wanted = wanted
        self._body = body  # that replaces those of the messages

    def _handle(self, delivery: Delivery, letter: DeadLetter) -> None:
        if self._wanted(letter):
            self._remove(delivery)


class Retrying(Reading, OutboundListener):
    """Publishes the messages that `wanted` selects again, and acknowledges each once it is confirmed."""

    def __init__(
        self, amqp: AmqpSettings, place: str, wanted: Wanted, at_least: int, body: bytes | None = None
    ) -> None:
        super().__init__(amqp, place, at_least=at_least)
        self._wanted = wanted
        self._body = body  # that replaces those of the messages
        self._bytes = 0  # of the unconfirmed bodies
        self._stuck: list[tuple[str, str]] = []  # ids of messages that cannot be sent back, and why
        self._is_refused = False  # whether the broker has refused one of them
        # A separate connection, because confirms must come in while backpressure stops the reading.
        self._publishing = Session(
            self._loop, amqp, "taskqueue deadletters publishes", on_error=self._loop.fail
        )
        self._outbound = Outbound(self._loop, self._publishing, self)
        self._events = EventPublisher[Delivery](self._loop, self._publishing, self._outbound, "retry")
        self._events.on_recorded = self._finish

    def _start(self) -> None:
        self._publishing.open()

    def outbound_ready(self) -> None:
        """Open the session that reads."""
        self._session.open()

    def outbound_lost(self) -> None:
        """Fail, unless the broker closed the connection because of a message, which the publisher finds."""
        if not self._publishing.fault:
            self._lost()

    def outbound_progress(self) -> None:
        """Record the progress; close the connections if everything is done."""
        self._last_progress = time.monotonic()
        self._leave_when_done()

    def _close(self) -> None:
        end = self._loop.stop
        if self._stuck:
            kind = BrokerRefused if self._is_refused else NotRetried
            reasons = "\n".join(f"{name or 'no id'}: {why}" for name, why in self._stuck[:_MOST_TOLD])
            error = kind(f"{self.done} retried; {len(self._stuck)} stay in {self.place}\n{reasons}")
            end = partial(self._loop.fail, error)
        self._session.close(lambda: self._publishing.close(end))

    def _handle(self, delivery: Delivery, letter: DeadLetter) -> None:
        if not self._wanted(letter):
            return
        try:
            queue, properties = self._way(letter)
        except (Unroutable, MalformedProperties) as error:
            self._stuck.append((letter.id, str(error)))
            return
        self._count(delivery, 1)
        body = delivery.body if self._body is None else self._body
        publication = Publication(queue, properties.encode(), body)
        self._outbound.send(publication, partial(self._published, _Sent(delivery, letter, time.time())))

    def _way(self, letter: DeadLetter) -> tuple[str, Properties]:
        """Return the queue for a message, and its properties there."""
        return origin(letter, self.place), restored(letter.properties, self._publishing.amqp.user)

    def _count(self, delivery: Delivery, change: int) -> None:
        """Count an unconfirmed message and its bytes in or out; apply backpressure while there are many."""
        self._unfinished += change
        self._bytes += change * len(delivery.body)
        if self._unfinished > _MOST_UNCONFIRMED or self._bytes > _MOST_BYTES:
            self._session.backpressure.apply()
        else:
            self._session.backpressure.release()

    def _published(self, sent: "_Sent", publication: Publication, result: PublishResult, reason: str) -> None:
        if result is PublishResult.UNDECLARED:
            self._loop.fail(BrokerRefused(f"queue {publication.queue} cannot be declared: {reason}"))
        elif result is PublishResult.REFUSED:
            self._count(sent.delivery, -1)
            self._is_refused = True
            self._stuck.append((sent.letter.id, f"the broker refused the message: {reason}"))
        elif not self._tell(sent, publication.queue):
            self._finish(sent.delivery)

    def _tell(self, sent: "_Sent", queue: str) -> bool:
        """Tell the record that a message was sent back; return whether `_finish` waits for it."""
        letter = sent.letter
        if not letter.id or not self._events.is_on:
            return False
        about = tenant_and_labels(letter.properties)
        is_routed = int(queue != TASKQUEUE)
        event = Retried(letter.id, letter.worker_type, sent.at, letter.when, is_routed, *about)
        return self._events.emit(event, sent.delivery)

    def _finish(self, delivery: Delivery) -> None:
        self._count(delivery, -1)
        self._remove(delivery)
        self._leave_when_done()


class _Sent(NamedTuple):
    """A message that was sent back."""

    delivery: Delivery
    letter: DeadLetter
    at: float  # seconds since 1970


class Renewing(Retrying):
    """Publishes messages near the delivery limit to the same queue again; see messages/forwarding.py."""

    def __init__(self, amqp: AmqpSettings, place: str, at_least: int) -> None:
        super().__init__(amqp, place, lambda letter: is_near_delivery_limit(letter.properties), at_least)

    def _tell(self, _sent: _Sent, _queue: str) -> bool:
        return False  # it stays where it is

    def _way(self, letter: DeadLetter) -> tuple[str, Properties]:
        return self.place, renewed(letter.properties, self._publishing.amqp.user)
