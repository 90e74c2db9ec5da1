"""JSON-RPC 2.0 (https://www.jsonrpc.org/specification): requests, responses, notifications, batches.

Everything here is a pure function of values; a body is what its JSON gave.
"""

import contextlib
import gc
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
SERVER_ERROR: Final = -32000  # ours, from the range that is left to servers: the function raised
CANCELLED: Final = -32001  # ours: its caller wanted no result any more


_LARGE: Final = 256 * 1024  # bytes
MOST_REQUESTS: Final = 1000  # in a batch
MOST_VALUES: Final = 500_000  # in a body that a dispatcher decodes


@dataclass(frozen=True, slots=True)
class Batch:
    """The responses to a batch; there is none to a notification in it."""

    responses: Sequence[Mapping[str, Any]]


def request(method: str, params: Sequence[Any] | Mapping[str, Any], id_: str | None) -> bytes:
    """Return a request; without an id it is a notification. TypeError for what JSON cannot express."""
    body = {"jsonrpc": "2.0", "method": method, "params": params}
    return encode(body if id_ is None else body | {"id": id_})


# json.dumps makes such an encoder each time that it is asked for anything unusual.
_encode: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def encode(value: Any) -> bytes:
    """Return JSON; TypeError, ValueError or RecursionError for what it cannot express."""
    return _encode(value).encode()


#: Reads the value that begins at a place of a text; returns it and where it ends. Raises ValueError, or
#: StopIteration where none begins. json.loads calls it after a look for other encodings, and for space.
scan: Final[Callable[[str, int], tuple[Any, int]]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]


@contextlib.contextmanager
def collecting_nothing(size: int) -> Iterator[None]:
    """Decode a large body without Python's cyclic garbage collector.

    It looks at all containers again and again while there are more of them; 16 MiB of empty lists took 19 s.

    size -- bytes of the body
    """
    if size < _LARGE or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def decode(body: bytes) -> Any:
    """Return what JSON says, as json.loads does; ValueError or RecursionError where it is none."""
    try:
        text = body.decode()
        value, end = scan(text, 0)
    except (ValueError, StopIteration):
        return json.loads(body)
    return value if end == len(text) else json.loads(body)


def text_of(body: bytes) -> str:
    """Return JSON as text, read as `decode` reads it; UnicodeDecodeError where it is none.

    JSON is UTF-8 (RFC 8259, section 8.1). A byte order mark is ignored, which the RFC permits, and UTF-16 and
    UTF-32, which its predecessors permitted, are known by their first bytes.
    """
    return body.decode(json.detect_encoding(body), "surrogatepass")


class TooMany(ValueError):
    """A body has more values than a dispatcher decodes, or a batch more requests than one may have."""


# What stands before a value: strings, the last of which may not be closed, and what is between them.
# It matches to the end: where it did not, the search would go on within a string.
_STRING: Final = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?'
_VALUE: Final = re.compile(rf'[^"\[{{,]*+(?:{_STRING}[^"\[{{,]*+)*+(?:([\[{{,])|\Z)', re.DOTALL)


def bounded_text_of(body: bytes) -> str:
    """Return JSON as text, as `text_of` does; raise TooMany where it has more than MOST_VALUES values.

    Decoded, 3 bytes of JSON take 64 bytes, or 200, whereas the text of 16 MiB takes no more than itself. The
    comma, brace or bracket before each value is counted, not the value.
    """
    text = text_of(body)
    if len(text) <= MOST_VALUES or sum(map(text.count, ",[{")) <= MOST_VALUES:
        return text
    beyond = next(islice(_VALUE.finditer(text), MOST_VALUES, None), None)
    if beyond and beyond[1]:
        raise TooMany(f"more than {MOST_VALUES:,} values of JSON; name the worker type by the property type")
    return text


def decode_bounded(body: bytes) -> Any:
    """Return what JSON says, as `decode` does; TooMany for more than MOST_VALUES values."""
    if len(body) > MOST_VALUES:
        bounded_text_of(body)
    return decode(body)


def decode_batch(body: bytes) -> list[Any]:
    """Return the elements of a JSON array; after MOST_REQUESTS of them nothing more is decoded.

    Raises TooMany, and ValueError or RecursionError where it is no array.
    """
    text = bounded_text_of(body)
    elements: list[Any] = []
    at = skip_space(text, expect(text, skip_space(text, 0), "["))
    while text[at : at + 1] != "]":
        if elements:
            at = skip_space(text, expect(text, at, ","))
        if len(elements) == MOST_REQUESTS:
            raise TooMany(f"a batch has more than {MOST_REQUESTS} requests")
        element, at = _scan(text, at)
        elements.append(element)
        at = skip_space(text, at)
    if skip_space(text, at + 1) != len(text):
        raise ValueError(f"text goes on after the array, at character {at + 1}")
    return elements


