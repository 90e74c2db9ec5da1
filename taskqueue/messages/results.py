"""The result of a workitem: its body and its properties."""

import socket
import time
import traceback
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple

from taskqueue.amqp.properties import Form, Properties
from taskqueue.amqp.tables import as_bytes, header_table, short_string_pieces, table_pieces
from taskqueue.errors import CallError, ResultUnwritable, TaskqueueError, WorkitemUnreadable
from taskqueue.messages import jsonrpc, names
from taskqueue.messages.content import BINARY, JSON, TEXT
from taskqueue.messages.forwarding import new_id
from taskqueue.messages.routing import is_ruote
from taskqueue.messages.workitem import Workitem, decode_body
from taskqueue.texts import shorten

SUCCEEDED: Final = "succeeded"
FAILED: Final = "failed"
REJECTED: Final = "rejected"
CANCELLED: Final = "cancelled"

#: Maximum bytes of a body quoted in a failure: quoting decodes it again, which takes time and memory.
_LARGEST_QUOTED: Final = 16 * 1024 * 1024
HOST: Final = socket.gethostname()


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a workitem failed: the member "error" of a failure's result."""

    type: str
    message: str
    traceback: str = ""
    code: int = jsonrpc.SERVER_ERROR  # of a JSON-RPC error

    @classmethod
    def of(cls, error: BaseException) -> "Failure":
        """Describe an exception."""
        has_traceback = not isinstance(error, TaskqueueError) or error.has_traceback
        text = "".join(traceback.format_exception(error)) if has_traceback else ""
        code = error.code if isinstance(error, CallError) else jsonrpc.SERVER_ERROR
        return cls(type(error).__name__[:200], shorten(_text(error)), shorten(text), code)

    def __str__(self) -> str:
        """Return the failure as one line."""
        return f"{self.type}: {self.message}" if self.message else self.type


@dataclass(frozen=True, slots=True)
class Content:
    """A result that is already encoded.

    Args:
        media_type: its content type.
        data: the body.
    """

    media_type: str
    data: bytes


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 -- its __str__ is plugin code
        return "<exception str() failed>"


def encode_answer(value: Any, body: Any) -> tuple[str, bytes]:
    """Return the content type and the bytes of a handler's return value.

    The answer to a JSON-RPC request is a response; b"" as JSON means none.
    Raises ResultUnwritable for a value that cannot be encoded.
    """
    if not jsonrpc.is_request(body) and not isinstance(value, jsonrpc.Batch):
        return encode_value(value)
    try:
        return JSON, jsonrpc.response(body, value)
    except (TypeError, ValueError, RecursionError) as error:
        raise ResultUnwritable(
            f"the result, a {type(value).__name__}, cannot be sent as JSON: {error}"
        ) from None


def encode_value(value: Any) -> tuple[str, bytes]:
    """Return the content type and the bytes of a value.

    Raises ResultUnwritable for a value that cannot be encoded.
    """
    try:
        match value:
            case bytes():
                return BINARY, value
            case str():
                return TEXT + "; charset=utf-8", value.encode("utf-8", "surrogateescape")
            case Content():
                return value.media_type, value.data
        return JSON, jsonrpc.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise ResultUnwritable(
            f"handle_task returned a {type(value).__name__} that cannot be sent: {error}"
        ) from None


def encode_failure(failure: Failure, workitem: Workitem | None) -> bytes:
    """Return the body of a failure's result, as JSON; without the workitem if it is None.

    A Ruote workitem is returned whole, with `error` and `trace`, which Ruote's receiver reads. A JSON-RPC
    request gets a response; b"" means none.
    """
    body = _readable(workitem) if workitem else None
    if jsonrpc.is_request(body) or jsonrpc.is_batch(body):
        data = {"type": failure.type, "traceback": failure.traceback}
        return jsonrpc.errors(body, failure.code, failure.message or failure.type, data)
    error = {"type": failure.type, "message": failure.message, "traceback": failure.traceback}
    try:
        if is_ruote(body):
            return _compact(body | {"error": str(failure), "trace": failure.traceback or failure.message})
        return _compact({"error": error, "workitem": body})
    except (ValueError, RecursionError):  # readable, but not writable
        return _compact({"error": error, "workitem": None})


def _compact(value: Any) -> bytes:
    return jsonrpc.encode(value)


def _readable(workitem: Workitem) -> Any:
    """Return a body in a form that JSON can hold; None if it is not text, or too large to quote."""
    if len(workitem.body) > _LARGEST_QUOTED:
        return None
    try:
        body = decode_body(workitem, _LARGEST_QUOTED)
    except WorkitemUnreadable:
        body = workitem.body
    if isinstance(body, bytes):
        return None
    return body


class Run(NamedTuple):
    """One run of a workitem: the workitem at that time, its worker, start and end."""

    id: str
    worker_type: str
    attempt: int
    properties: Properties
    body: bytes
    worker: str
    started: float  # seconds since 1970
    ended: float
    possibly_doubled: bool = False  # whether another worker may have run the workitem, too

    @property
    def workitem(self) -> Workitem:
        """The workitem of this run."""
        return Workitem(self.worker_type, self.attempt, self.properties.encode(), self.body)


def encode_result(run: Run, status: str, content_type: str, expire: float) -> bytes:
    """Return the encoded properties of a result.

    expire -- seconds until the broker may drop an unread result; 0: never
    """
    workitem, worker_type, attempt, properties, _, worker, started, ended, doubled = run
    asked = properties.correlation_id or workitem
    ids = as_bytes(workitem), as_bytes(asked), as_bytes(new_id())
    shared = status, attempt, worker, doubled, content_type, worker_type, expire
    form = _form(shared, tuple(map(len, ids)))
    return form.encode(ids[0], started, ended, ids[1], ids[2], int(time.time()))


@lru_cache(maxsize=1024)
def _form(shared: tuple[str, int, str, bool, str, str, float], sizes: tuple[int, ...]) -> Form:
    """Return the template of many results' properties; `sizes` are the bytes of their three ids."""
    status, attempt, worker, doubled, content_type, worker_type, expire = shared
    expiration = str(int(expire * 1000)) if expire else None
    headers = {
        names.STATUS: status,
        names.ATTEMPT: attempt,
        names.HOST: HOST,
        names.WORKER: worker,
        names.POSSIBLY_DOUBLED: doubled or None,
    }
    workitem, asked, own = sizes
    return Form(
        Properties(content_type=content_type, delivery_mode=2, expiration=expiration, type=worker_type),
        {
            "header_table": table_pieces(
                header_table(headers), {names.WORKITEM_ID: workitem}, (names.STARTED, names.ENDED)
            ),
            "correlation_id": short_string_pieces(asked),
            "message_id": short_string_pieces(own),
            "timestamp": ("Q",),
        },
    )
