"""A client's messages: building requests, and decoding replies and notices for their calls.

These are pure functions; docs/protocol.md describes the messages.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import MalformedProperties
from taskqueue.calls.call import Call, Progress, Status
from taskqueue.errors import (
    BadArguments,
    CallCancelled,
    CallError,
    DuplicateCall,
    ResultUnwritable,
    TaskFailed,
    TaskqueueError,
    UnknownTask,
)
from taskqueue.messages import jsonrpc, names
from taskqueue.messages.content import JSON, media_type
from taskqueue.messages.results import SUCCEEDED

#: The notice by which a named client records a submitted call in its own queue.
SUBMITTED = "submitted"


def request_body(task: str, args: Sequence[Any], kwargs: Mapping[str, Any], id_: str) -> bytes:
    """Return a request's body. Raises TypeError for arguments that JSON or JSON-RPC cannot express."""
    if args and kwargs:
        raise TypeError(f"{task}: arguments go by position or by name, not both (JSON-RPC 2.0, section 4.2)")
    try:
        return jsonrpc.request(task, kwargs or args, id_)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"{task}: the arguments cannot be sent as JSON: {error}") from None


def submitted_body(id_: str, task: str) -> bytes:
    """Return the body of the notice that a call was submitted."""
    return jsonrpc.request(SUBMITTED, {"id": id_, "task": task}, None)


def notice(body: Any) -> tuple[str, Mapping[str, Any]] | None:
    """Return the method and parameters of a notice; None for a reply."""
    if jsonrpc.is_request(body) and isinstance(body.get("params"), dict):
        return str(body["method"]), body["params"]
    return None


def take_notice(call: Call[Any], what: str, params: Mapping[str, Any]) -> None:
    """Apply a notice to a call; unknown notices are ignored."""
    match what:
        case "started":
            call.move(Status.RUNNING)
        case "retrying":
            call.move(Status.RETRYING)
        case names.DUPLICATE:
            call.duplicate_of = str(params.get("of", ""))
        case "progress":
            fraction = params.get("fraction")
            share = float(fraction) if isinstance(fraction, int | float) else 0.0
            call.tell(Progress(share, str(params.get("text", ""))))


def decode(raw: bytes, body: bytes) -> tuple[Properties, Any]:
    """Return a reply's properties and its decoded body: a JSON value, str for text, else bytes."""
    try:
        properties = Properties.decode(raw)
    except MalformedProperties:
        return Properties(), None
    kind = media_type(properties.content_type)
    try:
        if kind == JSON:
            return properties, jsonrpc.decode(body)
        return properties, body.decode("utf-8") if kind.startswith("text/") else body
    except (ValueError, RecursionError):
        return properties, body


def is_reply(properties: Properties, body: Any) -> bool:
    """Return whether a message looks like a reply: a JSON-RPC response or another result."""
    return _is_response(body) or _status(properties) is not None


def take_reply(call: Call[Any], properties: Properties, body: Any) -> None:
    """Settle a call by its reply, a JSON-RPC response or another result."""
    if _is_response(body):
        if "result" in body:
            call.settle(Status.SUCCEEDED, body["result"])
            return
        error = remote_error(body["error"])
    elif _status(properties) == SUCCEEDED:
        call.settle(Status.SUCCEEDED, body)
        return
    else:
        found = body.get("error") if isinstance(body, dict) else None
        error = _failure(found if isinstance(found, dict) else {"message": repr(body)[:500]})
    call.settle(Status.CANCELLED if isinstance(error, CallCancelled) else Status.FAILED, error=error)


def _is_response(body: Any) -> bool:
    return isinstance(body, dict) and body.get("jsonrpc") == "2.0" and ("result" in body or "error" in body)


def _status(properties: Properties) -> Any:
    try:
        return properties.header(names.STATUS)
    except MalformedProperties:
        return None


def remote_error(error: Any) -> TaskqueueError:
    """Return the exception for the error of a JSON-RPC response."""
    if not isinstance(error, dict):
        return TaskFailed("Error", repr(error)[:500])
    data = error.get("data") if isinstance(error.get("data"), dict) else {}
    message = str(error.get("message", ""))
    code = error.get("code")
    known: dict[int, type[CallError]] = {
        jsonrpc.METHOD_NOT_FOUND: UnknownTask,
        jsonrpc.INVALID_PARAMS: BadArguments,
        jsonrpc.CANCELLED: CallCancelled,
        jsonrpc.DUPLICATE: DuplicateCall,
    }
    if isinstance(code, int) and code in known:
        return known[code](message)
    return _failure({"message": message} | (data or {}))


def _failure(error: Mapping[str, Any]) -> TaskFailed:
    type_ = str(error.get("type", "Error"))
    # For a result that could not be encoded, the traceback has no line of the user's code.
    text = "" if type_ == ResultUnwritable.__name__ else str(error.get("traceback", ""))
    return TaskFailed(type_, str(error.get("message", "")), text)
