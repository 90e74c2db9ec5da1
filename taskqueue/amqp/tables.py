"""The header table of an AMQP message: names and typed values, decoded and encoded.

The layout is that of AMQP 0-9-1, section 4.2.5.5, with RabbitMQ's field types
(https://www.rabbitmq.com/amqp-0-9-1-errata, "Field types").
"""

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache, partial
from types import NoneType
from typing import Any, Final

#: Maximum nesting of tables and lists in headers; deeper ones are malformed.
MAX_DEPTH: Final = 64

_FIXED_SIZES: Final = {
    **dict.fromkeys(b"tbB", 1),
    **dict.fromkeys(b"sUu", 2),
    **dict.fromkeys(b"Iif", 4),
    **dict.fromkeys(b"LldT", 8),
    ord("D"): 5,
    ord("V"): 0,
}
_SIZED: Final = frozenset(b"SxAF")
_NUMBERS: Final[Mapping[int, struct.Struct]] = {
    ord(kind): struct.Struct(">" + code)
    for kind, code in {"b": "b", "B": "B", "s": "h", "U": "h", "u": "H", "I": "i", "i": "I", "f": "f",
                       "L": "q", "l": "q", "d": "d", "T": "Q"}.items()
}  # fmt: skip


class MalformedProperties(ValueError):
    """The bytes are not a valid property list."""


_LONG: Final = struct.Struct(">I")
_LONGLONG: Final = struct.Struct(">Q")
_SIGNED: Final = struct.Struct(">q")
_DECIMAL: Final = struct.Struct(">Bi")  # signed, as pika and py-amqp write it
_TYPED_DOUBLE: Final = struct.Struct(">cd")
_TEXT_HEAD: Final = struct.Struct(">cI")


def read_short_string(raw: bytes, at: int) -> tuple[str, int]:
    """Return the short string at `at`, and its end; IndexError if it ends early."""
    end = at + 1 + raw[at]
    if end > len(raw):
        raise IndexError(end)
    # Names in foreign encodings must leave unchanged: surrogateescape is exact both ways.
    return raw[at + 1 : end].decode("utf-8", "surrogateescape"), end


def as_bytes(text: str) -> bytes:
    """Return a decoded text's original bytes; those that are not UTF-8 were decoded as surrogates."""
    return text.encode("utf-8", "surrogateescape")


def write_short_string(value: str) -> bytes:
    """Encode a short string; ValueError for more than 255 bytes."""
    data = as_bytes(value)
    if len(data) > 255:
        raise ValueError(f"{len(data)} bytes are too long for an AMQP short string (255 bytes)")
    return _OCTETS[len(data)] + data


_OCTETS: Final = tuple(bytes((number,)) for number in range(256))

#: Cached: our header names are few, and so are the values of some fields.
write_known: Final = lru_cache(maxsize=1024)(write_short_string)


def short_string_pieces(size: int) -> tuple[bytes, str]:
    """Return the pieces of a short string of `size` bytes, for properties.Form."""
    return _OCTETS[size], f"{size}s"


def table_pieces(fixed: bytes, texts: Mapping[str, int], doubles: Iterable[str]) -> list[bytes | str]:
    """Return the pieces of a header table, for properties.Form.

    Args:
        fixed: encoded entries that do not vary.
        texts: bytes of each text that varies, by header name.
        doubles: names of the headers whose floating-point numbers vary.
    """
    pieces: list[bytes | str] = [fixed]
    for name, size in texts.items():
        pieces += write_known(name) + _TEXT_HEAD.pack(b"S", size), f"{size}s"
    for name in doubles:
        pieces += write_known(name) + b"d", "d"
    size = sum(len(piece) if isinstance(piece, bytes) else struct.calcsize(">" + piece) for piece in pieces)
    return [_LONG.pack(size), *pieces]


def header_table(headers: Mapping[str, Any]) -> bytes:
    """Encode headers as `Properties.header_table`, without those that are None."""
    parts: list[bytes] = []
    for name, value in headers.items():
        if value is not None:
            write = _VALUE_WRITERS.get(type(value)) or _writer(value)
            parts += write_known(name), write(value)
    return b"".join(parts)


def entries(table: bytes) -> Iterator[tuple[str, int, int, int]]:
    """Yield a table's entries: name, start of the entry, start of the value, end."""
    at = 0
    try:
        while at < len(table):
            start = at
            name, at = read_short_string(table, at)
            end = _value_end(table, at)
            yield name, start, at, end
            at = end
    except (struct.error, IndexError):
        raise MalformedProperties("a header table ends early") from None


