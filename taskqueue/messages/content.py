"""The content of a body: media types, charsets, and content encodings, decoded within bounds."""

import re
import zlib
from functools import lru_cache
from typing import Final

JSON: Final = "application/json"
TEXT: Final = "text/plain"
BINARY: Final = "application/octet-stream"

#: The charsets that a text may have. Each is decoded in linear time, which Python does not ensure for all of
#: its charsets: 400 kB of punycode take a minute.
CHARSETS: Final = frozenset(
    (
        *("utf-8", "utf8", "us-ascii", "ascii", "latin-1", "latin1", "koi8-r", "koi8-u"),
        *("utf-16", "utf-16le", "utf-16be", "utf-16-le", "utf-16-be", "utf-32", "utf-32le", "utf-32be"),
        *(f"iso-8859-{part}" for part in range(1, 17) if part != 12),
        *(f"windows-125{page}" for page in range(9)),
        *("shift-jis", "euc-jp", "euc-kr", "gb2312", "gbk", "gb18030", "big5"),
    )
)

#: zlib's window bits for each name (RFC 9110, section 8.4.1): 31 is gzip, 15 is zlib's own format.
_COMPRESSED: Final = {"gzip": 31, "x-gzip": 31, "deflate": 15}
_RAW: Final = -15  # deflate without zlib's header, as some senders of "deflate" use it

#: Names without effect. Some clients, such as kombu, put a charset or MIME's transfer encoding here.
_PLAIN: Final = frozenset(("", "identity", "utf-8", "utf8", "us-ascii", "ascii", "7bit", "8bit", "binary"))

_LEVEL: Final = 1  # fastest: a body cut out by the dispatcher is compressed again, and read once


class UnreadableEncoding(ValueError):
    """A body does not match its content encoding, or the encoding is unknown."""


@lru_cache(maxsize=256)
def media_type(content_type: str | None) -> str:
    """Return a content type without its parameters, in lower case; "" for none."""
    return (content_type or "").partition(";")[0].strip().lower()


def charset_of(content_type: str | None) -> str:
    """Return a content type's charset; LookupError if it is not one of CHARSETS."""
    match = re.search(r"charset=\"?([\w.:-]+)", content_type or "", re.IGNORECASE)
    name = match[1].lower().replace("_", "-") if match else "utf-8"
    if name not in CHARSETS:
        raise LookupError(f"charset {name[:40]!r} is not one of {', '.join(sorted(CHARSETS))}")
    return name


def is_plain(encoding: str | None) -> bool:
    """Tell whether an encoding leaves the body as it is."""
    return not encoding or encoding in _PLAIN


def is_compressed(encoding: str) -> bool:
    """Tell whether an encoding compresses the body; UnreadableEncoding for an unknown name."""
    if is_plain(encoding):
        return False
    name = _normal(encoding)
    if name not in _COMPRESSED and name not in _PLAIN:
        raise UnreadableEncoding(f"content encoding {encoding[:60]!r} is not one of gzip, deflate")
    return name in _COMPRESSED


def decompress(body: bytes, encoding: str, most: int) -> bytes:
    """Decompress a body.

    Args:
        body: one gzip member (RFC 1952), or a zlib or deflate stream (RFC 1950, RFC 1951).
        encoding: a name that `is_compressed` knows.
        most: maximum bytes of the decompressed body; no more are decompressed.

    Raises UnreadableEncoding if it has more, or does not match the encoding.
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
    """Compress a body. `encoding` is a name that `is_compressed` knows."""
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
