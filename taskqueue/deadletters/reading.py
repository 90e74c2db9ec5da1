"""Reading the queue of the kept messages, and what is done with each.

The queue is consumed without acknowledging. When the connection ends, in order or not, the broker puts
back what was not acknowledged where it was. One message at a time is held here.
"""

import time
from collections.abc import Callable
from typing import Any, Final

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import MalformedProperties
from taskqueue.broker.errands import count_messages
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.publisher import Publication, Publisher, PublishResult
from taskqueue.broker.session import Session, SessionListener
from taskqueue.broker.subscription import Delivery, Subscription
from taskqueue.broker.topology import Provider, Queue
from taskqueue.config import AmqpSettings
from taskqueue.deadletters.message import DeadLetter, Wanted, origin, restored
from taskqueue.errors import BrokerRefused, BrokerUnavailable, TaskqueueError, Unroutable
from taskqueue.messages.forwarding import is_worn, renewed

_MOST_PREFETCH: Final = 65_535  # a short integer in AMQP; 0, for more, is no limit
_MOST_UNCONFIRMED: Final = 500  # messages on their way back
_MOST_BYTES: Final = 16 * 1024 * 1024  # of their bodies
_MOST_TOLD: Final = 20  # of the messages that cannot go back
_QUIET: Final = 1.0  # seconds without a delivery after which is asked whether there is one left
_SILENCE: Final = 30.0  # seconds without a word from the broker


class Reading(SessionListener):
    """Reads a queue once, oldest message first, up to the depth it has at the start."""

    def __init__(self, amqp: AmqpSettings, place: str, *, at_least: int = 0, most: int | None = None) -> None:
        self._loop = EventLoop()
        self._place = place
        self._at_least = at_least
        self._most = most
        self._subscription: Subscription | None = None
        self._seen = 0
        self.done = 0  # how many messages were taken out
        self._target = 0  # how many messages are read
        self._unfinished = 0  # of them, those that are not confirmed yet
        self._is_read = False
        self.has_worn = False  # whether a message has been read so often that the queue may drop it
        self._last_word = time.monotonic()
        self._error: TaskqueueError | None = None
        self._session = Session(self._loop, amqp, "taskqueue kept reads", on_trouble=self._fail)
        self._session.attach(self)

    def run(self) -> None:
        """Read; return when the connection is closed. Raise what went wrong."""
        self._start()
        self._loop.call_later(_QUIET, self._watch)
        try:
            self._loop.run()
        finally:
            self._loop.close()
        if self._error is not None:
            raise self._error

    @property
    def left(self) -> int:
        """How many messages were there and stay."""
        return self._target - self.done

    def _start(self) -> None:
        self._session.open()

    def _handle(self, delivery: Delivery, kept: DeadLetter) -> None:
        raise NotImplementedError

    def _close(self) -> None:
        self._session.close(self._loop.stop)

    # --- from the first message to the last ---

    def session_up(self) -> None:
        """Ask how far to read; the session calls this."""
        count_messages(self._session, self._place, done=self._begin, failed=self._refused)

    def _begin(self, depth: int) -> None:
        self._target = max(depth, self._at_least)
        if not self._target:
            self._leave_when_done()
            return
        ahead = self._target if self._most is None else min(self._target, self._most)
        self._subscription = Subscription(
            self._loop,
            self._session,
            self._place,
            ahead if ahead <= _MOST_PREFETCH else 0,
            on_delivery=self._deliver,
            on_lost=self._lost,
            on_consuming=lambda: None,
        )
        self._subscription.resume()

    def _deliver(self, delivery: Delivery) -> None:
        if self._is_read:
            return  # it came after the start, and goes back with the others
        self._last_word = time.monotonic()
        self._seen += 1
        kept = DeadLetter.of(delivery.properties, delivery.body)
        self.has_worn |= delivery.redelivered and is_worn(kept.properties)
        self._handle(delivery, kept)
        self._leave_when_done()

    def _leave_when_done(self) -> None:
        self._is_read = self._is_read or self._seen >= self._target
        if self._is_read and not self._unfinished:
            if self._subscription is not None:
                self._subscription.flush()
            self._close()

    # --- what can go wrong ---

    def _fail(self, error: TaskqueueError) -> None:
        self._error = self._error or error
        self._loop.stop()

    def _refused(self, reason: str) -> None:
        self._fail(BrokerRefused(f"queue {self._place} cannot be read: {reason}"))

    def session_down(self) -> None:
        """Give up; a session calls this."""
        self._lost()

    def _lost(self) -> None:
        self._fail(BrokerUnavailable("the connection to the broker was lost before all was done"))

    def _watch(self) -> None:
        """Never wait for ever: others may have taken what we wait for, or the broker have an alarm."""
        silent = time.monotonic() - self._last_word
        if silent > _SILENCE:
            self._fail(BrokerUnavailable(f"the broker has said nothing for {_SILENCE:g} s"))
        elif (
            silent > _QUIET and self._subscription is not None and not self._is_read and not self._unfinished
        ):
            count_messages(self._session, self._place, done=self._look_again, failed=self._refused)
        self._loop.call_later(_QUIET, self._watch)

    def _look_again(self, depth: int) -> None:
        if not depth and self._subscription is not None:
            self._subscription.after_deliveries(self._nothing_left)

    def _nothing_left(self) -> None:
        self._is_read = True
        self._leave_when_done()


