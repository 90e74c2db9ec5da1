"""What everybody shall hear who is connected now: a fanout exchange, and a queue for each who listens."""

import logging
from collections.abc import Callable
from typing import Any, Final

from taskqueue.broker.loop import EventLoop
from taskqueue.broker.session import Part, Session
from taskqueue.broker.wire import RawProperties

_TRY_AGAIN: Final = 5.0  # seconds after the broker closed the channel
_CLOSED_BY_US: Final = (0, 200)  # as the versions of pika have it


class Exchange(Part):
    """A durable fanout exchange, declared once in each session before it is used."""

    def __init__(self, loop: EventLoop, session: Session, name: str) -> None:
        """Prepare; nothing is declared before `provide`."""
        self._loop = loop
        self._session = session
        self._name = name
        self._is_there = False
        self._waiting: list[Callable[[], None]] = []
        session.attach(self)

    def provide(self, then: Callable[[], None]) -> None:
        """Call back when the exchange is there; never, if the session ends before."""
        if self._is_there:
            then()
        elif self._session.is_up:
            self._waiting.append(then)
            if len(self._waiting) == 1:
                self._session.channel(self._declare)

    def session_down(self) -> None:
        """Know nothing; the session calls this."""
        self._is_there = False
        self._waiting.clear()

    def _declare(self, channel: Any) -> None:
        declared = self._loop.guard(lambda _frame: self._declared(channel))
        channel.exchange_declare(self._name, "fanout", durable=True, callback=declared)

    def _declared(self, channel: Any) -> None:
        if channel.is_open:  # or the connection is being closed, and does it
            channel.close()
        self._is_there = True
        waiting, self._waiting = self._waiting, []
        for then in waiting:
            then()


class Listener(Part):
    """Hears what is published to a fanout exchange while the session is up, by an exclusive queue."""

    def __init__(
        self,
        loop: EventLoop,
        session: Session,
        exchange: str,
        *,
        on_message: Callable[[bytes, bytes], None],
        on_settled: Callable[[], None],
    ) -> None:
        """Listen from when the session is up.

        on_message -- takes properties and body
        on_settled -- it listens from now on, or the broker does not let it
        """
        self.is_settled = False
        self._loop = loop
        self._session = session
        self._exchange = exchange
        self._on_message, self._on_settled = on_message, on_settled
        self._log = logging.getLogger(__name__)
        session.attach(self)

    def session_up(self) -> None:
        """Begin to listen; the session calls this."""
        self._session.channel(self._open)

    def session_down(self) -> None:
        """Hear nothing; the session calls this."""
        self.is_settled = False

    def _open(self, channel: Any) -> None:
        guard = self._loop.guard
        channel.add_on_close_callback(guard(self._closed))
        channel.exchange_declare(self._exchange, "fanout", durable=True)
        declared = guard(lambda frame: self._listen(channel, frame.method.queue))
        channel.queue_declare("", exclusive=True, callback=declared)

    def _listen(self, channel: Any, queue: str) -> None:
        if not channel.is_open:
            return  # the connection is being closed
        channel.queue_bind(queue, self._exchange)
        guard = self._loop.guard
        channel.basic_consume(
            queue, guard(self._heard), auto_ack=True, callback=guard(lambda _frame: self._settle())
        )

    def _settle(self) -> None:
        self.is_settled = True
        self._on_settled()

    def _heard(self, _channel: Any, _method: Any, properties: RawProperties, body: bytes) -> None:
        self._on_message(properties.raw, body)

    def _closed(self, _channel: Any, error: BaseException) -> None:
        if getattr(error, "reply_code", 0) not in _CLOSED_BY_US and self._session.is_up:
            self._log.warning("cannot listen to %s: %s", self._exchange, error)
            self._loop.call_later(_TRY_AGAIN, self._open_again)
            self._settle()

    def _open_again(self) -> None:
        if self._session.is_up:
            self._session.channel(self._open)
