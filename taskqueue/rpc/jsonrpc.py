"""JSON-RPC 2.0 (https://www.jsonrpc.org/specification): requests, responses, notifications, batches.

Everything here is a pure function of values; a body is what its JSON gave.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
SERVER_ERROR: Final = -32000  # ours, from the range that is left to servers: the function raised
CANCELLED: Final = -32001  # ours: its caller wanted no result any more


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


def is_request(body: Any) -> bool:
    """Tell whether a body is a request or a notification."""
    return isinstance(body, dict) and body.get("jsonrpc") == "2.0" and "method" in body


def is_batch(body: Any) -> bool:
    """Tell whether a body is a batch: a list with a request in it; what else is in it is in error."""
    return isinstance(body, list) and any(map(is_request, body))


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
    """Return the response to a request or a batch that failed as a whole; b"" where none is wanted."""
    if is_request(body):
        return b"" if is_notification(body) else encode(error(id_of(body), code, message, data))
    asked = [each for each in body if isinstance(each, dict) and not is_notification(each)]
    return encode([error(id_of(each), code, message, data) for each in asked]) if asked else b""


def response(body: Any, value: Any) -> bytes:
    """Return the response to a request, or the responses to a batch; b"" where none is wanted."""
    if isinstance(value, Batch):
        return encode(value.responses) if value.responses else b""
    return b"" if is_notification(body) else encode(result(body, value))
