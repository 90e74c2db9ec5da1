"""Keeps pika from decoding message properties: they pass through as the bytes they came in.

pika's codec is not exact (floats, negative integers, integer widths, strings that are not UTF-8), and
a message that it cannot encode again would kill the process that relays it.
"""

from typing import Any

from pika import spec


class RawProperties(spec.BasicProperties):  # type: ignore[misc]
    """Properties that are decoded and encoded by doing nothing."""

    def __init__(self, raw: bytes = b"\0\0") -> None:
        """Take a property list as AMQP writes it."""
        self.raw = raw

    def decode(self, encoded: bytes, offset: int = 0) -> "RawProperties":
        """Keep the bytes; pika calls this for every content header."""
        self.raw = encoded[offset:]
        return self

    def encode(self) -> list[bytes]:
        """Return the bytes in the form that pika joins."""
        return [self.raw]

    def __repr__(self) -> str:
        """Show the bytes; the fields that pika's own repr looks for are not there."""
        return f"RawProperties({self.raw!r})"


def keep_properties_raw() -> None:
    """Make pika hand over RawProperties; for the whole process, which runs no other code with pika."""
    properties: dict[int, Any] = spec.props
    properties[spec.BasicProperties.INDEX] = RawProperties
