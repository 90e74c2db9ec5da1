"""A client's messages: requests, and replies and notices as their calls take them.

Pure functions of values; docs/protocol.md describes the messages.
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
    ResultUnwritable,
    TaskFailed,
    TaskqueueError,
    UnknownTask,
)
from taskqueue.messages import jsonrpc, names
from taskqueue.messages.content import JSON, media_type
from taskqueue.messages.results import SUCCEEDED

#: The notice by which a named client tells itself what it has submitted.
SUBMITTED = "submitted"


def request_body(task: str, args: Sequence[Any], kwargs: Mapping[str, Any], id_: str) -> bytes:
    """Return a request's body; TypeError for arguments that JSON, or JSON-RPC, cannot express."""
    if args and kwargs:
        raise TypeError(f"{task}: arguments go by position or by name, not both (JSON-RPC 2.0, section 4.2)")
    try:
        return jsonrpc.request(task, kwargs or args, id_)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"{task}: the arguments cannot be sent as JSON: {error}") from None


def submitted_body(id_: str, task: str) -> bytes:
    """Return the notice that a call was submitted."""
    return jsonrpc.request(SUBMITTED, {"id": id_, "task": task}, None)


def notice(body: Any) -> tuple[str, Mapping[str, Any]] | None:
    """Return what a notice says and of what; None for a reply."""
    if jsonrpc.is_request(body) and isinstance(body.get("params"), dict):
        return str(body["method"]), body["params"]
    return None


def take_notice(call: Call[Any], what: str, params: Mapping[str, Any]) -> None:
    """Have a call take a notice; what it does not know it does not heed."""
    match what:
        case "started":
            call.move(Status.RUNNING)
        case "retrying":
            call.move(Status.RETRYING)
        case "progress":
            fraction = params.get("fraction")
            share = float(fraction) if isinstance(fraction, int | float) else 0.0
            call.tell(Progress(share, str(params.get("text", ""))))


def decode(raw: bytes, body: bytes) -> tuple[Properties, Any]:
    """Return a reply's properties and what its body is: what JSON gives, str for text, else bytes."""
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


def is_reply(id_: str, properties: Properties, body: Any) -> bool:
    """Tell whether a message looks like the reply to a call of that id, rather than like anything else."""
    if not id_:
        return False
    if isinstance(body, dict) and body.get("jsonrpc") == "2.0":
        return "result" in body or "error" in body
    try:
        return properties.header(names.STATUS) is not None
    except MalformedProperties:
        return False


def take_reply(call: Call[Any], properties: Properties, body: Any) -> bool:
    """Have a call take its reply: a JSON-RPC response, or any other result; tell whether it was the first."""
    if isinstance(body, dict) and body.get("jsonrpc") == "2.0" and ("result" in body or "error" in body):
        if "result" in body:
            return call.settle(Status.SUCCEEDED, body["result"])
        error = remote_error(body["error"])
    else:
        try:
            status = properties.header(names.STATUS)
        except MalformedProperties:
            status = None
        if status == SUCCEEDED:
            return call.settle(Status.SUCCEEDED, body)
        found = body.get("error") if isinstance(body, dict) else None
        error = _failure(found if isinstance(found, dict) else {"message": repr(body)[:500]})
    ending = Status.CANCELLED if isinstance(error, CallCancelled) else Status.FAILED
    return call.settle(ending, error=error)


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
    }
    if isinstance(code, int) and code in known:
        return known[code](message)
    return _failure({"message": message} | (data or {}))


def _failure(error: Mapping[str, Any]) -> TaskFailed:
    type_ = str(error.get("type", "Error"))
    # No line of the user's code is in the traceback of what was not written by it.
    text = "" if type_ == ResultUnwritable.__name__ else str(error.get("traceback", ""))
    return TaskFailed(type_, str(error.get("message", "")), text)