def _scan(text: str, at: int) -> tuple[Any, int]:
    try:
        return scan(text, at)
    except StopIteration:
        raise ValueError(f"no value at {at}") from None


_SPACE: Final = re.compile(r"[ \t\n\r]*")


def skip_space(text: str, at: int) -> int:
    """Return where JSON's white space ends that begins at a place of a text."""
    match = _SPACE.match(text, at)
    return match.end() if match else at


def expect(text: str, at: int, character: str) -> int:
    """Return the place behind a character; ValueError where another stands there."""
    if text[at : at + 1] != character:
        raise ValueError(f"expected {character!r} at character {at}, found {text[at : at + 1]!r}")
    return at + 1


def is_request(body: Any) -> bool:
    """Tell whether a body is a request or a notification."""
    return isinstance(body, dict) and body.get("jsonrpc") == "2.0" and "method" in body


def is_batch(body: Any) -> bool:
    """Tell whether a body is a batch: a list with a request in it; what else is in it is in error."""
    return isinstance(body, list) and any(map(is_request, body))


def is_valid(body: Any) -> bool:
    """Tell whether a body is a request as the specification has it (section 4), whoever serves the method."""
    return is_request(body) and isinstance(body["method"], str) and arguments(body) is not None


def is_notification(body: Mapping[str, Any]) -> bool:
    """Tell whether a request wants no response."""
    return "id" not in body


def arguments(body: Mapping[str, Any]) -> tuple[Sequence[Any], Mapping[str, Any]] | None:
    """Return a request's arguments, by position and by name; None where params are neither."""
    return split(body.get("params", []))


def split(params: Any) -> tuple[Sequence[Any], Mapping[str, Any]] | None:
    """Return params by position and by name; None where they are neither."""
    if isinstance(params, list):
        return params, {}
    return ((), params) if isinstance(params, dict) else None


def id_of(body: Mapping[str, Any]) -> Any:
    """Return a request's id; None for one that is neither string nor number, and could not be sent back."""
    value = body.get("id")
    is_number = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return value if is_number or isinstance(value, str) else None


def result(body: Mapping[str, Any], value: Any) -> dict[str, Any]:
    """Return the response to a request that came to a value."""
    return {"jsonrpc": "2.0", "result": value, "id": id_of(body)}


def error(id_: Any, code: int, message: str, data: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the response to a request that failed."""
    described = {"code": code, "message": message}
    return {"jsonrpc": "2.0", "error": described if data is None else described | {"data": data}, "id": id_}


def errors(body: Any, code: int, message: str, data: Mapping[str, Any]) -> bytes:
    """Return the response to a request or a batch that failed as a whole; b"" where none is wanted.

    A batch of too many requests has one response, as one that cannot be read (section 7).
    """
    if is_request(body):
        return b"" if is_notification(body) else encode(error(id_of(body), code, message, data))
    if len(body) > MOST_REQUESTS:
        return encode(error(None, code, message, data))
    data = {name: value for name, value in data.items() if name != "traceback"}  # once for each would be much
    answers = [
        error(id_of(each), code, message, data) if is_request(each) else invalid(each)
        for each in body
        if not (is_request(each) and is_notification(each))
    ]
    return encode(answers) if answers else b""


def invalid(body: Any) -> dict[str, Any]:
    """Return the response to what is no request; its id is null where it has none (sections 5 and 7)."""
    id_ = id_of(body) if isinstance(body, dict) else None
    return error(id_, INVALID_REQUEST, "no JSON-RPC 2.0 request")


def refusal(body: Any, code: int, message: str, data: Mapping[str, Any]) -> bytes:
    """Return the response to a request or a batch, well formed or not, that nobody performs.

    b"" where none is wanted: a notification has none, unless it is malformed.
    """
    if isinstance(body, list):
        return encode(invalid(body)) if not body else errors(body, code, message, data)
    return errors(body, code, message, data) if is_valid(body) else encode(invalid(body))


def response(body: Any, value: Any) -> bytes:
    """Return the response to a request, or the responses to a batch; b"" where none is wanted."""
    if isinstance(value, Batch):
        return encode(value.responses) if value.responses else b""
    return b"" if is_notification(body) else encode(result(body, value))
