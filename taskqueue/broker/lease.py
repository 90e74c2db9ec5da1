"""A lease: a queue with a copy of a workitem that runs longer than the broker's acknowledgement timeout.

The queue has a time to live and dead-letters to the worker queue: without a renewal the workitem returns to
work. A renewal publishes a new copy and removes the older ones.
"""

import logging
import time
from collections.abc import Callable
from typing import Any, Final

from pika import spec

from taskqueue.amqp.frames import NOT_FOUND
from taskqueue.broker.connection import RawProperties
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.outbound import Outbound
from taskqueue.broker.publisher import Publication, PublishResult
from taskqueue.broker.session import Session, SessionListener
from taskqueue.broker.topology import Queue

_TRY_AGAIN: Final = 5.0  # seconds after a refusal by the broker


class Lease(SessionListener):
    """One message in a queue that holds no other, from its first renewal to its release.

    A renewal takes several round trips on two connections; after the loss of one of them it begins again.
    """

    def __init__(
        self,
        loop: EventLoop,
        session: Session,
        outbound: Outbound,
        *,
        queue: Queue,
        properties: bytes,
        body: bytes,
    ) -> None:
        """Prepare; the first `renew` declares the queue.

        Args:
            loop: has the timers.
            session: removes older copies, on a channel for this lease only.
            outbound: declares the queue and publishes new copies.
            queue: the queue; nothing else may use it.
            properties: of the message, as Properties.encode returns them.
            body: of the message.
        """
        self.queue = queue
        self.is_held = False  # whether the broker has a copy, as far as is known
        self.is_lost = False  # whether a copy is missing that should exist
        self.renewed = time.monotonic()
        self._loop = loop
        self._session = session
        self._outbound = outbound
        self._properties, self._body = properties, body
        self._round = 0  # counts the started renewals
        self.is_renewing = False
        self._waiting: list[Callable[[], None]] = []  # called at the renewal's end
        self._copy: Publication | None = None  # the unconfirmed copy
        self._unknown: Publication | None = None  # a copy that was unconfirmed when the connection was lost
        self._older: list[int] = []  # delivery tags of older copies that are not acknowledged yet
        self._is_getting = False
        self._channel: Any = None
        self._released: Callable[[], None] | None = None  # called at the release's end
        self._is_over = False
        self._log = logging.getLogger(__name__)
        session.attach(self)
        if session.is_up:
            self.session_up()

    def renew(self, then: Callable[[], None]) -> None:
        """Renew, however long that takes; then call back.

        Afterwards `is_held` or `is_lost` is true.
        """
        self._waiting.append(then)
        if not self.is_renewing:
            self.is_renewing = True
            self._begin()

    def release(self, then: Callable[[], None]) -> None:
        """Empty the queue, once there is a connection; then call back.

        The queue expires by itself. To delete a dead-lettering queue just after the broker's start can end
        all at-least-once dead-lettering of RabbitMQ 3.10 (rabbit_fifo_dlx_sup does not survive it).
        """
        self._released = then
        copy = self._copy
        self._end_renewal()
        self._copy = copy
        self._discard()
        self._collect()

    def abandon(self) -> None:
        """Stop renewing; the message returns to work after the queue's time to live."""
        self._waiting.clear()
        self._end_renewal()
        self._finish(lambda: None)

    # --- a renewal: declare the queue, get the older copies, publish, acknowledge the older copies ---

    def resume(self) -> None:
        """Continue after the outbound connection was lost; it is unknown whether the copy arrived."""
        self._unknown, self._copy = self._copy, None
        if self.is_renewing:
            self._begin()
        else:
            self._collect()

    def _begin(self) -> None:
        self._round += 1
        beginning = self._round
        self._copy = None
        if not self._outbound.is_ready:
            return  # `resume` follows
        self._outbound.provider.provide(
            self.queue,
            done=lambda: self._collect() if beginning == self._round else None,
            failed=lambda _reason: self._begin_later(),
        )

    def _begin_later(self) -> None:
        beginning = self._round
        self._loop.call_later(_TRY_AGAIN, lambda: self._begin() if beginning == self._round else None)

    def _collect(self) -> None:
        """Get one copy after the other until the queue is empty."""
        is_wanted = self.is_renewing or self._released is not None
        if is_wanted and self._copy is None and self._is_usable and not self._is_getting:
            self._is_getting = True
            self._channel.basic_get(self.queue.name, self._loop.guard(self._get_ok))

    def _get_ok(self, _channel: Any, method: Any, _properties: RawProperties, _body: bytes) -> None:
        self._is_getting = False
        self._older.append(method.delivery_tag)
        if self._released is not None:
            self._discard()
        self._collect()

    def _get_empty(self, _frame: Any) -> None:
        self._is_getting = False
        if self._released is not None:
            self._finish(self._released)
        elif self.is_renewing and self._copy is None:
            if self.is_held and not self._older:
                self.is_held, self.is_lost = False, True
                self._end_renewal()
            else:
                self._publish()

    def _publish(self) -> None:
        copy, self._unknown = self._unknown, None  # the same copy: it may have cost the connection
        self._copy = copy or Publication(self.queue.name, self._properties, self._body, self._published)
        self._outbound.publisher.publish(self._copy)

    def _published(self, copy: Publication, result: PublishResult, reason: str) -> None:
        if copy is not self._copy:
            return
        if self._released is not None:
            self._copy = None
            self._collect()
            return
        if result is not PublishResult.CONFIRMED:
            self._log.error("queue %s refused a message: %s", self.queue.name, reason)
            if copy.closes and not self.is_held:
                self._end_renewal()  # without a lease: each attempt would cost the connection
            else:
                self._begin_later()
            return
        self.is_held = True
        self.renewed = time.monotonic()
        self._discard()
        self._end_renewal()

    def _discard(self) -> None:
        """Acknowledge the older copies."""
        if self._is_usable:
            for tag in self._older:
                self._channel.basic_ack(tag)
        self._older.clear()

    def _end_renewal(self) -> None:
        self._round += 1
        self.is_renewing, self._copy = False, None
        waiting, self._waiting = self._waiting, []
        for then in waiting:
            then()

    # --- the end ---

    def _finish(self, then: Callable[[], None]) -> None:
        self._is_over = True
        self._session.detach(self)
        if self._is_usable:
            self._channel.close()
        then()

    # --- the channel ---

    def session_up(self) -> None:
        """Open the channel."""
        self._session.channel(self._channel_open)

    def session_down(self) -> None:
        """Forget the older copies: the broker requeues them."""
        self._channel = None
        self._is_getting = False
        self._older.clear()

    @property
    def _is_usable(self) -> bool:
        return self._channel is not None and bool(self._channel.is_open)

    def _channel_open(self, channel: Any) -> None:
        if self._is_over:
            channel.close()
            return
        guard = self._loop.guard
        self._channel = channel
        channel.add_on_close_callback(guard(self._channel_closed))
        channel.add_callback(guard(self._get_empty), [spec.Basic.GetEmpty], one_shot=False)
        if self._released is not None:
            self._collect()
        elif self.is_renewing:
            self._begin()

    def _channel_closed(self, channel: Any, error: BaseException) -> None:
        if channel is not self._channel or not self._session.is_up or self._is_over:
            return
        self.session_down()
        if self._released is not None and getattr(error, "reply_code", 0) == NOT_FOUND:
            self._finish(self._released)  # the queue does not exist, or has expired
            return
        self._log.error("the broker closed the channel of queue %s: %s", self.queue.name, error)
        self._loop.call_later(_TRY_AGAIN, self._reopen)

    def _reopen(self) -> None:
        if self._channel is None and self._session.is_up and not self._is_over:
            self.session_up()
