"""The queue of a shard: opened after a look whether it is there, and left to other processes."""

import time
from collections.abc import Callable
from typing import Final

from taskqueue.amqp.properties import Properties
from taskqueue.broker.errands import exists
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.outbound import Outbound
from taskqueue.broker.publisher import Publication, PublishResult
from taskqueue.broker.session import Session
from taskqueue.broker.subscription import Delivery, Subscription
from taskqueue.broker.topology import flow_queue
from taskqueue.messages.content import JSON
from taskqueue.workflows.wire import KIND, TICK, encode_json

_PREFETCH: Final = 500
_MOST_BYTES: Final = 64 * 1024 * 1024  # of messages that are not acknowledged
_TICK_LIVES: Final = 60.0  # seconds
_MOST_SILENT: Final = 5  # looks after a tick is confirmed until it must have come
_AGAIN: Final = 1.0  # seconds after the queue was lost

_TICK_BODY: Final = encode_json({KIND: TICK}).encode()
_TICK_PROPERTIES: Final = Properties(
    content_type=JSON, delivery_mode=1, expiration=str(int(_TICK_LIVES * 1000))
).encode()


class ShardQueue:
    """Consumes the queue of a shard. Its first message tells that this is the active consumer."""

    def __init__(
        self,
        loop: EventLoop,
        session: Session,
        outbound: Outbound,
        number: int,
        *,
        on_delivery: Callable[["ShardQueue", Delivery], None],
        on_lost: Callable[["ShardQueue"], None],
    ) -> None:
        """Prepare to `open`.

        on_lost -- unacknowledged deliveries are redelivered to whoever is active
        """
        self.number = number
        #: When the queue was found missing, so that receipts may be lost, by `time.time`; else None.
        self.missing_since: float | None = None
        self._queue = flow_queue(number)
        self._loop, self._session, self._outbound = loop, session, outbound
        self._on_delivery, self._on_lost = on_delivery, on_lost
        self._has_ticked = False  # whether a tick was sent since the last message
        self._silent = 0  # looks since the broker has a tick that has not come
        self._is_wanted = False
        self._looks = 0  # counts the looks at whether the queue is there; only the last one matters
        self._subscription = Subscription(
            loop,
            session,
            self._queue.name,
            _PREFETCH,
            on_delivery=self._take,
            on_lost=self._lost,
            on_consuming=self.tick,
            hold=_PREFETCH,
            most_bytes=_MOST_BYTES,
            arguments=self._queue.arguments,
            on_cancelled=self._cancelled,
        )

    def open(self) -> None:
        """Consume the queue. The session must be up."""
        self._is_wanted = True
        self._looks += 1
        look = self._looks
        exists(
            self._session,
            self._queue.name,
            done=lambda found: self._found(look, found=found),
            failed=lambda _reason: self._found(look, found=True),
        )

    def leave(self) -> None:
        """Give unacknowledged deliveries back, and let another process be active."""
        self._is_wanted = False
        self._subscription.pause()
        self._subscription.restart()

    def settle(self, delivery: Delivery) -> None:
        """Acknowledge a delivery at the end of the round."""
        self._subscription.settle(delivery)

    def tick(self) -> None:
        """Send a message by which the active process finds out that it is active."""
        if self._subscription.is_consuming and self._outbound.is_ready:
            tick = Publication(self._queue.name, _TICK_PROPERTIES, _TICK_BODY, declares=False)
            self._outbound.send(tick, self._ticked)

    def look(self) -> bool:
        """Look whether this active process still gets the queue's messages; return whether it did not.

        If the queue is deleted and at once declared again, by a consumer with a receipt, RabbitMQ may tell
        this process nothing, and give it nothing of the new queue.
        """
        if not self._has_ticked:
            self._has_ticked = True
            self.tick()
        elif self._silent:
            self._silent += 1
        if self._silent <= _MOST_SILENT:
            return False
        self._silent = 0
        self._cancelled()
        self._subscription.restart()
        return True

    def _ticked(self, _publication: Publication, result: PublishResult, _reason: str) -> None:
        if result is PublishResult.CONFIRMED:
            self._silent = max(self._silent, int(self._has_ticked))

    def _take(self, delivery: Delivery) -> None:
        self._has_ticked, self._silent = False, 0
        self._on_delivery(self, delivery)

    def _found(self, look: int, *, found: bool) -> None:
        if look == self._looks and self._is_wanted:
            if not found:
                self.missing_since = time.time()
            self._subscription.resume()

    def _cancelled(self) -> None:
        """Take the queue for a new one: a consumer may have declared it again for its receipt."""
        self.missing_since = time.time()

    def _lost(self) -> None:
        """Look whether the queue was deleted before it is consumed again."""
        self._has_ticked, self._silent = False, 0
        self._on_lost(self)
        if self._is_wanted and self._session.is_up:
            self._subscription.pause()
            self._loop.call_later(_AGAIN, self._open_again)

    def _open_again(self) -> None:
        if self._is_wanted and self._session.is_up and not self._subscription.is_consuming:
            self.open()
