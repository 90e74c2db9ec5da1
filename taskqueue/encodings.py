"""Content encodings (the AMQP property `content_encoding`): compressed bodies, read within bounds."""

import zlib
from typing import Final

#: zlib's window bits for each name (RFC 9110, section 8.4.1): 31 is gzip, 15 is zlib's own format.
_COMPRESSED: Final = {"gzip": 31, "x-gzip": 31, "deflate": 15}
_RAW: Final = -15  # deflate without zlib's header, as some senders of "deflate" write it

#: Names that change nothing. Some clients, such as kombu, name a charset here, or MIME's transfer encoding.
_PLAIN: Final = frozenset(("", "identity", "utf-8", "utf8", "us-ascii", "ascii", "7bit", "8bit", "binary"))

_LEVEL: Final = 1  # of compression: what the dispatcher cuts out is compressed again, and read once


class UnreadableEncoding(ValueError):
    """A body is not what its content encoding says, or the encoding is unknown."""


def is_plain(encoding: str | None) -> bool:
    """Tell whether a body can be read as it is."""
    return not encoding or encoding in _PLAIN


def is_compressed(encoding: str) -> bool:
    """Tell whether a body must be decompressed before it is read; UnreadableEncoding for an unknown name."""
    if is_plain(encoding):
        return False
    name = _normal(encoding)
    if name not in _COMPRESSED and name not in _PLAIN:
        raise UnreadableEncoding(f"content encoding {encoding[:60]!r} is not one of gzip, deflate")
    return name in _COMPRESSED


def decompress(body: bytes, encoding: str, most: int) -> bytes:
    """Return a body decompressed.

    Args:
        body: one gzip member (RFC 1952), or a zlib or deflate stream (RFC 1950, RFC 1951).
        encoding: a name that `is_compressed` knows.
        most: bytes that it may have decompressed; no more are made.

    Raises UnreadableEncoding where it has more, or is not what the encoding says.
    """
    reader = zlib.decompressobj(_window(_normal(encoding), body))
    try:
        plain = reader.decompress(body, most + 1)
    except zlib.error as error:
        raise UnreadableEncoding(f"the body is not {encoding}: {error}") from None
    if len(plain) > most:
        raise UnreadableEncoding(f"the body has more than {most} bytes when it is decompressed")
    if not reader.eof:
        raise UnreadableEncoding(f"the body is not {encoding}: it ends early")
    if reader.unused_data:
        raise UnreadableEncoding(
            f"the body is not {encoding}: {len(reader.unused_data)} bytes follow its end"
        )
    return plain


def compress(body: bytes, encoding: str) -> bytes:
    """Return a body compressed; `encoding` is a name that `is_compressed` knows."""
    writer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _COMPRESSED[_normal(encoding)])
    return writer.compress(body) + writer.flush()


def _normal(encoding: str) -> str:
    return encoding.strip().lower()


def _window(name: str, body: bytes) -> int:
    bits = _COMPRESSED[name]
    if bits == _COMPRESSED["deflate"] and not _is_zlib(body):
        return _RAW
    return bits


def _is_zlib(body: bytes) -> bool:
    """Tell whether a body begins with zlib's header (RFC 1950, section 2.2)."""
    return len(body) > 1 and body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0
