"""Broadcasts to all who are connected now: a fanout exchange, and a queue for each listener."""

import logging
from collections.abc import Callable
from typing import Any, Final

from taskqueue.amqp.frames import NOT_FOUND
from taskqueue.broker.connection import RawProperties
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.session import Session, SessionListener

_TRY_AGAIN: Final = 30.0  # seconds after the broker closed the channel


class BroadcastExchange(SessionListener):
    """A durable fanout exchange, looked for once in each session, and made where it is missing."""

    def __init__(self, loop: EventLoop, session: Session, name: str) -> None:
        """Prepare; nothing is declared before `provide`."""
        self.name = name
        self._loop = loop
        self._session = session
        self._is_there = False
        self._waiting: list[tuple[Callable[[], None], Callable[[str], None]]] = []
        session.attach(self)

    def provide(self, then: Callable[[], None], failed: Callable[[str], None]) -> None:
        """Call back when the exchange is there, or cannot be; never, if the session ends before.

        failed -- takes the reason
        """
        if self._is_there:
            then()
        elif self._session.is_up:
            self._waiting.append((then, failed))
            if len(self._waiting) == 1:
                self._find()

    def session_down(self) -> None:
        """Know nothing; the session calls this."""
        self._is_there = False
        self._waiting.clear()

    def _find(self) -> None:
        self._session.errands.run(
            lambda channel, answered: channel.exchange_declare(self.name, passive=True, callback=answered),
            lambda _frame: self._declared(),
            lambda code, text: self._make() if code == NOT_FOUND else self._refused(code, text),
        )

    def _make(self) -> None:
        self._session.errands.run(
            lambda channel, answered: channel.exchange_declare(
                self.name, "fanout", durable=True, callback=answered
            ),
            lambda _frame: self._declared(),
            self._refused,
        )

    def _declared(self) -> None:
        self._is_there = True
        for then, _ in self._take_waiting():
            then()

    def _refused(self, _code: int, text: str) -> None:
        for _, failed in self._take_waiting():
            failed(f"exchange {self.name} cannot be declared: {text}")

    def _take_waiting(self) -> list[tuple[Callable[[], None], Callable[[str], None]]]:
        waiting, self._waiting = self._waiting, []
        return waiting


class BroadcastConsumer(SessionListener):
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
        self._exchange = BroadcastExchange(loop, session, exchange)
        self._on_message, self._on_settled = on_message, on_settled
        self._channel: Any = None
        self._told = ""  # why it cannot listen, as it was said last
        self._log = logging.getLogger(__name__)
        session.attach(self)

    def session_up(self) -> None:
        """Begin to listen; the session calls this."""
        self._begin()

    def session_down(self) -> None:
        """Hear nothing; the session calls this."""
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
            queue, guard(self._heard), auto_ack=True, callback=guard(lambda _frame: self._settle())
        )

    def _settle(self) -> None:
        self.is_settled = True
        self._on_settled()

    def _heard(self, _channel: Any, _method: Any, properties: RawProperties, body: bytes) -> None:
        self._on_message(properties.raw, body)

    def _closed(self, channel: Any, error: BaseException) -> None:
        if channel is self._channel and self._session.is_up:
            self._channel = None
            self._refused(getattr(error, "reply_text", str(error)))

    def _refused(self, reason: str) -> None:
        """Say once why it cannot listen, and try again; whoever waits for it need not wait any more."""
        if reason != self._told:
            self._told = reason
            self._log.warning("cannot listen to %s: %s", self._exchange.name, reason)
        self._loop.call_later(_TRY_AGAIN, self._begin)
        self._settle()
