"""Frames of messages and their confirms, without pika where that pays, or where pika is not exact.

Message properties pass through as the bytes they came in: pika's codec is not exact (floats, negative
integers, integer widths, strings that are not UTF-8), and a message that it cannot encode again would kill
the process that relays it. And pika makes objects of each frame and of all that is in it, which takes four
times as long as to look at the bytes.
"""

import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, NamedTuple

import pika
from pika import exceptions, frame, spec

_HEAD: Final = struct.Struct(">BHL")  # a frame's type, channel and size (AMQP 0-9-1, section 4.2.3)
_NEXT: Final = struct.Struct(">BBHL")  # the end of a frame, and the head of the next
_CONTENT: Final = struct.Struct(">HHQ")  # class, weight and body size (section 4.2.6.1)
_CONTENT_HEADER: Final = struct.Struct(">BHLHHQ")  # a header frame's head, and what _CONTENT is
_NEXT_HEADER: Final = struct.Struct(">BBHLIQ")  # the same behind a frame's end; class and weight in one
_PUBLISH: Final = struct.pack(">IH", spec.Basic.Publish.INDEX, 0)  # class and method, and a reserved field
_END: Final = bytes((spec.FRAME_END,))
_DELIVER: Final = struct.Struct(">BHLIB")  # a method frame's head, its method, the size of the consumer tag
_TAG: Final = struct.Struct(">QB")  # a delivery's tag, and whether it is redelivered
_ACK: Final = struct.Struct(">BHLIQBB")  # a whole frame: head, method, tag, multiple, the frame's end
_METHOD_KIND, _HEADER_KIND, _BODY_KIND = spec.FRAME_METHOD, spec.FRAME_HEADER, spec.FRAME_BODY
_DELIVER_INDEX, _CONTENT_CLASS = spec.Basic.Deliver.INDEX, spec.Basic.INDEX
_THREE_ENDS: Final = (spec.FRAME_END,) * 3
_ACK_SIZE: Final = _ACK.size - _HEAD.size - 1  # bytes of its payload
_HEADER: Final = bytes((spec.FRAME_HEADER,))

_MOST_READ: Final = 65_536  # bytes at a time


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

    most -- bytes of body that fit into a frame
    """
    size = _CONTENT.size + len(properties)
    parts = [
        _publish_method(channel, exchange, queue, mandatory),
        _CONTENT_HEADER.pack(_HEADER_KIND, channel, size, _CONTENT_CLASS, 0, len(body)),
        properties,
    ]
    for start in range(0, len(body), most):
        part = body[start : start + most]
        parts += _NEXT.pack(spec.FRAME_END, _BODY_KIND, channel, len(part)), part
    parts.append(_END)
    return b"".join(parts)


def ack_frame(channel: int, tag: int, *, multiple: bool) -> bytes:
    """Return the frame of the method basic.ack (section 1.8.3.13 of the reference).

    multiple -- whether all deliveries up to that of the tag are acknowledged
    """
    kind, method, end = spec.FRAME_METHOD, spec.Basic.Ack.INDEX, spec.FRAME_END
    return _ACK.pack(kind, channel, _ACK_SIZE, method, tag, multiple, end)


class Confirmed(NamedTuple):
    """The broker's word that it has a message: a basic.ack that it sends."""

    channel: int
    tag: int
    multiple: bool  # whether it has all up to that message


def confirmed_at(data: bytes, start: int) -> Confirmed | None:
    """Return the confirm whose frame begins at `start`; None if it is something else, or not whole."""
    if len(data) - start < _ACK.size:
        return None
    kind, channel, size, method, tag, multiple, end = _ACK.unpack_from(data, start)
    if (kind, size, method, end) != (spec.FRAME_METHOD, _ACK_SIZE, spec.Basic.Ack.INDEX, spec.FRAME_END):
        return None
    return Confirmed(channel, tag, bool(multiple))


class Delivered(NamedTuple):
    """A message that the broker hands over, in its frames: a method, a header, and a body or none.

    It has what consumers look for in pika's method and in RawProperties, and stands for both.
    """

    channel: int
    consumer_tag: str
    delivery_tag: int
    redelivered: bool
    raw: bytes  # the properties, as in RawProperties
    body: bytes
    end: int  # where in the buffer the next frame begins


