"""The properties of an AMQP message; the header table stays encoded.

The layout is that of the content header (AMQP 0-9-1, section 4.2.6.1). A header table passes through byte for
byte unless a header is read or changed: other codecs lose floats, the sign of integers and their widths.
"""

import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple, Self

from taskqueue.amqp.tables import (
    MalformedProperties,
    entries,
    header_table,
    read_short_string,
    read_table,
    read_value,
    write_known,
    write_short_string,
)


class Properties(NamedTuple):
    """The properties of a message. The fields are AMQP's; None: absent."""

    content_type: str | None = None
    content_encoding: str | None = None
    header_table: bytes | None = None  # the table's entries, without the length
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
        """Decode a property list: the flags, then the fields that they announce.

        Raises MalformedProperties if the bytes end early or announce unknown fields.
        """
        try:
            (flags,) = _SHORT.unpack_from(raw)
            if flags & 3:
                raise MalformedProperties("flags for properties that AMQP 0-9-1 does not have")
            at = 2
            values: list[Any] = [None] * len(_LAYOUT)
            for place, read in _announced(flags):
                if read is read_short_string:  # inlined: a call would double the time
                    start = at + 1
                    at = start + raw[at]
                    values[place] = raw[start:at].decode("utf-8", "surrogateescape")
                elif read is _read_octet:
                    values[place] = raw[at]
                    at += 1
                else:
                    values[place], at = read(raw, at)
            if at > len(raw):
                raise IndexError(at)
        except (struct.error, IndexError):
            raise MalformedProperties("the property list ends early") from None
        return tuple.__new__(cls, values)  # _make without its check of the length

    def encode(self) -> bytes:
        """Return the encoded property list."""
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
        """The decoded header table. Each access decodes it again."""
        return read_table(self.header_table or b"", 0)

    def header(self, name: str) -> Any:
        """Return one header, or None. The other headers are not decoded."""
        table = self.header_table
        if table is None or name.encode() not in table:
            return None
        for key, _, start, end in entries(table):
            if key == name:
                return read_value(table[start:end], 0)
        return None

    def some_headers(self, wanted: Collection[str]) -> dict[str, Any]:
        """Return those of the wanted headers that are present. The other headers are not decoded."""
        table = self.header_table or b""
        found: dict[str, Any] = {}
        for name, _, start, end in entries(table):
            if name in wanted and name not in found:
                found[name] = read_value(table[start:end], 0)
        return found

    def with_headers(
        self, headers: Mapping[str, Any], drop: Collection[str] | Callable[[str], bool] = ()
    ) -> Self:
        """Return a copy with these headers set and others dropped.

        The other headers keep their bytes. A header with the value None is dropped.

        drop -- the names of headers to drop, or a test of a name
        """
        dropped = drop if callable(drop) else frozenset(drop).__contains__
        table = self.header_table or b""
        kept = [
            table[start:end]
            for name, start, _, end in entries(table)
            if name not in headers and not dropped(name)
        ]
        return self.replace(header_table=b"".join(kept) + header_table(headers) or None)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed; None removes a field."""
        return self._replace(**changes)

    @property
    def fields(self) -> dict[str, Any]:
        """The fields that are present, without the header table."""
        fields = {name: getattr(self, name) for _, name, _ in _LAYOUT if name != "header_table"}
        return {name: value for name, value in fields.items() if value is not None}

    def as_dict(self) -> dict[str, Any]:
        """Return the fields that are present and the decoded headers as one dict."""
        return self.fields | ({"headers": self.headers} if self.header_table else {})


def content_type_of(raw: bytes) -> str | None:
    """Decode only the content type, the first field, of a valid property list."""
    if raw[0] & _FIRST_FIELD:
        return read_short_string(raw, 2)[0]
    return None


def has_content_encoding(raw: bytes) -> bool:
    """Tell whether a valid property list has a content encoding."""
    return bool(raw[0] & _SECOND_FIELD)


#: The encoded field as a sequence of fixed bytes, and of struct codes for the values that vary.
Pieces = Sequence[bytes | str]


class Form:
    """A template of encoded properties in which only a few values of known sizes vary."""

    def __init__(self, fixed: Properties, varying: Mapping[str, Pieces]) -> None:
        """Encode the fixed fields.

        fixed -- the fixed fields
        varying -- the pieces of the varying fields, by name
        """
        flags, written, codes = 0, [b""], []
        for (bit, write), (name, value) in zip(_WRITERS, fixed._asdict().items(), strict=True):
            if name not in varying and value is None:
                continue
            flags |= bit
            for piece in varying.get(name) or (write(value),):
                if isinstance(piece, str):
                    codes.append(piece)
                    written.append(b"")
                else:
                    written[-1] += piece
        written[0] = _SHORT.pack(flags) + written[0]
        pieces: list[Any] = [None] * (len(written) + len(codes))
        pieces[::2], pieces[1::2] = written, codes
        sizes = (piece if isinstance(piece, str) else f"{len(piece)}s" for piece in pieces)
        self._struct = struct.Struct(">" + "".join(sizes))
        self._pieces = pieces

    def encode(self, *values: Any) -> bytes:
        """Return a property list with these values, in order; text as bytes."""
        pieces = self._pieces.copy()
        pieces[1::2] = values
        return self._struct.pack(*pieces)


_FIRST_FIELD: Final = 0x80  # in the first byte of the flags
_SECOND_FIELD: Final = 0x40
_SHORT: Final = struct.Struct(">H")
_LONG: Final = struct.Struct(">I")
_LONGLONG: Final = struct.Struct(">Q")


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
    (1 << 15, "content_type", read_short_string),
    (1 << 14, "content_encoding", read_short_string),
    (1 << 13, "header_table", _read_table_bytes),
    (1 << 12, "delivery_mode", _read_octet),
    (1 << 11, "priority", _read_octet),
    (1 << 10, "correlation_id", read_short_string),
    (1 << 9, "reply_to", read_short_string),
    (1 << 8, "expiration", read_short_string),
    (1 << 7, "message_id", read_short_string),
    (1 << 6, "timestamp", _read_timestamp),
    (1 << 5, "type", read_short_string),
    (1 << 4, "user_id", read_short_string),
    (1 << 3, "app_id", read_short_string),
    (1 << 2, "cluster_id", read_short_string),
)
_WRITER_OF: Final[Mapping[Any, Callable[[Any], bytes]]] = {
    read_short_string: write_short_string,
    _read_table_bytes: _write_table_bytes,
    _read_octet: _write_octet,
    _read_timestamp: _LONGLONG.pack,
}
_FEW: Final = frozenset(("content_type", "content_encoding", "expiration", "type", "user_id", "app_id"))
_WRITERS: Final = tuple(
    (bit, write_known if name in _FEW else _WRITER_OF[read]) for bit, name, read in _LAYOUT
)


@lru_cache(maxsize=256)
def _announced(flags: int) -> tuple[tuple[int, Callable[[bytes, int], tuple[Any, int]]], ...]:
    """Return the position and the reader of each field that the flags announce."""
    return tuple((place, read) for place, (bit, _, read) in enumerate(_LAYOUT) if flags & bit)


_USER: Final = 1 << 4
_FROM_USER_ON: Final = (1 << 5) - 1  # the flags of user_id and of what stands behind it


def with_user(raw: bytes, user: str) -> bytes:
    """Return an encoded property list with the property user_id; most lists end before its place."""
    (flags,) = _SHORT.unpack_from(raw)
    if flags & _FROM_USER_ON:
        return Properties.decode(raw).replace(user_id=user).encode()
    return _SHORT.pack(flags | _USER) + raw[2:] + write_known(user)
