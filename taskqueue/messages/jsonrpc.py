"""JSON-RPC 2.0 (https://www.jsonrpc.org/specification): requests, responses, notifications, batches.

All functions are pure. A body is decoded JSON unless it is bytes.
"""

import contextlib
import gc
import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
SERVER_ERROR: Final = -32000  # from the range reserved for servers (section 5.1): the function raised
CANCELLED: Final = -32001  # also from that range: the caller cancelled
DUPLICATE: Final = -32002  # also from that range: the result is another call's, and is not known here


_LARGE: Final = 256 * 1024  # bytes
MOST_REQUESTS: Final = 1000  # in a batch
MOST_VALUES: Final = 500_000  # in a body that a dispatcher decodes


@dataclass(frozen=True, slots=True)
class Batch:
    """The responses to a batch; a notification in it has none."""

    responses: Sequence[Mapping[str, Any]]


def request(method: str, params: Sequence[Any] | Mapping[str, Any], id_: str | None) -> bytes:
    """Return a request; without an id, a notification. TypeError for values outside JSON."""
    body = {"jsonrpc": "2.0", "method": method, "params": params}
    return encode(body if id_ is None else body | {"id": id_})


# With these options json.dumps would make a new encoder for each call.
_encode: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def encode(value: Any) -> bytes:
    """Encode JSON; TypeError, ValueError or RecursionError for values outside JSON."""
    return _encode(value).encode()


# The core of json.loads, without its check for other encodings and for white space.
_scan_once: Final[Callable[[str, int], tuple[Any, int]]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]


@contextlib.contextmanager
def collecting_nothing(size: int) -> Iterator[None]:
    """Decode a large body without Python's cyclic garbage collector.

    The collector traverses all containers again and again as they grow: 16 MiB of empty lists took 19 s.

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
    """Decode JSON, as json.loads does; ValueError or RecursionError for invalid JSON."""
    try:
        text = body.decode()
        value, end = _scan_once(text, 0)
        if end == len(text):
            return value
    except (ValueError, StopIteration):
        pass  # another encoding, leading white space, or no JSON
    try:
        return json.loads(body)
    except ValueError as error:
        raise _explained(error) from None


def text_of(body: bytes) -> str:
    """Return JSON as text, decoded as `decode` does; UnicodeDecodeError for invalid bytes.

    JSON is UTF-8 (RFC 8259, section 8.1). A byte order mark is ignored, as the RFC permits. UTF-16 and
    UTF-32, which its predecessors permitted, are recognised by their first bytes.
    """
    return body.decode(json.detect_encoding(body), "surrogatepass")


class TooMany(ValueError):
    """More values than a dispatcher decodes in a body, requests in a batch, or digits in an integer."""


def _explained(error: ValueError) -> ValueError:
    """Return a decoder's error; TooMany for that of int(), which refuses an integer of many digits."""
    if type(error) is not ValueError:  # JSONDecodeError, UnicodeDecodeError
        return error
    return TooMany(f"an integer has more than {sys.get_int_max_str_digits():,} digits; send it as a string")


# The text before a value: strings, of which the last may be unclosed, and the characters between them.
# It matches to the end: after a mismatch the search would continue within a string.
_STRING: Final = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?'
_VALUE: Final = re.compile(rf'[^"\[{{,]*+(?:{_STRING}[^"\[{{,]*+)*+(?:([\[{{,])|\Z)', re.DOTALL)


def bounded_text_of(body: bytes) -> str:
    """Return JSON as text, as `text_of` does; raise TooMany for more than MOST_VALUES values.

    Decoded, 3 bytes of JSON take 64 to 200 bytes; as text, 16 MiB take 16 MiB. The comma, brace or bracket
    before each value is counted, not the value.
    """
    text = text_of(body)
    if len(text) <= MOST_VALUES or sum(map(text.count, ",[{")) <= MOST_VALUES:
        return text
    beyond = next(islice(_VALUE.finditer(text), MOST_VALUES, None), None)
    if beyond and beyond[1]:
        raise TooMany(f"more than {MOST_VALUES:,} values of JSON; name the worker type by the property type")
    return text


def decode_bounded(body: bytes) -> Any:
    """Decode JSON, as `decode` does; TooMany for more than MOST_VALUES values."""
    if len(body) > MOST_VALUES:
        bounded_text_of(body)
    return decode(body)


def decode_batch(body: bytes) -> list[Any]:
    """Return the elements of a JSON array; decode at most MOST_REQUESTS of them.

    Raises TooMany if it has more, and ValueError or RecursionError if it is no array.
    """
    text = bounded_text_of(body)
    elements: list[Any] = []
    at = skip_space(text, expect(text, skip_space(text, 0), "["))
    while text[at : at + 1] != "]":
        if elements:
            at = skip_space(text, expect(text, at, ","))
        if len(elements) == MOST_REQUESTS:
            raise TooMany(f"a batch has more than {MOST_REQUESTS} requests")
        element, at = scan(text, at)
        elements.append(element)
        at = skip_space(text, at)
    if skip_space(text, at + 1) != len(text):
        raise ValueError(f"text goes on after the array, at character {at + 1}")
    return elements


