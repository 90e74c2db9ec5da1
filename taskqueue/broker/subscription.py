"""Consumes one queue: deliveries in, acknowledgements out."""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from taskqueue.broker.connection import RawProperties, close_at_once
from taskqueue.broker.declaration import Declaration
from taskqueue.broker.deliveries import Consumers, Unacknowledged
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.session import Session, SessionListener
from taskqueue.broker.topology import Queue

_ACCESS_REFUSED: Final = 403
_PAUSE: Final = 1.0  # seconds until the queue is consumed again, after the broker stopped that
_LONGEST_HOLD: Final = 0.1  # seconds that settled deliveries wait for one acknowledgement of them all
_MOST_PREFETCH: Final = 65535  # AMQP 0-9-1, basic.qos: a short
_TIMED_OUT: Final = re.compile(r"acknowledgement .* timed out\D*(\d+) ms")  # RabbitMQ 3.8 to 4.2


@dataclass(slots=True, eq=False)
class Delivery:
    """A message from the broker that must be acknowledged."""

    tag: int
    epoch: int  # the subscription's channel; the delivery can be acknowledged on no other
    redelivered: bool
    properties: bytes
    body: bytes
    is_acknowledged: bool = False
    queue: str = ""  # that it is from


class Subscription(SessionListener):
    """Consumes one queue while that is wanted and the session is up.

    Its one channel may have several AMQP consumers, each with its own prefetch, so that one of them can be
    withheld. An additional one takes short workitems ahead (`set_prefetch`).

    `settle` marks a delivery as done. Acknowledgements are sent at the end of the loop's round, or at once by
    `flush`: one for all deliveries before the first unsettled one, and single ones beyond it if more than
    `hold` are settled there.
    """

    def __init__(
        self,
        loop: EventLoop,
        session: Session,
        queue: str,
        prefetch: int,
        *,
        consumers: int = 1,
        on_delivery: Callable[[Delivery], None],
        on_lost: Callable[[], None],
        on_consuming: Callable[[], None],
        hold: int = 0,
        most_bytes: int | None = None,
        arguments: Mapping[str, Any] | None = None,
        on_in_use: Callable[[], None] | None = None,
        on_cancelled: Callable[[], None] | None = None,
    ) -> None:
        """Prepare; `resume` begins to consume.

        prefetch -- maximum number of unacknowledged deliveries for each consumer
        consumers -- number of consumers
        on_delivery -- takes each delivery
        on_consuming -- the queue exists, and the broker delivers from it
        on_lost -- the channel is closed; the broker redelivers all unacknowledged deliveries
        hold -- maximum number of settled deliveries behind an unsettled one that are not acknowledged, for a
            tenth of a second
        most_bytes -- maximum bytes of the unacknowledged deliveries before reading stops; only for
            deliveries that are acknowledged soon, since heartbeats are not read either
        arguments -- of the queue, if it must be declared
        on_in_use -- makes the consumer exclusive; called if the queue has another one, and tried again later
        on_cancelled -- the broker has cancelled a consumer: most likely its queue was deleted
        """
        self.epoch = 0
        self.ack_timeout: float | None = None  # seconds; the broker's acknowledgement timeout, if known
        self._loop = loop
        self._session = session
        self._queue = queue
        self._arguments = arguments or {}
        self._on_in_use = on_in_use
        self._on_cancelled = on_cancelled
        self._prefetch = prefetch
        self._on_delivery = on_delivery
        self._on_lost = on_lost
        self._on_consuming = on_consuming
        self._is_wanted = False
        self._opening = False
        self._channel: Any = None
        self._consumers = Consumers(consumers, prefetch)
        self._ahead = 0  # the prefetch of the consumer that takes ahead; 0 for none
        self._unacknowledged = Unacknowledged(hold, most_bytes)
        self._flushes = False  # whether acknowledgements are sent at the round's end
        self._watches_hold = False
        self._complaint = ""  # the last one that was logged
        self._log = logging.getLogger(__name__)
        session.attach(self)

    @property
    def is_consuming(self) -> bool:
        """Whether there is a consumer."""
        return bool(self._consumers.all)

    @property
    def is_all_withheld(self) -> bool:
        """Whether every consumer is withheld."""
        return self._consumers.most <= 0

    @property
    def unacknowledged(self) -> int:
        """Number of unacknowledged deliveries, without those that were left."""
        return len(self._unacknowledged)

    def resume(self) -> None:
        """Consume, now or once the session is up."""
        self._is_wanted = True
        self._converge()

    def pause(self) -> None:
        """Cancel the consumers; earlier deliveries can still be settled."""
        self._is_wanted = False
        self._cancel(*self._consumers.all)

    def set_consumers(self, number: int) -> None:
        """Have another number of AMQP consumers, except the one that takes ahead."""
        self._cancel(*self._consumers.resize(number))
        self._converge()

    def set_prefetch(self, ahead: int) -> None:
        """Add a consumer that takes `ahead` deliveries ahead; 0 removes it.

        In RabbitMQ a prefetch applies to the consumers that are started after it, so a new prefetch needs a
        new consumer (https://www.rabbitmq.com/docs/consumer-prefetch).
        """
        ahead = min(ahead, _MOST_PREFETCH)
        if ahead == self._ahead:
            return
        if ahead > 0:
            self._cancel(self._consumers.ahead)
        else:
            self._cancel(*self._consumers.all)  # the deliveries taken ahead fill the others' prefetch
        self._ahead = ahead
        self._converge()

    def withhold(self, delivery: Delivery) -> None:
        """Remove one consumer, and the one that takes ahead: a delivery takes long."""
        self._cancel(self._consumers.withhold(delivery.tag), self._consumers.ahead)

    def restore(self) -> None:
        """Add a withheld consumer again."""
        self._consumers.withheld -= 1
        self._converge()

    def restart(self) -> None:
        """Return all unacknowledged deliveries to the queue, in order, and consume it on a new channel."""
        if self._channel is not None:
            self.flush()
            channel, self._channel = self._channel, None
            if channel.is_open:
                close_at_once(channel)
            self._forget()
            self._converge()

    def is_current(self, delivery: Delivery) -> bool:
        """Tell whether a delivery can be acknowledged."""
        return delivery.epoch == self.epoch and not delivery.is_acknowledged

    def is_lost(self, delivery: Delivery) -> bool:
        """Tell whether the channel of a delivery is closed, and its last acknowledgements perhaps lost.

        The broker redelivers what it has no acknowledgement of.
        """
        return delivery.epoch != self.epoch

    def acknowledge(self, delivery: Delivery) -> None:
        """Acknowledge one delivery now, before its workitem ends."""
        self.settle(delivery)
        self.flush()
        delivery.is_acknowledged = True

    def settle(self, delivery: Delivery) -> None:
        """Mark a delivery as done, after its outcome is confirmed; no effect if its channel is closed."""
        if self.is_current(delivery):
            self._unacknowledged.settle(delivery.tag)
            self._consumers.done(delivery.tag)
            self._read_again()
            if not self._flushes:
                self._flushes = True
                self._loop.at_round_end(self.flush)

    def abandon(self, delivery: Delivery) -> None:
        """Never acknowledge a delivery, and let the broker deliver another in its place."""
        if self.is_current(delivery):
            self._unacknowledged.abandon(delivery.tag)
            self._read_again()
            self.withhold(delivery)
            self.restore()

    def give_back(self, delivery: Delivery) -> None:
        """Return a delivery to its queue, for another consumer."""
        if self.is_current(delivery) and self.is_usable:
            self._unacknowledged.remove(delivery.tag)
            self._consumers.done(delivery.tag)
            self._channel.basic_reject(delivery.tag, requeue=True)
            self._converge()

    def after_deliveries(self, then: Callable[[], None]) -> None:
        """Call back after all deliveries on their way: a round trip on the same channel."""
        if self.is_usable:
            self._channel.basic_qos(
                prefetch_count=self._prefetch, callback=self._loop.guard(lambda _frame: then())
            )

    def flush(self) -> None:
        """Send the acknowledgements now."""
        self._flushes = False
        self._send(self._unacknowledged.acknowledgements)
        self._watch_hold()

    def _send(self, acknowledgements: Callable[[], Iterator[tuple[int, bool]]]) -> None:
        if self.is_usable:
            connection, channel = self._channel.connection, self._channel.channel_number
            for tag, is_multiple in acknowledgements():
                connection.acknowledge(channel, tag, multiple=is_multiple)
            self._converge()

    def _watch_hold(self) -> None:
        """Hold no acknowledgement for long: one for many is cheaper, but who dies before it doubles them all.

        A delivery that waits, such as for the keeper of its key, stays unsettled for seconds.
        """
        if self._unacknowledged.holding and not self._watches_hold:
            self._watches_hold = True
            seen = self.epoch, self._unacknowledged.holding
            self._loop.call_later(_LONGEST_HOLD, lambda: self._end_hold(seen))

    def _end_hold(self, seen: tuple[int, int]) -> None:
        self._watches_hold = False
        if seen == (self.epoch, self._unacknowledged.holding):
            self._send(self._unacknowledged.held_acknowledgements)
        self._watch_hold()

    # --- the channel ---

    def session_up(self) -> None:
        """Consume if that is wanted."""
        self._converge()

    def session_down(self) -> None:
        """Forget the deliveries."""
        self._opening = False
        if self._channel is not None:
            self._channel = None
            self._forget()

    @property
    def is_usable(self) -> bool:
        """Whether its channel is open."""
        return self._channel is not None and bool(self._channel.is_open)

    def _forget(self) -> None:
        self.epoch += 1
        self._consumers.clear()
        self._unacknowledged.clear()
        self._session.backpressure.release()
        self._on_lost()

    def _converge(self) -> None:
        if not self._is_wanted or not self._session.is_up or self._opening:
            return
        if self._channel is not None:
            while len(self._consumers.tags) < self._consumers.most:
                self._consume()
            if self._ahead and not self._consumers.ahead and self._consumers.may_take_ahead:
                self._consume_ahead()
            return
        self._opening = True
        Declaration(
            self._loop,
            self._session,
            Queue(self._queue, self._arguments),
            done=lambda: self._session.channel(self._channel_open),
            failed=self._declaration_failed,
        )

    def _declaration_failed(self, reason: str) -> None:
        self._opening = False
        self._complain(f"queue {self._queue} cannot be used: {reason}")
        self._loop.call_later(_PAUSE * 10, self._converge)

    def _complain(self, text: str) -> None:
        """Log why there is no consumer, once for each reason: the attempts go on."""
        if text != self._complaint:
            self._complaint = text
            self._log.error("%s", text)

    def _channel_open(self, channel: Any) -> None:
        guard = self._loop.guard
        self._opening, self._channel = False, channel
        channel.add_on_close_callback(guard(self._channel_closed))
        channel.add_on_cancel_callback(guard(self._cancelled))
        channel.basic_qos(prefetch_count=self._prefetch, callback=guard(lambda _frame: self._converge()))

    def _consume(self) -> None:
        guard = self._loop.guard
        tag = self._channel.basic_consume(
            self._queue,
            guard(self._deliver),
            exclusive=self._on_in_use is not None,
            callback=guard(lambda _frame: self._on_consuming()),
        )
        self._consumers.tags.append(tag)

    def _consume_ahead(self) -> None:
        self._channel.basic_qos(prefetch_count=self._ahead)
        self._consumers.ahead = self._channel.basic_consume(self._queue, self._loop.guard(self._deliver))
        self._channel.basic_qos(prefetch_count=self._prefetch)

    def _cancel(self, *tags: str) -> None:
        """Cancel consumers; "" stands for none."""
        for tag in filter(None, tags):
            self._consumers.remove(tag)
            if self.is_usable:
                self._channel.basic_cancel(tag, callback=self._loop.guard(lambda _frame: self._converge()))

    def _read_again(self) -> None:
        if self._unacknowledged.has_room:
            self._session.backpressure.release()

    def _deliver(self, channel: Any, method: Any, properties: RawProperties, body: bytes) -> None:
        if channel is not self._channel:
            return  # the channel is being closed; on the new one its tags mean other messages
        tag = method.delivery_tag
        self._unacknowledged.add(tag, len(body))
        self._consumers.delivered(tag, method.consumer_tag)
        if self._unacknowledged.is_too_much:
            self._session.backpressure.apply()
        self._on_delivery(
            Delivery(tag, self.epoch, method.redelivered, properties.raw, body, queue=self._queue)
        )

    def _cancelled(self, frame: Any) -> None:
        """Consume again after the queue was deleted. The broker cancels each consumer separately."""
        if frame.method.consumer_tag in self._consumers.all:
            self._consumers.end()
            if self._on_cancelled is not None:
                self._on_cancelled()
            self._log.warning(
                "queue %s was deleted under its consumer, its node is down, or it waited too long for an "
                "acknowledgement",
                self._queue,
            )
            self._loop.call_later(_PAUSE, self.restart)

    def _channel_closed(self, channel: Any, error: BaseException) -> None:
        if channel is not self._channel or not self._session.is_up:
            return
        is_refused = getattr(error, "reply_code", 0) == _ACCESS_REFUSED
        if self._on_in_use is not None and is_refused:
            self._on_in_use()
        elif is_refused:
            self._complain(f"the broker closed the channel of queue {self._queue}: {error}")
        else:
            self._log.error("the broker closed the channel of queue %s: %s", self._queue, error)
        timed_out = _TIMED_OUT.search(str(error))
        if timed_out:
            self.ack_timeout = int(timed_out[1]) / 1000
        self._channel = None
        self._forget()
        self._loop.call_later(_PAUSE, self._converge)
