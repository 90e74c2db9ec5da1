"""Messages whose properties are the very bytes on the wire, for a client that decodes nothing."""

import struct
from collections.abc import Iterable
from typing import Any

import amqp
from support.node import Node

FLAGS = {"content_type": 15, "content_encoding": 14, "headers": 13, "delivery_mode": 12, "correlation_id": 10,
         "reply_to": 9, "message_id": 7, "timestamp": 6, "type": 5}  # fmt: skip


class RawMessage(amqp.Message):
    """A message of py-amqp's that neither encodes nor decodes its properties."""

    def __init__(self, body: bytes = b"", raw: bytes = b"", **options: Any) -> None:
        super().__init__(body, **options)
        self.raw = raw

    def _load_properties(self, _class_id: int, buffer: bytes, offset: int) -> int:
        self.raw = bytes(buffer[offset:])
        return len(buffer)

    def _serialize_properties(self) -> bytes:
        return self.raw


def properties(**fields: bytes) -> bytes:
    """Return a property list (AMQP 0-9-1, section 4.2.6.1) of fields that are encoded already."""
    bits = sum(1 << FLAGS[name] for name in fields)
    parts = [fields[name] for name in FLAGS if name in fields]
    return struct.pack(">H", bits) + b"".join(parts)


def short(value: bytes) -> bytes:
    """Encode a short string."""
    return bytes((len(value),)) + value


def long(value: bytes) -> bytes:
    """Encode a long string, or the entries of a table or list."""
    return struct.pack(">I", len(value)) + value


def table(entries: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Encode a table of names and values; a value begins with the letter of its type."""
    return long(b"".join(short(name) + value for name, value in entries))


def most_nested(node: Node) -> int:
    """Return how many tables in one another a node passes on in a second.

    RabbitMQ 4 encodes each message's headers anew, in a time that grows with the square of that number.
    """
    return 5_000 if node.version >= (4,) else 21_000


def nested(depth: int, most: int = 21_000) -> bytes:
    """Return a header value: tables in one another, `depth` of them but no more than `most`."""
    depth = min(depth, most)
    # From the outside in: each adds the same 6 bytes before all that is inside of it.
    return b"".join(b"F" + struct.pack(">I", 6 * below) + b"\0" * bool(below) for below in _below(depth))


def _below(depth: int) -> range:
    return range(depth - 1, -1, -1)
