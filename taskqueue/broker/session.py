"""One connection to the broker: open, fail over, reconnect, close."""

import errno
import logging
import os
import random
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import pika
import pika.exceptions

from taskqueue.broker.connection import Backpressure, CoalescingConnection, ForeignServer
from taskqueue.broker.errands import Errands
from taskqueue.broker.loop import EventLoop
from taskqueue.errors import BrokerRefused, BrokerUnavailable

if TYPE_CHECKING:
    from taskqueue.config import AmqpSettings

_FIRST_DELAY: Final = 0.5  # seconds before the second round over the hosts
_LONGEST_DELAY: Final = 30.0
_STEADY: Final = 10.0  # a connection that held for so many seconds resets the count of failures
_CONNECT_TIMEOUT: Final = 10.0  # for TCP, TLS and the AMQP handshake together
_CHANNEL_DELAY: Final = 1.0  # seconds until another attempt to open a channel, if the broker allowed none
CLOSE_TIMEOUT: Final = 5.0  # seconds; during an alarm the broker does not answer a close

#: Reply codes (AMQP 0-9-1, section 1.1) by which a broker blames the closed connection's own frames.
_FAULTS: Final = frozenset((501, 502, 503, 505, 506, 540, 541))

# pika logs each ordinary disconnect as an error with a traceback. The session logs one line instead.
logging.getLogger("pika").setLevel(logging.CRITICAL)


class SessionListener:
    """A user of a session; it is called when the session's state changes."""

    def session_up(self) -> None:
        """The connection is open; channels may be opened."""

    def session_down(self) -> None:
        """The connection is lost, with every channel on it."""

    def session_blocked(self) -> None:
        """The broker has an alarm: it reads nothing from connections that publish."""

    def session_unblocked(self) -> None:
        """The alarm is over."""

    def session_lacks_channels(self) -> None:
        """The broker allows too few channels on a connection; some requests for a channel wait."""