def delivered_at(data: bytes, start: int) -> Delivered | None:
    """Return the delivery whose frames begin at `start`; None if it is something else, or not whole.

    A body of several frames is something else, too, and so is whatever is malformed: pika is to deal with it.
    """
    try:
        kind, channel, size, method, tag_size = _DELIVER.unpack_from(data, start)
        if method != _DELIVER_INDEX or kind != _METHOD_KIND:
            return None
        header = start + _HEAD.size + size  # the byte that ends the frame before: it is read with the next
        end_1, kind_2, channel_2, header_size, _, length = _NEXT_HEADER.unpack_from(data, header)
        body = end = header + _NEXT.size + header_size
        end_2, kind_3, channel_3, body_size = data[body], _BODY_KIND, channel, length
        if length:
            end_2, kind_3, channel_3, body_size = _NEXT.unpack_from(data, body)
            end = body + _NEXT.size + length
        end_3 = data[end]
    except (struct.error, IndexError):  # the rest is still to come
        return None
    found = kind_2, channel_2, kind_3, channel_3, body_size, end_1, end_2, end_3
    if found != (_HEADER_KIND, channel, _BODY_KIND, channel, length, *_THREE_ENDS):
        return None
    tag = start + _DELIVER.size
    tag_end = tag + tag_size
    delivery_tag, redelivered = _TAG.unpack_from(data, tag_end)
    return Delivered(
        channel,
        data[tag:tag_end].decode(),
        delivery_tag,
        bool(redelivered),
        data[header + _NEXT_HEADER.size : body],
        data[body + _NEXT.size : end],
        end + 1,
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

    A client lives in its user's process, which may well use pika for something else. A test of each supported
    version of pika sees to it that the methods are still called that are overridden here.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Connect as pika's own does."""
        self._on_confirm: dict[int, tuple[Any, Callable[[int, bool], None]]] = {}  # by a channel's number
        super().__init__(*arguments, **options)

    def take_confirms(self, channel: Any, on_confirm: Callable[[int, bool], None]) -> None:
        """Call back at each confirm on an open channel: its tag, and whether it is for all up to that.

        Refusals (basic.nack) are left to pika.
        """
        self._on_confirm[channel.channel_number] = channel, on_confirm

    def _proto_connection_made(self, transport: Any) -> None:
        transport._MAX_RECV_BYTES = _MOST_READ  # noqa: SLF001 -- pika reads 4096 bytes at a time,
        if self.params.ssl_options is None:
            transport._MAX_CONSUME_BYTES = 1  # noqa: SLF001 -- and again, until it is told that there is no more
        super()._proto_connection_made(transport)

    def _on_data_available(self, data: bytes) -> None:
        """Hand over the deliveries and confirms in what has come, and leave to pika all between them."""
        self._frame_buffer += data
        while self._hand_over():
            size, frame_value = self._read_frame()
            if frame_value is None:
                return
            self._trim_frame_buffer(size)
            self._process_frame(frame_value)

    def _hand_over(self) -> bool:
        """Hand over the deliveries and confirms with which the buffer begins; tell whether more is in it."""
        data, end = self._frame_buffer, 0
        while end < len(data):
            if (found := delivered_at(data, end)) is not None and self._pass_on(found):
                end = found.end
            elif (confirm := confirmed_at(data, end)) is not None and self._confirm(confirm):
                end += _ACK.size
            else:
                break
        self._trim_frame_buffer(end)
        return end < len(data)

    def _confirm(self, confirm: Confirmed) -> bool:
        """Pass on a confirm; False if it is for pika."""
        channel, on_confirm = self._on_confirm.get(confirm.channel, (None, None))
        if on_confirm is None or self._channels.get(confirm.channel) is not channel:
            return False
        on_confirm(confirm.tag, confirm.multiple)
        return True

    def _pass_on(self, found: Delivered) -> bool:
        """Pass on a delivery as pika's channel does; False if pika has to decide what becomes of it."""
        channel, tag = self._channels.get(found.channel), found.consumer_tag
        if channel is None or tag in channel._cancelled:  # noqa: SLF001
            return False
        consumer = channel._consumers.get(tag)  # noqa: SLF001
        if consumer is None:
            return False
        consumer(channel, found, found, found.body)
        return True

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
