"""Consuming one queue: deliveries in, acknowledgements out."""

import logging
import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from taskqueue.broker.connection import RawProperties
from taskqueue.broker.consumers import Consumers
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.session import Session, SessionListener
from taskqueue.broker.topology import Declaration, Queue

_ACCESS_REFUSED: Final = 403
_PAUSE: Final = 1.0  # seconds before a subscription that the broker ended is tried again
_MOST_PREFETCH: Final = 65535  # AMQP 0-9-1, basic.qos: a short
_MOST_GONE: Final = 1000
_TIMED_OUT: Final = re.compile(r"acknowledgement .* timed out\D*(\d+) ms")  # RabbitMQ 3.8 to 4.2


@dataclass(slots=True, eq=False)
class Delivery:
    """A message that the broker handed over and wants acknowledged."""

    tag: int
    epoch: int  # which channel of the subscription it came on; acknowledged on no other
    redelivered: bool
    properties: bytes
    body: bytes
    is_acknowledged: bool = False


class Subscription(SessionListener):
    """Consumes one queue while it is wanted and the session is up.

    There may be several AMQP consumers on its one channel, each with a prefetch of its own, so that one of
    them can be withheld, and one more that takes ahead what is short (`set_prefetch`).

    `settle` marks a delivery as done with. At the end of the loop's round, or by `flush` at once, the
    broker hears of it: one acknowledgement for all up to the first unsettled delivery, and single ones
    beyond it when more than `hold` of them wait there.
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
        on_taken: Callable[[], None] | None = None,
    ) -> None:
        """Prepare; nothing is consumed before `resume`.

        prefetch -- how many unacknowledged deliveries the broker may have out here for each consumer
        consumers -- how many consumers there are
        on_delivery -- takes each delivery
        on_consuming -- the queue is there, and the broker delivers from it
        on_lost -- the channel is gone: the broker will deliver again all that was not acknowledged
        most_bytes -- how large the unacknowledged deliveries may be together before reading stops for a
            while; only where they are acknowledged soon, since heartbeats are not read either
        arguments -- of the queue, where it must be made
        on_taken -- asks to be the queue's only consumer, and hears that it has one already; it is tried again
        """
        self.epoch = 0
        self.ack_timeout: float | None = None  # seconds; how long the broker waits, once it has told
        self._loop = loop
        self._session = session
        self._queue = queue
        self._arguments = arguments or {}
        self._on_taken = on_taken
        self._prefetch = prefetch
        self._on_delivery = on_delivery
        self._on_lost = on_lost
        self._on_consuming = on_consuming
        self._hold = hold
        self._is_wanted = False
        self._opening = False
        self._channel: Any = None
        self._consumers = Consumers(consumers, prefetch)
        self._ahead = 0  # the prefetch of the one that takes ahead; 0 for none
        self._order: deque[int] = deque()  # tags of what is delivered and unacknowledged, with those
        self._gone: set[int] = set()  # that were acknowledged out of turn
        self._settled: set[int] = set()
        self._left: set[int] = set()  # tags of what stays unacknowledged
        self._flushes = False  # whether they are acknowledged at the round's end
        self._most_bytes = most_bytes
        self._sizes: dict[int, int] = {}  # bytes of each delivery, by tag; kept only for `most_bytes`
        self._bytes = 0
        self._log = logging.getLogger(__name__)
        session.attach(self)

    @property
    def is_consuming(self) -> bool:
        """Whether the broker may deliver."""
        return bool(self._consumers.all)

    @property
    def is_all_withheld(self) -> bool:
        """Whether there is no consumer because each of them is withheld."""
        return self._consumers.most <= 0

    @property
    def unacknowledged(self) -> int:
        """How many deliveries the broker has out here, without those that were left."""
        return len(self._order) - len(self._gone) - len(self._left)

    def resume(self) -> None:
        """Consume from now on, or as soon as the session is up."""
        self._is_wanted = True
        self._converge()

    def pause(self) -> None:
        """Take nothing new; what was delivered can still be settled."""
        self._is_wanted = False
        self._cancel(*self._consumers.all)

    def set_prefetch(self, ahead: int) -> None:
        """Have one consumer more, that takes so many deliveries ahead; with 0 only the others.

        In RabbitMQ a prefetch is that of the consumers that come after it: another one takes another consumer
        (https://www.rabbitmq.com/docs/consumer-prefetch).
        """
        ahead = min(ahead, _MOST_PREFETCH)
        if ahead == self._ahead:
            return
        if ahead > 0:
            self._cancel(self._consumers.ahead)
        else:
            self._cancel(*self._consumers.all)  # what has been taken ahead is as much as they were to have
        self._ahead = ahead
        self._converge()

    def withhold(self, delivery: Delivery) -> None:
        """Have one consumer fewer from now on, and none that takes ahead: a delivery takes long."""
        self._cancel(self._consumers.withhold(delivery.tag), self._consumers.ahead)

    def restore(self) -> None:
        """Have one consumer more again."""
        self._consumers.withheld -= 1
        self._converge()

    def restart(self) -> None:
        """Give every unacknowledged delivery back and begin anew."""
        if self._channel is not None:
            self.flush()
            channel, self._channel = self._channel, None
            if channel.is_open:
                channel.close()
            self._forget()
            self._converge()

    def is_current(self, delivery: Delivery) -> bool:
        """Tell whether a delivery can be acknowledged."""
        return delivery.epoch == self.epoch and not delivery.is_acknowledged

    def is_lost(self, delivery: Delivery) -> bool:
        """Tell whether the channel of a delivery is gone, and with it perhaps what was said on it last.

        The broker delivers again what it has no acknowledgement of.
        """
        return delivery.epoch != self.epoch

    def acknowledge(self, delivery: Delivery) -> None:
        """Acknowledge one delivery now, although it is not done with."""
        self.settle(delivery)
        self.flush()
        delivery.is_acknowledged = True

    def settle(self, delivery: Delivery) -> None:
        """Note that the broker has confirmed what became of a delivery. Without effect for an old one."""
        if self.is_current(delivery):
            self._settled.add(delivery.tag)
            self._consumers.done(delivery.tag)
            if self._most_bytes is not None:
                self._count_out(delivery.tag, self._most_bytes)
            if not self._flushes:
                self._flushes = True
                self._loop.at_round_end(self.flush)

    def leave(self, delivery: Delivery) -> None:
        """Leave a delivery unacknowledged for good, and let the broker deliver another in its place."""
        if self.is_current(delivery):
            self._left.add(delivery.tag)
            if self._most_bytes is not None:
                self._count_out(delivery.tag, self._most_bytes)
            self.withhold(delivery)
            self.restore()

    def give_back(self, delivery: Delivery) -> None:
        """Return a delivery to its queue, for whoever can start it."""
        if self.is_current(delivery) and self._is_usable:
            self._remove(delivery.tag)
            self._consumers.done(delivery.tag)
            self._channel.basic_reject(delivery.tag, requeue=True)
            self._converge()

    def after_deliveries(self, then: Callable[[], None]) -> None:
        """Call back when all that is on its way here has been delivered: a round trip on the same channel."""
        if self._is_usable:
            self._channel.basic_qos(
                prefetch_count=self._prefetch, callback=self._loop.guard(lambda _frame: then())
            )

    def flush(self) -> None:
        """Acknowledge what is settled, now."""
        self._flushes = False
        if not self._settled or not self._is_usable:
            return
        last, order, settled, gone = 0, self._order, self._settled, self._gone
        while order and (order[0] in settled or order[0] in gone):
            tag = order.popleft()
            if tag in settled:
                settled.discard(tag)
                last = tag
            else:
                gone.discard(tag)
        if last:
            self._acknowledge(last, multiple=True)
        if len(settled) > self._hold or self._left:
            for tag in sorted(settled):
                self._acknowledge(tag)
                self._remove(tag)
            settled.clear()
        self._converge()

    def _remove(self, tag: int) -> None:
        """Take a tag out of the row, now or when there are many such: to look for one takes time."""
        self._gone.add(tag)
        if len(self._gone) > _MOST_GONE and len(self._gone) > len(self._order) // 2:
            self._order = deque(each for each in self._order if each not in self._gone)
            self._gone.clear()

    def _acknowledge(self, tag: int, *, multiple: bool = False) -> None:
        self._channel.connection.acknowledge(self._channel.channel_number, tag, multiple=multiple)

    # --- the channel ---

    def session_up(self) -> None:
        """Subscribe if wanted; the session calls this."""
        self._converge()

    def session_down(self) -> None:
        """Forget the deliveries; the session calls this."""
        self._opening = False
        if self._channel is not None:
            self._channel = None
            self._forget()

    @property
    def _is_usable(self) -> bool:
        return self._channel is not None and bool(self._channel.is_open)

    def _forget(self) -> None:
        self.epoch += 1
        self._consumers.clear()
        self._order.clear()
        self._gone.clear()
        self._settled.clear()
        self._left.clear()
        self._sizes.clear()
        self._bytes = 0
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
        self._log.error("queue %s cannot be used: %s", self._queue, reason)
        self._loop.call_later(_PAUSE * 10, self._converge)

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
            exclusive=self._on_taken is not None,
            callback=guard(lambda _frame: self._on_consuming()),
        )
        self._consumers.tags.append(tag)

    def _consume_ahead(self) -> None:
        self._channel.basic_qos(prefetch_count=self._ahead)
        self._consumers.ahead = self._channel.basic_consume(self._queue, self._loop.guard(self._deliver))
        self._channel.basic_qos(prefetch_count=self._prefetch)

    def _cancel(self, *tags: str) -> None:
        """Cancel consumers; "" stands for one that is not there."""
        for tag in filter(None, tags):
            self._consumers.remove(tag)
            if self._is_usable:
                self._channel.basic_cancel(tag, callback=self._loop.guard(lambda _frame: self._converge()))

    def _count_in(self, tag: int, size: int, most: int) -> None:
        self._sizes[tag] = size
        self._bytes += size
        if self._bytes > most:
            self._session.backpressure.apply()

    def _count_out(self, tag: int, most: int) -> None:
        self._bytes -= self._sizes.pop(tag, 0)
        if self._bytes <= most // 2:
            self._session.backpressure.release()

    def _deliver(self, channel: Any, method: Any, properties: RawProperties, body: bytes) -> None:
        if channel is not self._channel:
            return  # it is being closed, and its tags mean other messages on the new one
        tag = method.delivery_tag
        self._order.append(tag)
        self._consumers.came(tag, method.consumer_tag)
        if self._most_bytes is not None:
            self._count_in(tag, len(body), self._most_bytes)
        self._on_delivery(Delivery(tag, self.epoch, method.redelivered, properties.raw, body))

    def _cancelled(self, frame: Any) -> None:
        """Begin anew after the queue was deleted; each of the consumers is told of that."""
        if frame.method.consumer_tag in self._consumers.all:
            self._consumers.end()
            self._log.warning(
                "queue %s was deleted under its consumer, its node is down, or it waited too long for an "
                "acknowledgement",
                self._queue,
            )
            self._loop.call_later(_PAUSE, self.restart)

    def _channel_closed(self, channel: Any, error: BaseException) -> None:
        if channel is not self._channel or not self._session.is_up:
            return
        if self._on_taken is not None and getattr(error, "reply_code", 0) == _ACCESS_REFUSED:
            self._on_taken()
        else:
            self._log.error("the broker closed the channel of queue %s: %s", self._queue, error)
        timed_out = _TIMED_OUT.search(str(error))
        if timed_out:
            self.ack_timeout = int(timed_out[1]) / 1000
        self._channel = None
        self._forget()
        self._loop.call_later(_PAUSE, self._converge)
