"""pika's connection with raw properties, fast parsing of deliveries and confirms, and write coalescing.

Message properties stay bytes. pika's codec is not exact (floats, negative integers, integer widths, strings
that are not UTF-8), and a message that it cannot encode again would kill the process that relays it. pika
also writes each frame to the socket separately: three for each published message.
"""

import socket
from collections.abc import Callable
from typing import Any, Final

import pika
from pika import exceptions, frame, spec
from pika.adapters.select_connection import IOLoop

from taskqueue.amqp.frames import (
    ACK,
    CONTENT,
    HEAD,
    Confirmed,
    Delivered,
    ack_frame,
    confirmed_at,
    delivered_at,
    message_frames,
)
from taskqueue.broker.listener import other_end
from taskqueue.broker.loop import EventLoop

_HEADER: Final = bytes((spec.FRAME_HEADER,))
_MOST_READ: Final = 65_536  # bytes at a time


class RawProperties(spec.BasicProperties):  # type: ignore[misc]
    """Properties that stay encoded."""

    def __init__(self, raw: bytes = b"\0\0") -> None:
        """Take an encoded property list (AMQP 0-9-1, section 4.2.6.1)."""
        self.raw = raw

    def encode(self) -> list[bytes]:
        """Return the bytes as a list, which pika joins."""
        return [self.raw]

    def __repr__(self) -> str:
        """Show the bytes. pika's own repr reads fields that this object does not have."""
        return f"RawProperties({self.raw!r})"


class RawConnection(pika.SelectConnection):  # type: ignore[misc]
    """A connection whose deliveries carry RawProperties. Other connections of the process are not affected.

    A client lives in its user's process, which may use pika for other things. A test with each supported
    version of pika checks that pika still calls the methods overridden here.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._on_confirm: dict[int, tuple[Any, Callable[[int, bool], None]]] = {}  # by channel number
        super().__init__(*arguments, **options)

    def take_confirms(self, channel: Any, on_confirm: Callable[[int, bool], None]) -> None:
        """Call back at each confirm on an open channel, with its delivery tag and its `multiple`.

        Refusals (basic.nack) are left to pika.
        """
        self._on_confirm[channel.channel_number] = channel, on_confirm

    def _proto_connection_made(self, transport: Any) -> None:
        transport._MAX_RECV_BYTES = _MOST_READ  # noqa: SLF001 -- pika reads 4096 bytes at a time,
        if self.params.ssl_options is None:
            transport._MAX_CONSUME_BYTES = 1  # noqa: SLF001 -- and repeats until the socket is empty
        super()._proto_connection_made(transport)

    def _on_data_available(self, data: bytes) -> None:
        """Pass on the received deliveries and confirms; leave all other frames to pika."""
        self._frame_buffer += data
        while self._hand_over():
            size, frame_value = self._read_frame()
            if frame_value is None:
                return
            self._trim_frame_buffer(size)
            self._process_frame(frame_value)

    def _hand_over(self) -> bool:
        """Pass on the deliveries and confirms at the buffer's start; tell whether other bytes follow."""
        data, end = self._frame_buffer, 0
        while end < len(data):
            if (found := delivered_at(data, end)) is not None and self._pass_on(found):
                end = found.end
            elif (confirm := confirmed_at(data, end)) is not None and self._confirm(confirm):
                end += ACK.size
            else:
                break
        self._trim_frame_buffer(end)
        return end < len(data)

    def _confirm(self, confirm: Confirmed) -> bool:
        """Pass on a confirm; return False to leave it to pika."""
        channel, on_confirm = self._on_confirm.get(confirm.channel, (None, None))
        if on_confirm is None or self._channels.get(confirm.channel) is not channel:
            return False
        on_confirm(confirm.tag, confirm.multiple)
        return True

    def _pass_on(self, found: Delivered) -> bool:
        """Pass a delivery to its consumer, as pika's channel does; return False to leave it to pika."""
        channel, tag = self._channels.get(found.channel), found.consumer_tag
        if channel is None or tag in channel._cancelled:  # noqa: SLF001
            return False
        consumer = channel._consumers.get(tag)  # noqa: SLF001
        if consumer is None:
            return False
        consumer(channel, found, found, found.body)
        return True

    def _read_frame(self) -> tuple[int, Any]:
        """Return the size and value of the first frame in the buffer; (0, None) if it is incomplete."""
        data = self._frame_buffer
        if data[:1] != _HEADER or len(data) < HEAD.size:
            return frame.decode_frame(data)  # type: ignore[no-any-return]
        _, channel, size = HEAD.unpack_from(data)
        end = HEAD.size + size + 1
        if end > len(data):
            return 0, None
        if data[end - 1] != spec.FRAME_END or size < CONTENT.size:
            raise exceptions.InvalidFrameError("truncated content header")
        body_size = CONTENT.unpack_from(data, HEAD.size)[2]
        properties = RawProperties(bytes(data[HEAD.size + CONTENT.size : end - 1]))
        return end, frame.Header(channel, body_size, properties)


def close_at_once(channel: Any) -> None:
    """Close a channel with its consumers.

    pika would cancel them before it closes the channel. In between, the broker would give newer messages to
    the next single active consumer, and only then the older ones that this channel holds.
    """
    channel._cancelled.update(channel._consumers)  # noqa: SLF001 -- pika cancels none twice
    channel.close()