def _value_end(table: bytes, at: int) -> int:
    kind = table[at]
    size = _FIXED_SIZES.get(kind)
    if size is not None:
        end = at + 1 + size
    elif kind in _SIZED:
        end = at + 5 + _LONG.unpack_from(table, at + 1)[0]
    else:
        raise MalformedProperties(f"a header of the unknown type {chr(kind)!r}")
    if end > len(table):
        raise IndexError(end)
    return end


def read_table(table: bytes, depth: int = 0) -> dict[str, Any]:
    """Decode a table. `depth` is the number of tables and lists around it."""
    if depth > MAX_DEPTH:
        raise MalformedProperties(f"headers nest deeper than {MAX_DEPTH} levels")
    return {name: read_value(table[start:end], depth) for name, _, start, end in entries(table)}


def read_value(value: bytes, depth: int = 0) -> Any:
    """Decode a value, which begins with its type. `depth` is the number of tables and lists around it."""
    kind, content = value[0], value[1:]
    if kind in _SIZED:
        return _read_sized(kind, content[4:], depth)
    if kind == ord("t"):
        return content != b"\0"
    if kind == ord("V"):
        return None
    if kind == ord("D"):
        return _DECIMAL.unpack(content)[1] / 10 ** content[0]
    (number,) = _NUMBERS[kind].unpack(content)
    return _read_instant(number) if kind == ord("T") else number


def _read_instant(seconds: int) -> datetime | int:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):  # after the year 9999
        return seconds


def _read_sized(kind: int, content: bytes, depth: int) -> Any:
    if kind == ord("S"):
        return content.decode("utf-8", "surrogateescape")
    if kind == ord("x"):
        return content
    if kind == ord("F"):
        return read_table(content, depth + 1)
    return _read_list(content, depth + 1)


def _read_list(content: bytes, depth: int) -> list[Any]:
    if depth > MAX_DEPTH:
        raise MalformedProperties(f"headers nest deeper than {MAX_DEPTH} levels")
    at, values = 0, []
    try:
        while at < len(content):
            end = _value_end(content, at)
            values.append(read_value(content[at:end], depth))
            at = end
    except (struct.error, IndexError):
        raise MalformedProperties("a list in a header ends early") from None
    return values


def _writer(value: Any) -> Callable[[Any], bytes]:
    """Return the encoder of a header value: the widest type of its kind, which every client reads."""
    write = _VALUE_WRITERS.get(type(value))
    if write is None:
        kinds = (kind for kind in _VALUE_WRITERS if isinstance(value, kind))
        write = _VALUE_WRITERS[next(kinds, object)]
    return write


def _write_value(value: Any) -> bytes:
    return _writer(value)(value)


def _write_integer(value: int) -> bytes:
    if -(2**63) <= value < 2**63:
        return b"l" + _SIGNED.pack(value)
    return _write_value(str(value))  # a timestamp may exceed the widest integer of a header


def _write_sized(kind: bytes, content: bytes) -> bytes:
    return kind + _LONG.pack(len(content)) + content


def _write_text(value: str) -> bytes:
    content = as_bytes(value)
    return _TEXT_HEAD.pack(b"S", len(content)) + content


def _write_map(value: Mapping[str, Any]) -> bytes:
    entries = (write_known(name) + _write_value(each) for name, each in value.items())
    return _write_sized(b"F", b"".join(entries))


def _write_list(value: Iterable[Any]) -> bytes:
    return _write_sized(b"A", b"".join(map(_write_value, value)))


def _write_no_value(value: object) -> bytes:
    raise TypeError(f"a header cannot hold a {type(value).__name__}")


#: By type; a subtype (bool) precedes its base (int).
_VALUE_WRITERS: Final[Mapping[type, Callable[[Any], bytes]]] = {
    NoneType: lambda _: b"V",
    bool: lambda value: b"t" + bytes((value,)),
    int: _write_integer,
    float: partial(_TYPED_DOUBLE.pack, b"d"),
    str: _write_text,
    bytes: lambda value: _write_sized(b"x", value),
    datetime: lambda value: b"T" + _LONGLONG.pack(int(value.timestamp())),
    Mapping: _write_map,
    list: _write_list,
    tuple: _write_list,
    object: _write_no_value,
}
