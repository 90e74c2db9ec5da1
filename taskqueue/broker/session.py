"""One connection to the broker: opened, failed over, opened again, closed."""

import errno
import logging
import os
import random
import socket
import ssl
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import pika
import pika.exceptions

from taskqueue.broker.connection import Backpressure, CoalescingConnection, StrangerAnswers
from taskqueue.broker.errands import Errands
from taskqueue.broker.loop import EventLoop
from taskqueue.errors import BrokerRefused, BrokerUnavailable

if TYPE_CHECKING:
    from taskqueue.config import AmqpSettings

_FIRST_DELAY: Final = 0.5  # seconds before the second round over the hosts
_LONGEST_DELAY: Final = 30.0
_STEADY: Final = 10.0  # a connection that held so many seconds ends a row of failures
_CONNECT_TIMEOUT: Final = 10.0  # for TCP, TLS and the AMQP handshake together
_BLOCKED_TIMEOUT: Final = 300.0
_CHANNEL_DELAY: Final = 1.0  # seconds until a channel that was not free is asked for again
CLOSE_TIMEOUT: Final = 5.0  # an alarm keeps the broker from answering a close

#: Reply codes (AMQP 0-9-1, section 1.1) with which a broker closes a connection for something sent over it.
_FAULTS: Final = frozenset((501, 502, 503, 505, 506, 540, 541))

# pika reports every ordinary disconnect as an error with a traceback; we write one line ourselves.
logging.getLogger("pika").setLevel(logging.CRITICAL)


class SessionListener:
    """A user of a session, which hears when the session comes and goes."""

    def session_up(self) -> None:
        """The connection is open; channels may be opened."""

    def session_down(self) -> None:
        """The connection is gone, with every channel that was on it."""

    def session_blocked(self) -> None:
        """The broker has an alarm: it reads nothing more from a connection that publishes."""

    def session_unblocked(self) -> None:
        """The alarm is over."""

    def session_short(self) -> None:
        """The broker allows too few channels: what has asked for one and got none waits."""


