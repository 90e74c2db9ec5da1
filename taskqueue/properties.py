"""The properties of an AMQP message, kept as the bytes they came in.

The layout is that of the content header in AMQP 0-9-1, sections 4.2.6.1 and 4.2.5.5, with the field
types as RabbitMQ reads them (https://www.rabbitmq.com/amqp-0-9-1-errata, "Field types"). A header
table that nobody looks into passes through byte for byte: other codecs lose floats, the sign of
integers and the difference between their widths.
"""

import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from types import NoneType
from typing import Any, Final, NamedTuple, Self

#: How deep tables and lists in headers may nest before we call them malformed.
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
    """The bytes are not a content header's property list."""


class Properties(NamedTuple):
    """What a message carries beside its body; the fields are AMQP's, None where absent."""

    content_type: str | None = None
    content_encoding: str | None = None
    header_table: bytes | None = None  # the table's entries, without the length before them
    delivery_mode: int | None = None  # 2 is persistent
    priority: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: str | None = None  # milliseconds, as decimal digits
    message_id: str | None = None
    timestamp: int | None = None  # seconds since 1970
    type: str | None = None
    user_id: str | None = None
    app_id: str | None = None
    cluster_id: str | None = None

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read a property list: its flags, then the fields that the flags announce.

        Raises MalformedProperties where the bytes end early or announce what AMQP does not know.
        """
        try:
            (flags,) = _SHORT.unpack_from(raw)
            if flags & 3:
                raise MalformedProperties("flags for properties that AMQP 0-9-1 does not have")
            at, values = 2, [None] * len(_LAYOUT)
            for place, read in _announced(flags):
                values[place], at = read(raw, at)
        except (struct.error, IndexError):
            raise MalformedProperties("the property list ends early") from None
        return cls._make(values)

    def encode(self) -> bytes:
        """Return the property list as AMQP writes it."""
        flags, parts = 0, [b""]
        for place, value in enumerate(self):
            if value is not None:
                bit, write = _WRITERS[place]
                flags |= bit
                parts.append(write(value))
        parts[0] = _SHORT.pack(flags)
        return b"".join(parts)

    @property
    def headers(self) -> dict[str, Any]:
        """The header table as a dict, decoded anew at each access."""
        return _read_table(self.header_table or b"", 0)

    def header(self, name: str) -> Any:
        """Return one header, or None; the others are not decoded."""
        table = self.header_table
        if table is None or name.encode() not in table:
            return None
        for key, _, start, end in _entries(table):
            if key == name:
                return _read_value(table[start:end], 0)
        return None

    def with_headers(
        self, headers: Mapping[str, Any], drop: Collection[str] | Callable[[str], bool] = ()
    ) -> Self:
        """Return a copy with these headers set, and others dropped by name or by a test of the name.

        Whatever stays keeps its bytes. A header given as None is dropped.
        """
        dropped = drop if callable(drop) else frozenset(drop).__contains__
        table = self.header_table or b""
        kept = [
            table[start:end]
            for name, start, _, end in _entries(table)
            if name not in headers and not dropped(name)
        ]
        return self.replace(header_table=b"".join(kept) + header_table(headers) or None)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed; None removes a field."""
        return self._replace(**changes)

    @property
    def fields(self) -> dict[str, Any]:
        """The fields that are present, without the headers, which are not decoded."""
        fields = {name: getattr(self, name) for _, name, _ in _LAYOUT if name != "header_table"}
        return {name: value for name, value in fields.items() if value is not None}

    def as_dict(self) -> dict[str, Any]:
        """Return the fields that are present, headers decoded, as one dict."""
        return self.fields | ({"headers": self.headers} if self.header_table else {})


_SHORT: Final = struct.Struct(">H")
_LONG: Final = struct.Struct(">I")
_LONGLONG: Final = struct.Struct(">Q")
_SIGNED: Final = struct.Struct(">q")
_DOUBLE: Final = struct.Struct(">d")


