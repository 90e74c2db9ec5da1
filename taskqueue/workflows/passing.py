"""Results that are passed on to other steps: JSON values of a bounded size."""

from typing import Any, Final

from taskqueue.messages import jsonrpc
from taskqueue.messages.content import JSON, charset_of, media_type
from taskqueue.workflows.wire import MOST_RESULT, checked_json, value_of

_ENVELOPE: Final = 1024  # bytes of a JSON-RPC response beside its result


class Failed(Exception):
    """A result is the error of a JSON-RPC response; the text is its message."""


def passed_on(content_type: str, body: bytes) -> str:
    """Return a result as JSON text: a JSON value, of a JSON-RPC response its result, or a text as a string.

    Raises ValueError if it is no JSON, too large or too deep, and Failed for a response with an error.
    """
    try:
        return checked_json(value_in(content_type, body))
    except RecursionError as error:
        raise ValueError(str(error)) from None


def value_in(content_type: str, body: bytes, most: int = MOST_RESULT) -> Any:
    """Return a result as a value of JSON.

    Args:
        content_type: of the result.
        body: its bytes.
        most: maximum bytes of it.

    Raises ValueError if it is no JSON or too large, and Failed for a response with an error.
    """
    kind = media_type(content_type)
    try:
        if kind.startswith("text/"):
            return _bounded(body, most).decode(charset_of(content_type))
        if kind == JSON or kind.endswith("+json"):
            return _result_in(_bounded(body, most + _ENVELOPE))
    except (LookupError, RecursionError) as error:
        raise ValueError(str(error)) from None
    raise ValueError(f"{kind} is no JSON")


def explained(size: int) -> str:
    """Return why a result of so many bytes is not passed on."""
    if size <= MOST_RESULT:
        return "the result is no JSON"
    return f"the result has {size:,} bytes; at most {MOST_RESULT:,} are passed on"


def _bounded(body: bytes, most: int) -> bytes:
    if len(body) > most:
        raise ValueError("too large")
    return body


def _result_in(body: bytes) -> Any:
    if not body:
        return None  # a notification has no response
    with jsonrpc.collecting_nothing(len(body)):
        value = value_of(body)
    error = jsonrpc.error_in(value)
    if error is not None:
        raise Failed(str(error.get("message", "")))
    return jsonrpc.result_in(value)