class Session:
    """Keeps one AMQP connection open, over the configured hosts in turn."""

    def __init__(
        self,
        loop: EventLoop,
        amqp: "AmqpSettings",
        name: str,
        *,
        on_trouble: Callable[[BrokerUnavailable | BrokerRefused], None],
        longest_delay: float = _LONGEST_DELAY,
    ) -> None:
        """Prepare a session; `on_trouble` hears of every round over the hosts that failed.

        name -- what the broker's administrator sees the connection called
        longest_delay -- seconds that at most pass between two rounds over the hosts
        """
        self.amqp = amqp
        self.name = name
        self._loop = loop
        self.backpressure = self._new_backpressure()  # a new one for each connection
        self.is_blocked = False
        self.ever_up = False
        self.fault = (
            ""  # why the broker closed the last connection, where something sent over it was to blame
        )
        self._on_trouble = on_trouble
        self._longest_delay = longest_delay
        self._listeners: list[SessionListener] = []
        self.errands = Errands(loop, self)
        self._channel_seekers: list[Callable[[Any], None]] = []  # for whom the broker allows no channel now
        self._short_by = 0  # how many of them there were at the last look
        self.is_short = False  # whether the broker allows too few
        self._is_open = False
        self._is_up = False
        self._connection: Any = None
        self._failures = 0
        self._next_host = 0
        self._tried = 0  # hosts since the last connection, or the last pause
        self._up_since = 0.0
        self._closing: Callable[[], None] | None = None
        self._log = logging.getLogger(__name__)

    @property
    def is_up(self) -> bool:
        """Whether channels can be used: pika closes the channels first, and then says that it lost us."""
        return self._is_up and bool(self._connection.is_open)

    def attach(self, listener: SessionListener) -> None:
        """Tell a listener from now on when the session comes and goes."""
        self._listeners.append(listener)

    def detach(self, listener: SessionListener) -> None:
        """Tell a listener no more."""
        self._listeners.remove(listener)

    def open(self) -> None:
        """Begin to connect, if that has not begun; parts hear of it when it is done."""
        if not self._is_open:
            self._is_open = True
            self._connect()

    def channel(self, on_open: Callable[[Any], None]) -> None:
        """Open a channel on the connection, which must be up, as soon as the broker allows one more."""
        try:
            self._connection.channel(on_open_callback=self._loop.guard(on_open))
        except pika.exceptions.NoFreeChannels:
            self._channel_seekers.append(on_open)
            if len(self._channel_seekers) == 1:
                self._seek_channels_later()

    def _seek_channels_later(self) -> None:
        connection = self._connection
        self._loop.call_later(_CHANNEL_DELAY, lambda: self._seek_channels(connection))

    def _seek_channels(self, connection: Any) -> None:
        if connection is not self._connection or not self.is_up:
            return
        seekers, self._channel_seekers = self._channel_seekers, []
        for each in seekers:
            self.channel(each)
        before, self._short_by = self._short_by, len(self._channel_seekers)
        if self._short_by and self._short_by == before and not self.is_short:
            self.is_short = True
            most = int(connection.params.channel_max)
            self._log.error(
                "%s needs %d channels, and the broker allows %d on a connection; what needs more waits: "
                "raise channel_max in rabbitmq.conf",
                self.name,
                most + self._short_by,
                most,
            )
            for listener in list(self._listeners):
                listener.session_short()

    @property
    def frame_room(self) -> int:
        """How many bytes of properties fit into a content header (AMQP 0-9-1, section 2.3.5.2)."""
        return int(self._connection.params.frame_max) - 8 - 12

    @property
    def broker_major(self) -> int:
        """The first number of the version of the broker that the connection, which must be up, leads to."""
        return int(str(self._connection.server_properties.get("version", "0")).partition(".")[0])

    def retry_soon(self) -> None:
        """Connect again after the shortest pause: the reason why the last connections were lost is found."""
        self._failures = 0

    def configure(self, amqp: "AmqpSettings") -> None:
        """Use another address from now on; a connection to the old one is closed."""
        if amqp != self.amqp:
            self.amqp, self._next_host, self._tried = amqp, 0, 0
            if self.is_up:
                self._connection.close()

    def abandon(self) -> None:
        """Let go of the socket without a word: after a fork it is the parent's, who goes on using it."""
        transport = getattr(self._connection, "_transport", None)
        sock = getattr(transport, "_sock", None)
        if sock is not None:
            sock.close()

    def close(self, then: Callable[[], None]) -> None:
        """Close in order, or give up after CLOSE_TIMEOUT seconds; then call back."""
        if self._closing is not None:
            return
        self._closing = then
        if self._connection is None or self._connection.is_closed:
            self._closed()
            return
        self._loop.call_later(CLOSE_TIMEOUT, self._closed)
        if self.is_up:  # else it is closed when it is open: pika cannot be stopped while it connects
            self._connection.close()

    def _closed(self) -> None:
        then, self._closing = self._closing, _nothing
        if then is not None:
            then()

    # --- connecting ---

    def _connect(self) -> None:
        if self._closing is not None:
            return
        host, port = self.amqp.hosts[self._next_host]
        try:
            parameters = _parameters(self.amqp, host, port, self.name)
        except OSError as error:  # the TLS files; ssl.SSLError is an OSError
            self._failed(BrokerRefused(f"TLS cannot be set up: {error}"))
            return
        self.backpressure = self._new_backpressure()
        self._connection = CoalescingConnection(
            self._loop,
            parameters,
            on_open_callback=self._loop.guard(self._opened),
            on_open_error_callback=self._loop.guard(self._open_failed),
            on_close_callback=self._loop.guard(self._lost),
            custom_ioloop=self.backpressure,
            owner=self.amqp.owner,
        )

    def _new_backpressure(self) -> Backpressure:
        return Backpressure(self._loop.ioloop, self._loop.guard(self._broken))

    def _broken(self, error: ValueError) -> None:
        """Fail an attempt whose connection was reset as soon as it was made.

        pika takes that for its caller's mistake and raises it in the loop (_AsyncStreamConnector, which calls
        getpeername). It reports the attempt when its time is up, and nobody listens to that any more.
        """
        if self._is_up:
            raise error
        self._connection = None
        self._open_failed(None, ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)))

    def _opened(self, connection: Any) -> None:
        if self._closing is not None:
            connection.close()
            return
        connection.add_on_connection_blocked_callback(self._loop.guard(self._blocked))
        connection.add_on_connection_unblocked_callback(self._loop.guard(self._unblocked))
        self._is_up = self.ever_up = True
        self._up_since = time.monotonic()
        self._tried = 0
        self._log.log(
            logging.INFO if len(self.amqp.hosts) > 1 else logging.DEBUG,
            "connected to the broker at %s:%d as %s",
            *self.amqp.hosts[self._next_host],
            self.name,
        )
        for listener in tuple(self._listeners):
            listener.session_up()

    def _open_failed(self, connection: Any, error: BaseException) -> None:
        if connection is not self._connection:
            return
        if self._closing is not None:
            self._closed()
            return
        self._failed(_translate(error, self.amqp, self.amqp.hosts[self._next_host]))

    def _failed(self, error: BrokerUnavailable | BrokerRefused) -> None:
        """Go on to the next host at once; when all have been tried, pause."""
        self._next_host = (self._next_host + 1) % len(self.amqp.hosts)
        self._tried += 1
        if self._tried < len(self.amqp.hosts) and not isinstance(error, BrokerRefused):
            self._loop.call_later(0, self._connect)
            return
        self._tried = 0
        self._failures += 1
        self._on_trouble(error)
        self._loop.call_later(self._pause(), self._connect)

    def _pause(self) -> float:
        longest = min(self._longest_delay, _FIRST_DELAY * 2 ** min(self._failures, 10))
        return float(longest * random.uniform(0.5, 1.0))  # noqa: S311 -- spreads clients, keeps no secret

    def _lost(self, _connection: Any, error: BaseException) -> None:
        self._is_up = self.is_blocked = False
        self.fault = _say(error) if getattr(error, "reply_code", 0) in _FAULTS else ""
        if self._closing is not None:
            self._closed()
            return
        self.errands.session_down()
        self._channel_seekers.clear()
        for listener in tuple(self._listeners):
            listener.session_down()
        if time.monotonic() - self._up_since >= _STEADY:
            self._failures = 0
        self._log.warning("lost the connection to the broker: %s", _say(error))
        self._loop.call_later(self._pause(), self._connect)
        self._failures += 1

    def _blocked(self, _connection: Any, frame: Any) -> None:
        self.is_blocked = True
        self._log.warning("the broker has an alarm and takes no messages: %s", frame.method.reason)
        for listener in tuple(self._listeners):
            listener.session_blocked()

    def _unblocked(self, _connection: Any, _frame: Any) -> None:
        self.is_blocked = False
        self._log.info("the broker takes messages again")
        for listener in tuple(self._listeners):
            listener.session_unblocked()