def _read_short_string(raw: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + raw[at]
    if end > len(raw):
        raise IndexError(end)
    # Names of foreign encodings must leave as they came: surrogateescape is exact both ways.
    return raw[at + 1 : end].decode("utf-8", "surrogateescape"), end


def _write_short_string(value: str) -> bytes:
    data = value.encode("utf-8", "surrogateescape")
    if len(data) > 255:
        raise ValueError(f"{len(data)} bytes are too long for an AMQP short string (255 bytes)")
    return _OCTETS[len(data)] + data


_OCTETS: Final = tuple(bytes((number,)) for number in range(256))

#: The names of our headers are few, and so are some fields' values.
_write_known: Final = lru_cache(maxsize=1024)(_write_short_string)


def _read_octet(raw: bytes, at: int) -> tuple[int, int]:
    return raw[at], at + 1


def _write_octet(value: int) -> bytes:
    return bytes((value,))


def _read_timestamp(raw: bytes, at: int) -> tuple[int, int]:
    return _LONGLONG.unpack_from(raw, at)[0], at + 8


def _read_table_bytes(raw: bytes, at: int) -> tuple[bytes, int]:
    end = at + 4 + _LONG.unpack_from(raw, at)[0]
    if end > len(raw):
        raise IndexError(end)
    return raw[at + 4 : end], end


def _write_table_bytes(table: bytes) -> bytes:
    return _LONG.pack(len(table)) + table


_LAYOUT: Final[tuple[tuple[int, str, Callable[[bytes, int], tuple[Any, int]]], ...]] = (
    (1 << 15, "content_type", _read_short_string),
    (1 << 14, "content_encoding", _read_short_string),
    (1 << 13, "header_table", _read_table_bytes),
    (1 << 12, "delivery_mode", _read_octet),
    (1 << 11, "priority", _read_octet),
    (1 << 10, "correlation_id", _read_short_string),
    (1 << 9, "reply_to", _read_short_string),
    (1 << 8, "expiration", _read_short_string),
    (1 << 7, "message_id", _read_short_string),
    (1 << 6, "timestamp", _read_timestamp),
    (1 << 5, "type", _read_short_string),
    (1 << 4, "user_id", _read_short_string),
    (1 << 3, "app_id", _read_short_string),
    (1 << 2, "cluster_id", _read_short_string),
)
_WRITER_OF: Final[Mapping[Any, Callable[[Any], bytes]]] = {
    _read_short_string: _write_short_string,
    _read_table_bytes: _write_table_bytes,
    _read_octet: _write_octet,
    _read_timestamp: _LONGLONG.pack,
}
_FEW: Final = frozenset(("content_type", "content_encoding", "expiration", "type", "user_id", "app_id"))
_WRITERS: Final = tuple(
    (bit, _write_known if name in _FEW else _WRITER_OF[read]) for bit, name, read in _LAYOUT
)


@lru_cache(maxsize=256)
def _announced(flags: int) -> tuple[tuple[int, Callable[[bytes, int], tuple[Any, int]]], ...]:
    """Return the place of each field that flags announce, and what reads it."""
    return tuple((place, read) for place, (bit, _, read) in enumerate(_LAYOUT) if flags & bit)


def header_table(headers: Mapping[str, Any]) -> bytes:
    """Return headers as `Properties.header_table` holds them; those that are None are left out."""
    return b"".join([_write_entry(name, value) for name, value in headers.items() if value is not None])


def _entries(table: bytes) -> Iterator[tuple[str, int, int, int]]:
    """Walk a table's entries: name, where the entry starts, where its value starts, where it ends."""
    at = 0
    try:
        while at < len(table):
            start = at
            name, at = _read_short_string(table, at)
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


def _read_table(table: bytes, depth: int) -> dict[str, Any]:
    if depth > MAX_DEPTH:
        raise MalformedProperties(f"headers nest deeper than {MAX_DEPTH} levels")
    return {name: _read_value(table[start:end], depth) for name, _, start, end in _entries(table)}


def _read_value(value: bytes, depth: int) -> Any:
    kind, content = value[0], value[1:]
    if kind in _SIZED:
        return _read_sized(kind, content[4:], depth)
    if kind == ord("t"):
        return content != b"\0"
    if kind == ord("V"):
        return None
    if kind == ord("D"):
        return _LONG.unpack_from(content, 1)[0] / 10 ** content[0]
    (number,) = _NUMBERS[kind].unpack(content)
    return _read_instant(number) if kind == ord("T") else number


def _read_instant(seconds: int) -> datetime | int:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):  # beyond the year 9999
        return seconds


def _read_sized(kind: int, content: bytes, depth: int) -> Any:
    if kind == ord("S"):
        return content.decode("utf-8", "surrogateescape")
    if kind == ord("x"):
        return content
    if kind == ord("F"):
        return _read_table(content, depth + 1)
    return _read_list(content, depth + 1)


def _read_list(content: bytes, depth: int) -> list[Any]:
    if depth > MAX_DEPTH:
        raise MalformedProperties(f"headers nest deeper than {MAX_DEPTH} levels")
    at, values = 0, []
    try:
        while at < len(content):
            end = _value_end(content, at)
            values.append(_read_value(content[at:end], depth))
            at = end
    except (struct.error, IndexError):
        raise MalformedProperties("a list in a header ends early") from None
    return values


def _write_entry(name: str, value: Any) -> bytes:
    return _write_known(name) + _write_value(value)


def _write_value(value: Any) -> bytes:
    """Write one of our own header values; the widest type of each kind, which every client reads."""
    write = _VALUE_WRITERS.get(type(value))
    if write is None:
        kinds = (kind for kind in _VALUE_WRITERS if isinstance(value, kind))
        write = _VALUE_WRITERS[next(kinds, object)]
    return write(value)


def _write_integer(value: int) -> bytes:
    if -(2**63) <= value < 2**63:
        return b"l" + _SIGNED.pack(value)
    return _write_value(str(value))  # a timestamp may be wider than every integer that a header can hold


def _write_sized(kind: bytes, content: bytes) -> bytes:
    return kind + _LONG.pack(len(content)) + content


def _write_text(value: str) -> bytes:
    return _write_sized(b"S", value.encode("utf-8", "surrogateescape"))


def _write_map(value: Mapping[str, Any]) -> bytes:
    return _write_sized(b"F", b"".join(_write_entry(name, each) for name, each in value.items()))


def _write_list(value: Iterable[Any]) -> bytes:
    return _write_sized(b"A", b"".join(map(_write_value, value)))


def _write_no_value(value: object) -> bytes:
    raise TypeError(f"a header cannot hold a {type(value).__name__}")


#: By type; one that is another's, too, stands before it.
_VALUE_WRITERS: Final[Mapping[type, Callable[[Any], bytes]]] = {
    NoneType: lambda _: b"V",
    bool: lambda value: b"t" + bytes((value,)),
    int: _write_integer,
    float: lambda value: b"d" + _DOUBLE.pack(value),
    str: _write_text,
    bytes: lambda value: _write_sized(b"x", value),
    datetime: lambda value: b"T" + _LONGLONG.pack(int(value.timestamp())),
    Mapping: _write_map,
    list: _write_list,
    tuple: _write_list,
    object: _write_no_value,
}
