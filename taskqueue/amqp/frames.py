"""The frames of publishes, deliveries, acknowledgements and confirms, as bytes.

The numbers are those of AMQP 0-9-1 (section 4.2.3; classes and methods in the reference). pika makes objects
of each frame and of its fields, which takes four times as long as this parser.
"""

import struct
from functools import lru_cache
from typing import Final, NamedTuple

FRAME_END: Final = 0xCE
NOT_FOUND: Final = 404  # reply code for a missing queue or exchange
FRAME_METHOD, FRAME_HEADER, FRAME_BODY = 1, 2, 3
_CLASS: Final = 60  # basic
_PUBLISH_METHOD, _DELIVER_METHOD, _ACK_METHOD = (_CLASS << 16 | method for method in (40, 60, 80))

HEAD: Final = struct.Struct(">BHL")  # a frame's type, channel and size (AMQP 0-9-1, section 4.2.3)
_NEXT: Final = struct.Struct(">BBHL")  # the end of a frame, and the head of the next one
CONTENT: Final = struct.Struct(">HHQ")  # class, weight and body size (section 4.2.6.1)
_CONTENT_HEADER: Final = struct.Struct(">BHLHHQ")  # a header frame's head, and CONTENT
_NEXT_HEADER: Final = struct.Struct(">BBHLIQ")  # a frame's end, and _CONTENT_HEADER; class and weight in one
_PUBLISH: Final = struct.pack(">IH", _PUBLISH_METHOD, 0)  # class and method, and a reserved field
_END: Final = bytes((FRAME_END,))
_DELIVER: Final = struct.Struct(">BHLIB")  # a method frame's head, its method, the size of the consumer tag
_TAG: Final = struct.Struct(">QB")  # delivery tag, redelivered
ACK: Final = struct.Struct(">BHLIQBB")  # a whole frame: head, method, tag, multiple, the frame's end
_THREE_ENDS: Final = (FRAME_END,) * 3
_ACK_SIZE: Final = ACK.size - HEAD.size - 1  # bytes of its payload


@lru_cache(maxsize=1024)
def _publish_method(channel: int, exchange: str, queue: str, mandatory: bool) -> bytes:  # noqa: FBT001 -- cached
    """Return the method frame basic.publish (AMQP 0-9-1, section 1.8.3.7 of the reference)."""
    names = b"".join(bytes((len(name),)) + name for name in (exchange.encode(), queue.encode()))
    payload = _PUBLISH + names + bytes((mandatory,))
    return _frame(FRAME_METHOD, channel, payload)


def _frame(kind: int, channel: int, payload: bytes) -> bytes:
    return b"".join((HEAD.pack(kind, channel, len(payload)), payload, _END))


def message_frames(
    channel: int, exchange: str, queue: str, properties: bytes, body: bytes, *, mandatory: bool, most: int
) -> bytes:
    """Return the frames that publish a message (section 4.2.6).

    most -- maximum bytes of body in one frame
    """
    size = CONTENT.size + len(properties)
    parts = [
        _publish_method(channel, exchange, queue, mandatory),
        _CONTENT_HEADER.pack(FRAME_HEADER, channel, size, _CLASS, 0, len(body)),
        properties,
    ]
    for start in range(0, len(body), most):
        part = body[start : start + most]
        parts += _NEXT.pack(FRAME_END, FRAME_BODY, channel, len(part)), part
    parts.append(_END)
    return b"".join(parts)


def ack_frame(channel: int, tag: int, *, multiple: bool) -> bytes:
    """Return the frame of basic.ack (section 1.8.3.13 of the reference).

    multiple -- whether it acknowledges all deliveries up to that tag
    """
    kind, method, end = FRAME_METHOD, _ACK_METHOD, FRAME_END
    return ACK.pack(kind, channel, _ACK_SIZE, method, tag, multiple, end)


class Confirmed(NamedTuple):
    """A confirm: the broker's basic.ack for published messages."""

    channel: int
    tag: int
    multiple: bool  # whether it confirms all messages up to that tag


def confirmed_at(data: bytes, start: int) -> Confirmed | None:
    """Return the confirm whose frame begins at `start`; None for another or an incomplete frame."""
    if len(data) - start < ACK.size:
        return None
    kind, channel, size, method, tag, multiple, end = ACK.unpack_from(data, start)
    if (kind, size, method, end) != (FRAME_METHOD, _ACK_SIZE, _ACK_METHOD, FRAME_END):
        return None
    return Confirmed(channel, tag, bool(multiple))


class Delivered(NamedTuple):
    """A delivery, parsed from its frames: a method, a header, and at most one body frame.

    It has the fields of pika's method and of RawProperties that consumers read, and replaces both.
    """

    channel: int
    consumer_tag: str
    delivery_tag: int
    redelivered: bool
    raw: bytes  # the encoded properties, as in RawProperties
    body: bytes
    end: int  # position of the next frame in the buffer


def delivered_at(data: bytes, start: int) -> Delivered | None:
    """Return the delivery whose frames begin at `start`; None for other or incomplete frames.

    None also for a body of several frames, and for malformed ones: they are left to pika.
    """
    try:
        kind, channel, size, method, tag_size = _DELIVER.unpack_from(data, start)
        if method != _DELIVER_METHOD or kind != FRAME_METHOD:
            return None
        header = start + HEAD.size + size  # the method frame's end byte, read with the next head
        end_1, kind_2, channel_2, header_size, _, length = _NEXT_HEADER.unpack_from(data, header)
        body = end = header + _NEXT.size + header_size
        end_2, kind_3, channel_3, body_size = data[body], FRAME_BODY, channel, length
        if length:
            end_2, kind_3, channel_3, body_size = _NEXT.unpack_from(data, body)
            end = body + _NEXT.size + length
        end_3 = data[end]
    except (struct.error, IndexError):  # incomplete
        return None
    found = kind_2, channel_2, kind_3, channel_3, body_size, end_1, end_2, end_3
    if found != (FRAME_HEADER, channel, FRAME_BODY, channel, length, *_THREE_ENDS):
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