def _nothing() -> None:
    pass


def _parameters(amqp: "AmqpSettings", host: str, port: int, name: str) -> Any:
    return pika.ConnectionParameters(
        host=host,
        port=port,
        virtual_host=amqp.vhost,
        credentials=pika.PlainCredentials(amqp.user, amqp.password, erase_on_connect=True),
        heartbeat=amqp.heartbeat,
        ssl_options=_ssl_options(amqp, host),
        connection_attempts=1,
        socket_timeout=_CONNECT_TIMEOUT / 2,
        stack_timeout=_CONNECT_TIMEOUT,
        blocked_connection_timeout=_BLOCKED_TIMEOUT,
        client_properties={"connection_name": f"{name} {socket.gethostname()}:{os.getpid()}"},
    )


def _ssl_options(amqp: "AmqpSettings", host: str) -> Any:
    if not amqp.ssl:
        return None
    context = ssl.create_default_context(cafile=amqp.ca_file)
    if amqp.cert_file:
        context.load_cert_chain(amqp.cert_file, amqp.key_file)
    return pika.SSLOptions(context, server_hostname=host)


def _translate(
    error: BaseException, amqp: "AmqpSettings", host: tuple[str, int]
) -> BrokerUnavailable | BrokerRefused:
    """Turn pika's opening errors into ours.

    pika guesses the cause from how far the handshake came; a stream that simply ended is no refusal.
    """
    error = _innermost(error)
    where, ended = f"{host[0]}:{host[1]}", "StreamLostError" in repr(error)
    if isinstance(error, StrangerAnswers):
        return BrokerUnavailable(
            f"what listens at {where} is another user's: the private broker is not there, or not any more"
        )
    if not ended and isinstance(error, pika.exceptions.ProbableAuthenticationError):
        return BrokerRefused(f"the broker at {where} refused user {amqp.user!r}: wrong name or password")
    if not ended and isinstance(error, pika.exceptions.ProbableAccessDeniedError):
        return BrokerRefused(
            f"the broker at {where} refused user {amqp.user!r} the virtual host {amqp.vhost!r}: "
            "it does not exist, or the user has no permissions there"
        )
    if not ended and isinstance(error, pika.exceptions.IncompatibleProtocolError):
        return BrokerRefused(f"what listens at {where} does not speak AMQP 0-9-1")
    return BrokerUnavailable(f"the broker at {where} cannot be reached: {_say(error)}")


def _say(error: BaseException) -> str:
    """Return an error of pika's in words; the text of many of them is empty."""
    error = _innermost(error)
    if "Timeout while setting up AMQP" in str(error):
        return f"no AMQP answer within {_CONNECT_TIMEOUT:g} s"
    if isinstance(error, pika.exceptions.ConnectionClosed):
        return f"{error.reply_text} ({error.reply_code})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _innermost(error: BaseException) -> BaseException:
    """Unwrap what pika wraps up to three times: its workflow, its connector, and then the cause."""
    inner = (*getattr(error, "exceptions", ()), getattr(error, "exception", None), *error.args)
    causes = [cause for cause in inner if isinstance(cause, BaseException)]
    return _innermost(causes[-1]) if causes else error
