"""Reads a stream from an offset on; nothing is removed from it (https://www.rabbitmq.com/docs/streams#consuming)."""

import logging
from dataclasses import replace
from typing import Any, Final

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import MalformedProperties
from taskqueue.broker.connection import RawProperties
from taskqueue.broker.declaration import Declaration
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.session import Session, SessionListener
from taskqueue.broker.topology import Queue, is_temporary

_OFFSET: Final = "x-stream-offset"
_PRECONDITION_FAILED: Final = 406  # AMQP 0-9-1, section 1.1
_PAUSE: Final = 1.0  # seconds until it is read again, after the broker stopped that
_DECLARE_DELAY: Final = 10.0  # seconds until it is declared again, after the broker refused that for good
_SILENCE: Final = 5.0  # seconds after which a stream that has nothing at the last offset is another stream


class StreamReaderListener:
    """The owner of a reader."""

    def stream_message(self, offset: int | None, body: bytes) -> None:
        """Take a message and its offset; None: the queue is no stream."""

    def stream_lost(self) -> None:
        """The channel is closed. Call `start` again if not everything so far has been kept."""

    def stream_began_anew(self) -> None:
        """The stream is another one than before: it is read from its beginning."""

    def stream_read(self) -> None:
        """The broker delivers."""


class StreamReader(SessionListener):
    """Declares a stream once the session is up, and reads it while that is wanted.

    It asks for the message that was read last, and skips it. A stream that was deleted and declared again has
    no such message; asked for a later offset, the broker would silently wait until the new stream has it.
    The queue that takes the stream's place on a broker without streams is consumed instead.
    """

    def __init__(
        self, loop: EventLoop, session: Session, queue: Queue, prefetch: int, listener: StreamReaderListener
    ) -> None:
        """Prepare; `start` begins to read.

        prefetch -- maximum number of unacknowledged messages
        """
        self._loop = loop
        self._session = session
        self._queue = queue
        self._prefetch = prefetch
        self._listener = listener
        self._last: int | None = None  # the offset that was read last
        self._is_wanted = False
        self._is_opening = False
        self._is_pausing = False  # after the broker closed the channel
        self.is_plain = False  # whether it is no stream
        self._declaration: Declaration | None = None
        self._channel: Any = None
        self._tag = 0  # of the last delivery; 0: all are acknowledged
        self._has_come = False  # whether the channel has had a delivery
        self._complaint = ""  # why it could not be declared, as was logged last
        self._log = logging.getLogger(__name__)
        session.attach(self)

    def start(self, last: int | None) -> None:
        """Read what follows an offset, now or once the session is up; None: from the beginning."""
        self._last, self._is_wanted = last, True
        self._converge()

    def stop(self) -> None:
        """Close the channel; what was not acknowledged comes again after `start`."""
        self._is_wanted = False
        self._close()

    def acknowledge(self) -> None:
        """Acknowledge all messages so far."""
        if self._tag and self._channel is not None and self._channel.is_open:
            self._channel.connection.acknowledge(self._channel.channel_number, self._tag, multiple=True)
            self._tag = 0

    # --- the session ---

    def session_up(self) -> None:
        """Declare the stream, so that it keeps messages; read it if that is wanted."""
        self._converge()

    def session_down(self) -> None:
        """Forget the channel. A broker may also refuse a stream by closing the connection."""
        if self._declaration is not None and self._queue.fallback and "x-queue-type" in self._queue.arguments:
            self._fall_back()
        self._is_opening, self._is_pausing, self._declaration = False, False, None
        if self._channel is not None:
            self._channel = None
            self._listener.stream_lost()

    def _fall_back(self) -> None:
        """Declare an ordinary queue from now on: RabbitMQ 3 with its feature flag stream_queue disabled."""
        if "feature flag" in self._session.fault:
            self._log.warning("%s: an ordinary queue takes the place of the stream", self._session.fault)
            self._queue = replace(self._queue, arguments=self._queue.fallback or {}, fallback=None)

    # --- the channel ---

    def _converge(self) -> None:
        is_free = self._channel is None and not self._is_opening and not self._is_pausing
        if self._session.is_up and is_free:
            self._is_opening = True
            self._declaration = Declaration(
                self._loop, self._session, self._queue, done=self._declared, failed=self._undeclarable
            )

    def _declared(self) -> None:
        declaration, self._declaration, self._complaint = self._declaration, None, ""
        if declaration is not None and declaration.is_new:
            self._begin_anew()
        if self._is_wanted:
            self._session.channel(self._opened)
        else:
            self._is_opening = False

    def _undeclarable(self, reason: str) -> None:
        self._is_opening, self._declaration = False, None
        if reason != self._complaint:  # once for each reason: the attempts go on
            self._complaint = reason
            self._log.error("stream %s cannot be declared: %s", self._queue.name, reason)
        self._pause(_PAUSE if is_temporary(reason) else _DECLARE_DELAY)

    def _pause(self, delay: float) -> None:
        self._is_pausing = True
        self._loop.call_later(delay, self._go_on)

    def _go_on(self) -> None:
        self._is_pausing = False
        self._converge()

    def _begin_anew(self) -> None:
        self._last, self.is_plain = None, False
        self._listener.stream_began_anew()

    def _opened(self, channel: Any) -> None:
        self._is_opening = False
        if not self._is_wanted:
            channel.close()
            return
        guard, self._channel = self._loop.guard, channel
        self._tag, self._has_come = 0, False
        channel.add_on_close_callback(guard(self._closed))
        channel.add_on_cancel_callback(guard(self._cancelled))
        channel.basic_qos(
            prefetch_count=self._prefetch, callback=guard(lambda _frame: self._consume(channel))
        )

    def _consume(self, channel: Any) -> None:
        if channel is self._channel and channel.is_open:
            start = "first" if self._last is None else self._last
            channel.basic_consume(
                self._queue.name,
                self._loop.guard(self._deliver),
                arguments={} if self.is_plain else {_OFFSET: start},
                callback=self._loop.guard(lambda _frame: self._reading(channel)),
            )

    def _reading(self, channel: Any) -> None:
        self._listener.stream_read()
        if self._last is not None and not self.is_plain:
            self._loop.call_later(_SILENCE, lambda: self._check(channel))

    def _check(self, channel: Any) -> None:
        """Read from the beginning if not even the last message came, which the same stream has."""
        if channel is self._channel and channel.is_open and not self._has_come:
            self._log.warning("stream %s was deleted and declared again; it is read anew", self._queue.name)
            self._close()
            self._begin_anew()
            self._converge()

    def _deliver(self, channel: Any, method: Any, properties: RawProperties, body: bytes) -> None:
        if channel is not self._channel:
            return
        self._tag, self._has_come = method.delivery_tag, True
        offset = None if self.is_plain else _offset(properties.raw)
        if offset is not None:
            if self._last is not None and offset <= self._last:
                return
            self._last = offset
        self._listener.stream_message(offset, body)

    def _cancelled(self, _frame: Any) -> None:
        self._log.warning("stream %s was deleted while it was read, or its node is down", self._queue.name)
        channel = self._channel
        self._loop.call_later(_PAUSE, lambda: self._reopen(channel))

    def _reopen(self, channel: Any) -> None:
        if channel is self._channel:
            self._close()
            self._converge()

    def _closed(self, channel: Any, error: BaseException) -> None:
        if channel is not self._channel or not self._session.is_up:
            return
        self._channel = None
        is_refused = getattr(error, "reply_code", 0) == _PRECONDITION_FAILED
        if is_refused and not self.is_plain and _OFFSET in str(error):
            self.is_plain = True
        else:
            self._log.error("the broker closed the channel of stream %s: %s", self._queue.name, error)
            self._pause(_PAUSE)
        self._listener.stream_lost()
        self._converge()

    def _close(self) -> None:
        if self._channel is not None:
            channel, self._channel = self._channel, None
            if channel.is_open:
                channel.close()
            self._listener.stream_lost()


def _offset(raw: bytes) -> int | None:
    """Return the offset that the broker has put into a message's headers; None if it has not."""
    try:
        offset = Properties.decode(raw).header(_OFFSET)
    except MalformedProperties:
        return None
    return offset if isinstance(offset, int) else None
