"""Broadcasts to all connected processes: a fanout exchange with an exclusive queue for each listener."""

import logging
from collections.abc import Callable
from typing import Any, Final

from taskqueue.amqp.frames import NOT_FOUND
from taskqueue.broker.connection import RawProperties
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.session import Session, SessionListener

_TRY_AGAIN: Final = 30.0  # seconds after the broker closed the channel


class BroadcastExchange(SessionListener):
    """A durable fanout exchange.

    Each session checks once that it exists, and declares it if it is missing.
    """

    def __init__(self, loop: EventLoop, session: Session, name: str) -> None:
        self.name = name
        self._loop = loop
        self._session = session
        self._exists = False
        self._waiting: list[tuple[Callable[[], None], Callable[[str], None]]] = []
        session.attach(self)

    def provide(self, then: Callable[[], None], failed: Callable[[str], None]) -> None:
        """Call back once the exchange exists or cannot be declared; never, if the session is lost before.

        failed -- takes the reason
        """
        if self._exists:
            then()
        elif self._session.is_up:
            self._waiting.append((then, failed))
            if len(self._waiting) == 1:
                self._check()

    def session_down(self) -> None:
        """Forget whether the exchange exists, and the callers that wait for it."""
        self._exists = False
        self._waiting.clear()

    def _check(self) -> None:
        self._session.errands.run(
            lambda channel, answered: channel.exchange_declare(self.name, passive=True, callback=answered),
            lambda _frame: self._declared(),
            lambda code, text: self._declare() if code == NOT_FOUND else self._refused(code, text),
        )

    def _declare(self) -> None:
        self._session.errands.run(
            lambda channel, answered: channel.exchange_declare(
                self.name, "fanout", durable=True, callback=answered
            ),
            lambda _frame: self._declared(),
            self._refused,
        )

    def _declared(self) -> None:
        self._exists = True
        for then, _ in self._take_waiting():
            then()

    def _refused(self, _code: int, text: str) -> None:
        for _, failed in self._take_waiting():
            failed(f"exchange {self.name} cannot be declared: {text}")

    def _take_waiting(self) -> list[tuple[Callable[[], None], Callable[[str], None]]]:
        waiting, self._waiting = self._waiting, []
        return waiting


class BroadcastConsumer(SessionListener):
    """Consumes messages of a fanout exchange through an exclusive queue, while the session is up."""

    def __init__(
        self,
        loop: EventLoop,
        session: Session,
        exchange: str,
        *,
        on_message: Callable[[bytes, bytes], None],
        on_settled: Callable[[], None],
    ) -> None:
        """Consume while the session is up.

        on_message -- takes properties and body
        on_settled -- called once it consumes, or once the broker refuses that
        """
        self.is_settled = False
        self._loop = loop
        self._session = session
        self._exchange = BroadcastExchange(loop, session, exchange)
        self._on_message, self._on_settled = on_message, on_settled
        self._channel: Any = None
        self._logged_reason = ""  # the reason that was logged last
        self._log = logging.getLogger(__name__)
        session.attach(self)

    def session_up(self) -> None:
        """Declare the exchange and begin to consume."""
        self._begin()

    def session_down(self) -> None:
        """Forget the channel."""
        self.is_settled, self._channel = False, None

    def _begin(self) -> None:
        if self._session.is_up and self._channel is None:
            self._exchange.provide(lambda: self._session.channel(self._open), self._refused)

    def _open(self, channel: Any) -> None:
        if self._channel is not None:
            channel.close()
            return
        guard, self._channel = self._loop.guard, channel
        channel.add_on_close_callback(guard(self._closed))
        declared = guard(lambda frame: self._listen(channel, frame.method.queue))
        channel.queue_declare("", exclusive=True, callback=declared)

    def _listen(self, channel: Any, queue: str) -> None:
        if not channel.is_open:
            return  # the connection is being closed
        channel.queue_bind(queue, self._exchange.name)
        guard = self._loop.guard
        channel.basic_consume(
            queue, guard(self._deliver), auto_ack=True, callback=guard(lambda _frame: self._settle())
        )

    def _settle(self) -> None:
        self.is_settled = True
        self._on_settled()

    def _deliver(self, _channel: Any, _method: Any, properties: RawProperties, body: bytes) -> None:
        self._on_message(properties.raw, body)

    def _closed(self, channel: Any, error: BaseException) -> None:
        if channel is self._channel and self._session.is_up:
            self._channel = None
            self._refused(getattr(error, "reply_text", str(error)))

    def _refused(self, reason: str) -> None:
        """Log a new reason once, try again later, and let the owner start without broadcasts."""
        if reason != self._logged_reason:
            self._logged_reason = reason
            self._log.warning("cannot consume from exchange %s: %s", self._exchange.name, reason)
        self._loop.call_later(_TRY_AGAIN, self._begin)
        self._settle()
