"""A connection that sends in one piece what is written in one round of the loop.

pika hands every frame to the socket by itself: three for each message that is published.
"""

import socket
from typing import Any, Final

from taskqueue.broker.listener import other_end
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.wire import RawConnection, ack_frame, message_frames

_ENOUGH: Final = 65_536  # bytes that are sent without waiting for the round's end

_FRAME_OVERHEAD: Final = 8  # bytes of a frame beside its payload (AMQP 0-9-1, section 4.2.3)


class StrangerAnswers(Exception):
    """Another user answered instead of the broker's owner; it was not told the password."""


class JoiningConnection(RawConnection):
    """A connection with the methods overridden by which pika writes, ends and shows its credentials.

    A test of each supported version of pika sees to it that they are still called.
    """

    def __init__(self, loop: EventLoop, *arguments: Any, owner: int | None = None, **options: Any) -> None:
        """Connect as pika's own does.

        loop -- runs it
        owner -- the id of the user who must be at the other end, on this machine; None for anybody
        """
        self._rounds = loop
        self._owner = owner
        self._written: list[bytes] = []
        self._size = 0
        super().__init__(*arguments, **options)

    def publish(
        self, channel: int, exchange: str, queue: str, properties: bytes, body: bytes, *, mandatory: bool
    ) -> None:
        """Publish a message on an open channel; `properties` are as AMQP writes them."""
        most = self.params.frame_max - _FRAME_OVERHEAD
        self._adapter_emit_data(
            message_frames(channel, exchange, queue, properties, body, mandatory=mandatory, most=most)
        )

    def acknowledge(self, channel: int, tag: int, *, multiple: bool) -> None:
        """Acknowledge a delivery, or all up to it, on an open channel."""
        self._adapter_emit_data(ack_frame(channel, tag, multiple=multiple))

    def _get_credentials(self, method_frame: Any) -> Any:
        """Return what proves to the broker who we are, unless it is somebody else who has answered."""
        if self._owner is not None:
            other = other_end(self._transport._sock)  # noqa: SLF001 -- no other way to it
            if other is None or not other.inode or other.uid != self._owner:
                raise StrangerAnswers
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
        """Send what there is room for, without TLS: pika's transport waits for a round first, even so.

        An error here occurs there, too, and is handled there.
        """
        line = getattr(self._transport, "_sock", None)
        if type(line) is not socket.socket or self._transport.get_write_buffer_size():
            return 0
        try:
            return line.send(data)
        except OSError:
            return 0