class Browsing(Reading):
    """Looks, and leaves everything where it is."""

    def __init__(
        self, amqp: AmqpSettings, place: str, look: Callable[[DeadLetter], Any], most: int | None
    ) -> None:
        super().__init__(amqp, place, most=most)
        self._look = look

    def _handle(self, _delivery: Delivery, kept: DeadLetter) -> None:
        if self._look(kept) is True:
            self._is_read = True


class Purging(Reading):
    """Acknowledges what is wanted no more."""

    def __init__(self, amqp: AmqpSettings, place: str, wanted: Wanted) -> None:
        super().__init__(amqp, place)
        self._wanted = wanted

    def _handle(self, delivery: Delivery, kept: DeadLetter) -> None:
        if self._wanted(kept) and self._subscription is not None:
            self._subscription.settle(delivery)
            self.done += 1


class Retrying(Reading):
    """Publishes what is wanted once more, and acknowledges what the broker has confirmed."""

    def __init__(self, amqp: AmqpSettings, place: str, wanted: Wanted, at_least: int) -> None:
        super().__init__(amqp, place, at_least=at_least)
        self._wanted = wanted
        self._bytes = 0  # of the bodies on their way
        self._stuck: list[tuple[str, str]] = []  # ids of what cannot be sent back, and why
        self._out: dict[Publication, None] = {}  # what is on its way
        self._is_lost = False  # whether it must be published once more
        # A connection of its own: confirms must come in while reading stops.
        self._publishing = Session(self._loop, amqp, "taskqueue kept publishes", on_trouble=self._fail)
        self._provider = Provider(self._loop, self._publishing)
        self._publisher = Publisher(
            self._loop,
            self._publishing,
            on_ready=self._ready,
            on_lost=self._publishing_lost,
            on_batch=self._confirmed,
        )

    def _start(self) -> None:
        self._publishing.open()

    def _ready(self) -> None:
        self._session.open()
        if self._is_lost:
            self._is_lost = False
            for publication in tuple(self._out):
                self._publisher.publish(publication)

    def _publishing_lost(self) -> None:
        """Go on where the broker closed the connection for one of the messages: the publisher finds it."""
        if self._publishing.fault:
            self._is_lost = True
        else:
            self._lost()

    def _close(self) -> None:
        if self._stuck:
            self._error = BrokerRefused(
                f"{self.done} retried; {len(self._stuck)} stay where they are\n" + self._why()
            )
        self._session.close(lambda: self._publishing.close(self._loop.stop))

    def _why(self) -> str:
        """Tell what the first ones are stuck for, a line each."""
        return "\n".join(f"{name or 'no id'}: {why}" for name, why in self._stuck[:_MOST_TOLD])

    def _handle(self, delivery: Delivery, kept: DeadLetter) -> None:
        if not self._wanted(kept):
            return
        try:
            queue, properties = self._way(kept)
        except (Unroutable, MalformedProperties) as error:
            self._stuck.append((kept.id, str(error)))
            return
        self._count(delivery, 1)
        publication = Publication(
            queue,
            properties.encode(),
            delivery.body,
            lambda publication, result, reason: self._published(
                delivery, kept.id, publication, result, reason
            ),
        )
        self._out[publication] = None
        self._publisher.publish(publication)

    def _way(self, kept: DeadLetter) -> tuple[str, Properties]:
        """Return where a message goes, and its properties there."""
        return origin(kept, self._place), restored(kept.properties, self._publishing.amqp.user)

    def _count(self, delivery: Delivery, change: int) -> None:
        """Count what is on its way in or out; read no more while that is much."""
        self._unfinished += change
        self._bytes += change * len(delivery.body)
        if self._unfinished > _MOST_UNCONFIRMED or self._bytes > _MOST_BYTES:
            self._session.backpressure.apply()
        else:
            self._session.backpressure.release()

    def _published(
        self, delivery: Delivery, name: str, publication: Publication, result: PublishResult, reason: str
    ) -> None:
        if result is PublishResult.RETURNED:
            self._provide_queue(publication)
            return
        del self._out[publication]
        self._count(delivery, -1)
        if result is PublishResult.REFUSED:
            self._stuck.append((name, f"the broker refuses it: {reason}"))
        elif self._subscription is not None:
            self._subscription.settle(delivery)
            self.done += 1

    def _confirmed(self) -> None:
        self._last_word = time.monotonic()
        self._leave_when_done()

    def _provide_queue(self, publication: Publication) -> None:
        queue = publication.queue
        self._provider.provide(
            Queue(queue),
            done=lambda: self._publisher.publish(publication),
            failed=lambda why: self._fail(BrokerRefused(f"queue {queue} cannot be declared: {why}")),
        )


class Renewing(Retrying):
    """Puts worn messages into the same queue anew; see taskqueue.wear."""

    def __init__(self, amqp: AmqpSettings, place: str, at_least: int) -> None:
        super().__init__(amqp, place, lambda kept: is_worn(kept.properties), at_least)

    def _way(self, kept: DeadLetter) -> tuple[str, Properties]:
        return self._place, renewed(kept.properties, self._publishing.amqp.user)
