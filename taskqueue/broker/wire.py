"""Keeps pika from decoding message properties: they pass through as the bytes they came in.

pika's codec is not exact (floats, negative integers, integer widths, strings that are not UTF-8), and
a message that it cannot encode again would kill the process that relays it.
"""

import struct
from functools import lru_cache
from typing import Any, Final

import pika
from pika import exceptions, frame, spec

_HEAD: Final = struct.Struct(">BHL")  # a frame's type, channel and size (AMQP 0-9-1, section 4.2.3)
_CONTENT: Final = struct.Struct(">HHQ")  # class, weight and body size (section 4.2.6.1)
_PUBLISH: Final = struct.pack(">IH", spec.Basic.Publish.INDEX, 0)  # class and method, and a reserved field
_END: Final = bytes((spec.FRAME_END,))
_HEADER: Final = bytes((spec.FRAME_HEADER,))


@lru_cache(maxsize=1024)
def _publish_method(channel: int, exchange: str, queue: str, mandatory: bool) -> bytes:  # noqa: FBT001 -- cached
    """Return the method frame basic.publish (AMQP 0-9-1, section 1.8.3.7 of the reference)."""
    names = b"".join(bytes((len(name),)) + name for name in (exchange.encode(), queue.encode()))
    payload = _PUBLISH + names + bytes((mandatory,))
    return _frame(spec.FRAME_METHOD, channel, payload)


def _frame(kind: int, channel: int, payload: bytes) -> bytes:
    return b"".join((_HEAD.pack(kind, channel, len(payload)), payload, _END))


def message_frames(
    channel: int, exchange: str, queue: str, properties: bytes, body: bytes, *, mandatory: bool, most: int
) -> bytes:
    """Return all frames with which a message is published (section 4.2.6).

    pika makes objects of them and of what is in them first, which takes four times as long.

    most -- bytes of body that fit into a frame
    """
    content = _CONTENT.pack(spec.Basic.INDEX, 0, len(body)) + properties
    bodies = (body[start : start + most] for start in range(0, len(body), most))
    return b"".join(
        (
            _publish_method(channel, exchange, queue, mandatory),
            _frame(spec.FRAME_HEADER, channel, content),
            *(_frame(spec.FRAME_BODY, channel, part) for part in bodies),
        )
    )


class RawProperties(spec.BasicProperties):  # type: ignore[misc]
    """Properties that are encoded by doing nothing."""

    def __init__(self, raw: bytes = b"\0\0") -> None:
        """Take a property list as AMQP writes it."""
        self.raw = raw

    def encode(self) -> list[bytes]:
        """Return the bytes in the form that pika joins."""
        return [self.raw]

    def __repr__(self) -> str:
        """Show the bytes; the fields that pika's own repr looks for are not there."""
        return f"RawProperties({self.raw!r})"


class RawConnection(pika.SelectConnection):  # type: ignore[misc]
    """A connection that hands over RawProperties; others in this process go on as pika made them.

    A client lives in its user's process, which may well use pika for something else.
    """

    def _read_frame(self) -> tuple[int, Any]:
        """Return the first frame in the buffer and how many bytes it has; (0, None) while some is missing."""
        data = self._frame_buffer
        if data[:1] != _HEADER or len(data) < _HEAD.size:
            return frame.decode_frame(data)  # type: ignore[no-any-return]
        _, channel, size = _HEAD.unpack_from(data)
        end = _HEAD.size + size + 1
        if end > len(data):
            return 0, None
        if data[end - 1] != spec.FRAME_END or size < _CONTENT.size:
            raise exceptions.InvalidFrameError("a content header that ends early")
        body_size = _CONTENT.unpack_from(data, _HEAD.size)[2]
        properties = RawProperties(bytes(data[_HEAD.size + _CONTENT.size : end - 1]))
        return end, frame.Header(channel, body_size, properties)