_ENOUGH: Final = 65_536  # bytes that are sent before the round's end
_FRAME_OVERHEAD: Final = 8  # bytes of a frame in addition to its payload (AMQP 0-9-1, section 4.2.3)


class ForeignServer(Exception):
    """Another user's process listens in place of the broker; it was not sent the password."""


class CoalescingConnection(RawConnection):
    """A connection that joins the writes of a round, and that checks the listener's user before it logs in.

    A test with each supported version of pika checks that pika still calls the methods overridden here.
    """

    def __init__(self, loop: EventLoop, *arguments: Any, owner: int | None = None, **options: Any) -> None:
        """Connect.

        loop -- the event loop that runs the connection
        owner -- the user id that the process at the other end, on this machine, must have; None: any
        """
        self._rounds = loop
        self._owner = owner
        self._written: list[bytes] = []
        self._size = 0
        super().__init__(*arguments, **options)

    def publish(
        self, channel: int, exchange: str, queue: str, properties: bytes, body: bytes, *, mandatory: bool
    ) -> None:
        """Publish a message on an open channel. `properties` are an encoded property list."""
        most = self.params.frame_max - _FRAME_OVERHEAD
        self._adapter_emit_data(
            message_frames(channel, exchange, queue, properties, body, mandatory=mandatory, most=most)
        )

    def acknowledge(self, channel: int, tag: int, *, multiple: bool) -> None:
        """Acknowledge one delivery, or all up to it, on an open channel."""
        self._adapter_emit_data(ack_frame(channel, tag, multiple=multiple))

    def _get_credentials(self, method_frame: Any) -> Any:
        """Return the login for the broker; refuse if another user's process listens."""
        if self._owner is not None:
            other = other_end(self._transport._sock)  # noqa: SLF001 -- pika has no public name for it
            if other is None or not other.inode or other.uid != self._owner:
                raise ForeignServer
        return super()._get_credentials(method_frame)

    def _adapter_emit_data(self, data: bytes) -> None:
        if not self._written:
            self._rounds.at_round_end(self._send_written)
        self._written.append(data)
        self._size += len(data)
        if self._size >= _ENOUGH:
            self._send_written()

    def _adapter_disconnect_stream(self) -> None:
        self._send_written()
        super()._adapter_disconnect_stream()

    def _send_written(self) -> None:
        written, self._written, self._size = self._written, [], 0
        if not written or self._transport is None:
            return
        data = b"".join(written)
        rest = data[self._send_now(data) :]
        if rest:
            self._transport.write(rest)

    def _send_now(self, data: bytes) -> int:
        """Send as much as the socket takes, without TLS. pika's transport would wait for the next round.

        An error is ignored here: pika's transport meets it again and handles it.
        """
        line = getattr(self._transport, "_sock", None)
        if type(line) is not socket.socket or self._transport.get_write_buffer_size():
            return 0
        try:
            return line.send(data)
        except OSError:
            return 0


class Backpressure:
    """pika's loop as one connection sees it; it can stop reading from the connection's socket.

    Unread bytes then wait in TCP and not in our memory. A prefetch counts messages of any size: 500 of them
    can be 500 x 16 MiB.
    """

    READ, WRITE, ERROR = IOLoop.READ, IOLoop.WRITE, IOLoop.ERROR

    def __init__(self, ioloop: IOLoop, on_error: Callable[[ValueError], None]) -> None:
        """Forward to `ioloop`, and read.

        on_error -- takes a ValueError that pika raises; it would end the loop
        """
        self.reads = True
        self._on_error = on_error
        self._ioloop = ioloop
        self._events: dict[int, int] = {}  # the events that the connection watches, by file descriptor

    def __getattr__(self, name: str) -> Any:
        """Forward timers and callbacks to the loop."""
        return getattr(self._ioloop, name)

    def release(self) -> None:
        """Read from the socket again."""
        self._set(reads=True)

    def apply(self) -> None:
        """Stop reading from the socket."""
        self._set(reads=False)

    def _set(self, *, reads: bool) -> None:
        if self.reads != reads:
            self.reads = reads
            for descriptor, events in self._events.items():
                self._ioloop.update_handler(descriptor, self._admitted(events))

    def _admitted(self, events: int) -> int:
        return events if self.reads else events & ~self.READ

    # --- called by pika ---

    def add_handler(self, descriptor: int, handler: Callable[[int, int], None], events: int) -> None:
        """Watch a file descriptor."""

        def handle(ready: int, found: int) -> None:
            if not self.reads and found & ~self.WRITE:
                self.release()  # the connection must see an error or a hang-up
            try:
                handler(ready, found)
            except ValueError as error:
                self._on_error(error)

        self._events[descriptor] = events
        self._ioloop.add_handler(descriptor, handle, self._admitted(events))

    def update_handler(self, descriptor: int, events: int) -> None:
        """Change the watched events."""
        self._events[descriptor] = events
        self._ioloop.update_handler(descriptor, self._admitted(events))

    def remove_handler(self, descriptor: int) -> None:
        """Stop watching a file descriptor."""
        del self._events[descriptor]
        self._ioloop.remove_handler(descriptor)