def scan(text: str, at: int) -> tuple[Any, int]:
    """Return the value that begins at `at`, and its end; ValueError if none begins there."""
    try:
        return _scan_once(text, at)
    except StopIteration as error:
        raise ValueError(f"no value at {error.value}") from None
    except ValueError as error:
        raise _explained(error) from None


_SPACE: Final = re.compile(r"[ \t\n\r]*")


def skip_space(text: str, at: int) -> int:
    """Return the end of JSON's white space that begins at `at`."""
    match = _SPACE.match(text, at)
    return match.end() if match else at


def expect(text: str, at: int, character: str) -> int:
    """Return the position after `character`; ValueError if another one is at `at`."""
    if text[at : at + 1] != character:
        raise ValueError(f"expected {character!r} at character {at}, found {text[at : at + 1]!r}")
    return at + 1


def is_request(body: Any) -> bool:
    """Tell whether a body is a request or a notification."""
    return isinstance(body, dict) and body.get("jsonrpc") == "2.0" and "method" in body


def is_batch(body: Any) -> bool:
    """Tell whether a body is a batch: a list with a request in it; other elements are in error."""
    return isinstance(body, list) and any(map(is_request, body))


def is_valid(body: Any) -> bool:
    """Tell whether a body is a valid request (section 4); its method may be unknown."""
    return is_request(body) and isinstance(body["method"], str) and arguments(body) is not None


def is_notification(body: Mapping[str, Any]) -> bool:
    """Tell whether a request has no response."""
    return "id" not in body


def arguments(body: Mapping[str, Any]) -> tuple[Sequence[Any], Mapping[str, Any]] | None:
    """Return a request's arguments, by position and by name; None if params are neither."""
    return split(body.get("params", []))


def split(params: Any) -> tuple[Sequence[Any], Mapping[str, Any]] | None:
    """Split params into arguments by position and by name; None if they are neither."""
    if isinstance(params, list):
        return params, {}
    return ((), params) if isinstance(params, dict) else None


def id_of(body: Mapping[str, Any]) -> Any:
    """Return a request's id; None unless it is a string or a finite number."""
    value = body.get("id")
    is_number = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return value if is_number or isinstance(value, str) else None


def error_in(body: Any) -> Mapping[str, Any] | None:
    """Return the error in a response; None if a body is no response with an error."""
    error = body.get("error") if isinstance(body, dict) and body.get("jsonrpc") == "2.0" else None
    return error if isinstance(error, dict) else None


def result_in(body: Any) -> Any:
    """Return the result in a response; any other body as it is."""
    is_response = isinstance(body, dict) and body.get("jsonrpc") == "2.0" and "result" in body
    return body["result"] if is_response else body


def result(body: Mapping[str, Any], value: Any) -> dict[str, Any]:
    """Return the response with a request's result."""
    return {"jsonrpc": "2.0", "result": value, "id": id_of(body)}


def error(id_: Any, code: int, message: str, data: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the response with a request's error."""
    described = {"code": code, "message": message}
    return {"jsonrpc": "2.0", "error": described if data is None else described | {"data": data}, "id": id_}


def errors(body: Any, code: int, message: str, data: Mapping[str, Any]) -> bytes:
    """Return the response to a request or a batch that failed as a whole; b"" if it has none.

    A batch of too many requests has one response, like an unreadable one (section 7).
    """
    if is_request(body):
        return b"" if is_notification(body) else encode(error(id_of(body), code, message, data))
    if len(body) > MOST_REQUESTS:
        return encode(error(None, code, message, data))
    data = {name: value for name, value in data.items() if name != "traceback"}  # large in each response
    answers = [
        error(id_of(each), code, message, data) if is_request(each) else invalid(each)
        for each in body
        if not (is_request(each) and is_notification(each))
    ]
    return encode(answers) if answers else b""


def invalid(body: Any) -> dict[str, Any]:
    """Return the response to an invalid request; its id is null if the body has none (sections 5 and 7)."""
    id_ = id_of(body) if isinstance(body, dict) else None
    return error(id_, INVALID_REQUEST, "no JSON-RPC 2.0 request")


def refusal(body: Any, code: int, message: str, data: Mapping[str, Any]) -> bytes:
    """Return the response to a request or a batch, valid or not, that is not performed.

    b"" if it has none: a notification has none, unless it is malformed.
    """
    if isinstance(body, list):
        return encode(invalid(body)) if not body else errors(body, code, message, data)
    return errors(body, code, message, data) if is_valid(body) else encode(invalid(body))


def response(body: Any, value: Any) -> bytes:
    """Return the response to a request, or the responses to a batch; b"" if there is none."""
    if isinstance(value, Batch):
        return encode(value.responses) if value.responses else b""
    return b"" if is_notification(body) else encode(result(body, value))