class Session:
    """Keeps one AMQP connection open, with failover over the configured hosts."""

    def __init__(
        self,
        loop: EventLoop,
        amqp: "AmqpSettings",
        name: str,
        *,
        on_error: Callable[[BrokerUnavailable | BrokerRefused], None],
        longest_delay: float = _LONGEST_DELAY,
    ) -> None:
        """Prepare a session.

        name -- the connection's name in the broker's management
        on_error -- takes the last error of each failed round over the hosts
        longest_delay -- seconds; limit of the pause between two rounds over the hosts
        """
        self.amqp = amqp
        self.name = name
        self._loop = loop
        self.backpressure = self._new_backpressure()  # a new one for each connection
        self.is_blocked = False
        self.ever_up = False
        self.fault = ""  # why the broker closed the last connection, if it blamed a frame of ours
        self._on_error = on_error
        self._longest_delay = longest_delay
        self._listeners: list[SessionListener] = []
        self.errands = Errands(loop, self)
        self._channel_requests: list[Callable[[Any], None]] = []  # requests beyond channel_max
        self._missing_channels = 0  # their number when it was last checked
        self.lacks_channels = False  # whether channel_max is too small
        self._is_open = False
        self._is_up = False
        self._connection: Any = None
        self._failures = 0
        self._next_host = 0
        self._tried = 0  # hosts since the last connection or pause
        self._up_since = 0.0
        self._pausing: object | None = None  # the timer before the next attempt
        self._closing: Callable[[], None] | None = None
        self._log = logging.getLogger(__name__)

    @property
    def is_up(self) -> bool:
        """Whether channels can be used. pika closes the channels before it reports a lost connection."""
        return self._is_up and bool(self._connection.is_open)

    def is_refused(self, error: BrokerUnavailable | BrokerRefused) -> bool:
        """Whether an error ends a process: the broker refuses it, and has never accepted it."""
        return isinstance(error, BrokerRefused) and not self.ever_up

    def attach(self, listener: SessionListener) -> None:
        """Add a listener."""
        self._listeners.append(listener)

    def detach(self, listener: SessionListener) -> None:
        """Remove a listener."""
        self._listeners.remove(listener)

    def open(self) -> None:
        """Start to connect. Listeners are called once the connection is open; a second call does nothing."""
        if not self._is_open:
            self._is_open = True
            self._connect()

    def channel(self, on_open: Callable[[Any], None]) -> None:
        """Open a channel as soon as channel_max allows it; none on a connection that is being closed."""
        if not self._connection.is_open:
            return  # an answer came meanwhile, for which another channel is no use: session_down follows
        try:
            self._connection.channel(on_open_callback=self._loop.guard(on_open))
        except pika.exceptions.NoFreeChannels:
            self._channel_requests.append(on_open)
            if len(self._channel_requests) == 1:
                self._request_channels_later()

    def _request_channels_later(self) -> None:
        connection = self._connection
        self._loop.call_later(_CHANNEL_DELAY, lambda: self._request_channels(connection))

    def _request_channels(self, connection: Any) -> None:
        if connection is not self._connection or not self.is_up:
            return
        requests, self._channel_requests = self._channel_requests, []
        for each in requests:
            self.channel(each)
        before, self._missing_channels = self._missing_channels, len(self._channel_requests)
        if self._missing_channels and self._missing_channels == before and not self.lacks_channels:
            self.lacks_channels = True
            most = int(connection.params.channel_max)
            self._log.error(
                "%s needs %d channels, but the broker allows %d on a connection: "
                "raise channel_max in rabbitmq.conf",
                self.name,
                most + self._missing_channels,
                most,
            )
            for listener in list(self._listeners):
                listener.session_lacks_channels()

    @property
    def frame_room(self) -> int:
        """Maximum bytes of a message's properties: one content header (AMQP 0-9-1, section 2.3.5.2)."""
        return int(self._connection.params.frame_max) - 8 - 12

    @property
    def server_properties(self) -> Mapping[str, Any]:
        """The broker's own description: product, version, cluster_name. The connection must be up."""
        found: Mapping[str, Any] = self._connection.server_properties
        return found

    @property
    def broker_major(self) -> int:
        """The broker's major version. The connection must be up."""
        return int(str(self._connection.server_properties.get("version", "0")).partition(".")[0])

    @property
    def broker(self) -> str:
        """The broker's product, version and cluster, and the host of the connection, which must be up."""
        properties = self._connection.server_properties
        name = " ".join(str(properties[key]) for key in ("product", "version") if key in properties)
        cluster = f", cluster {properties['cluster_name']}" if "cluster_name" in properties else ""
        return f"{name}{cluster}, at {self._connection.params.host}:{self._connection.params.port}"

    def retry_soon(self) -> None:
        """Reconnect after the shortest pause: the cause of the last disconnects is known and removed."""
        self._failures = 0

    def configure(self, amqp: "AmqpSettings") -> None:
        """Use another address from now on: close the connection to the old one, or the pause before it."""
        if amqp == self.amqp:
            return
        self.amqp, self._next_host, self._tried, self._failures = amqp, 0, 0, 0
        if self.is_up:
            self._connection.close()
        elif self._pausing is not None:
            self._loop.cancel(self._pausing)
            self._connect()

    def abandon(self) -> None:
        """Close the socket without AMQP's handshake: after a fork the parent still uses the connection."""
        transport = getattr(self._connection, "_transport", None)
        sock = getattr(transport, "_sock", None)
        if sock is not None:
            sock.close()

    def close(self, then: Callable[[], None]) -> None:
        """Close with AMQP's handshake, for at most CLOSE_TIMEOUT seconds; then call back."""
        if self._closing is not None:
            return
        self._closing = then
        if self._connection is None or self._connection.is_closed:
            self._closed()
            return
        self._loop.call_later(CLOSE_TIMEOUT, self._closed)
        if self.is_up:  # else `_opened` closes it: pika cannot be stopped while it connects
            self._connection.close()

    def _closed(self) -> None:
        then, self._closing = self._closing, _nothing
        if then is not None:
            then()

    # --- connecting ---

    def _connect(self) -> None:
        self._pausing = None
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
        return Backpressure(self._loop.ioloop, self._loop.guard(self._attempt_reset))

    def _attempt_reset(self, error: ValueError) -> None:
        """Fail a connection attempt that was reset as soon as it was made.

        pika calls getpeername in _AsyncStreamConnector, takes the failure for its caller's mistake and raises
        it in the loop. It reports the attempt only after the timeout; by then the session ignores the report.
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
        """Continue with the next host at once; pause when all have been tried."""
        self._next_host = (self._next_host + 1) % len(self.amqp.hosts)
        self._tried += 1
        if self._tried < len(self.amqp.hosts) and not isinstance(error, BrokerRefused):
            self._loop.call_later(0, self._connect)
            return
        self._tried = 0
        self._failures += 1
        self._on_error(error)
        self._connect_later()

    def _connect_later(self) -> None:
        longest = min(self._longest_delay, _FIRST_DELAY * 2 ** min(self._failures, 10))
        pause = longest * random.uniform(0.5, 1.0)  # noqa: S311 -- jitter, not a secret
        self._pausing = self._loop.call_later(pause, self._connect)

    def _lost(self, _connection: Any, error: BaseException) -> None:
        self._is_up = self.is_blocked = False
        self.fault = _describe(error) if getattr(error, "reply_code", 0) in _FAULTS else ""
        if self._closing is not None:
            self._closed()
            return
        self.errands.session_down()
        self._channel_requests.clear()
        for listener in tuple(self._listeners):
            listener.session_down()
        if time.monotonic() - self._up_since >= _STEADY:
            self._failures = 0
        self._log.warning("lost the connection to the broker: %s", _describe(error))
        self._connect_later()
        self._failures += 1

    def _blocked(self, _connection: Any, frame: Any) -> None:
        self.is_blocked = True
        self._log.warning("the broker has an alarm and accepts no messages: %s", frame.method.reason)
        for listener in tuple(self._listeners):
            listener.session_blocked()

    def _unblocked(self, _connection: Any, _frame: Any) -> None:
        self.is_blocked = False
        self._log.info("the broker accepts messages again")
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
        heartbeat=amqp.heartbeat,  # the broker sends heartbeats during an alarm, too, so an alarm may last
        ssl_options=_ssl_options(amqp, host),
        connection_attempts=1,
        socket_timeout=_CONNECT_TIMEOUT / 2,
        stack_timeout=_CONNECT_TIMEOUT,
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
    """Translate pika's connection errors into ours.

    pika guesses the cause from the progress of the handshake. A stream that ended is no refusal.
    """
    error = _innermost(error)
    where, ended = f"{host[0]}:{host[1]}", "StreamLostError" in repr(error)
    if isinstance(error, ForeignServer):
        return BrokerUnavailable(
            f"the server at {where} belongs to another user: the private broker does not run"
        )
    if not ended and isinstance(error, pika.exceptions.ProbableAuthenticationError):
        return BrokerRefused(f"the broker at {where} refused user {amqp.user!r}: wrong name or password")
    if not ended and isinstance(error, pika.exceptions.ProbableAccessDeniedError):
        return BrokerRefused(
            f"the broker at {where} refused user {amqp.user!r} the virtual host {amqp.vhost!r}: "
            "it does not exist, or the user has no permissions there"
        )
    if not ended and isinstance(error, pika.exceptions.IncompatibleProtocolError):
        return BrokerRefused(f"the server at {where} does not speak AMQP 0-9-1")
    return BrokerUnavailable(f"the broker at {where} cannot be reached: {_describe(error)}")


def _describe(error: BaseException) -> str:
    """Return a text for an error of pika's; many of them have an empty one."""
    error = _innermost(error)
    if "Timeout while setting up AMQP" in str(error):
        return f"no AMQP answer within {_CONNECT_TIMEOUT:g} s"
    if isinstance(error, pika.exceptions.ConnectionClosed):
        return f"{error.reply_text} ({error.reply_code})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _innermost(error: BaseException) -> BaseException:
    """Unwrap pika's errors; it nests them up to three times: workflow, connector, cause."""
    inner = (*getattr(error, "exceptions", ()), getattr(error, "exception", None), *error.args)
    causes = [cause for cause in inner if isinstance(cause, BaseException)]
    return _innermost(causes[-1]) if causes else error
