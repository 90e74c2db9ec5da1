"""Refusals of the dispatcher: too many queues for unknown worker types, and replies to rejected messages.

Every request with a usable reply_to gets a reply.
"""

from typing import Any, Final

from taskqueue.amqp.properties import Properties
from taskqueue.broker.publisher import Publication
from taskqueue.broker.topology import WORKER_PREFIX, reply_fault
from taskqueue.messages import jsonrpc, names, results
from taskqueue.messages.content import JSON, UnreadableEncoding, decompress, is_compressed
from taskqueue.messages.forwarding import new_id
from taskqueue.messages.results import Failure
from taskqueue.messages.routing import LARGEST_READ, begins_as_json
from taskqueue.messages.workitem import Workitem


class UnknownTypes:
    """Limits the number of queues for unknown worker types: any name in a message would create one."""

    def __init__(self, most: int) -> None:
        """Allow at most `most` new queues."""
        self._most = most
        self._queues: set[str] = set()

    def refusal(self, queue: str) -> str:
        """Return the reason not to declare a missing queue; "" if it may be declared."""
        is_new = queue.startswith(WORKER_PREFIX) and queue not in self._queues
        if not is_new or len(self._queues) < self._most:
            return ""
        created = f"max_types ({self._most}) queues have been created for new types"
        return f"queue {queue} does not exist, and {created}"

    def admit(self, queue: str) -> str:
        """Count a queue before its declaration; return the reason not to declare it, "" if it may be."""
        refusal = self.refusal(queue)
        if not refusal and queue.startswith(WORKER_PREFIX):
            self._queues.add(queue)
        return refusal

    def forget(self, queue: str) -> None:
        """Stop counting a queue that could not be declared."""
        self._queues.discard(queue)


_LARGEST_QUOTED: Final = 4 * 1024 * 1024  # bytes of a body that is quoted in the reply


def is_call(properties: Properties, body: bytes) -> bool:
    """Return whether a workitem's body is a JSON-RPC request or batch."""
    return call_of(properties, body)[0]


def call_of(properties: Properties, body: bytes) -> tuple[bool, Any]:
    """Return whether a workitem's body is a JSON-RPC request or batch, and the id of a request."""
    try:
        found = _read_call(_plain(properties, body), is_typed=True)
    except (ValueError, RecursionError):
        return False, None
    is_request = jsonrpc.is_request(found)
    return is_request or jsonrpc.is_batch(found), found.get("id") if is_request else None


def reply_to_fault(properties: Properties) -> str:
    """Return why a message's reply_to cannot be used; "" if it can, or if there is none."""
    reply_to = properties.reply_to
    fault = reply_fault(reply_to) if reply_to else ""
    return f"reply_to {reply_to} {fault}" if fault else ""


def refusal(properties: Properties, id_: str, body: bytes, failure: Failure) -> Publication | None:
    """Return the reply to the producer of a rejected message; None if no reply is wanted or possible.

    Args:
        properties: the message's properties, unchanged.
        id_: the workitem's id.
        body: the message's body.
        failure: the reason for the rejection.
    """
    reply_to = properties.reply_to
    if not reply_to or reply_to_fault(properties):
        return None
    answer = _answer(properties, body, failure)
    if not answer:
        return None
    headers = {names.STATUS: results.REJECTED, names.WORKITEM_ID: id_, names.HOST: results.HOST}
    reply = Properties(
        content_type=JSON,
        delivery_mode=2,
        correlation_id=properties.correlation_id or id_,
        message_id=new_id(),
    ).with_headers(headers)
    is_direct = reply_to.startswith(names.DIRECT_REPLY)  # RabbitMQ before 4.2 returns even if delivered
    return Publication(reply_to, reply.encode(), answer, mandatory=not is_direct, declares=False)


def _answer(properties: Properties, body: bytes, failure: Failure) -> bytes:
    """Return a JSON-RPC response if the message was meant as a request, else the body of a result."""
    plain = _plain(properties, body)
    data = {"type": failure.type, "traceback": failure.traceback}
    try:
        said = _read_call(plain, is_typed=bool(properties.type))
    except (ValueError, RecursionError) as error:
        is_long = isinstance(error, jsonrpc.TooMany)
        code = jsonrpc.INVALID_REQUEST if is_long else jsonrpc.PARSE_ERROR
        return jsonrpc.encode(jsonrpc.error(None, code, failure.message, data))
    if said is not None:
        return jsonrpc.refusal(said, failure.code, failure.message, data)
    return results.encode_failure(failure, _quoted(properties, plain))


def _plain(properties: Properties, body: bytes) -> bytes | None:
    """Return a body decompressed; None if it cannot be decompressed or is too large."""
    encoding, most = properties.content_encoding or "", LARGEST_READ
    try:
        plain = decompress(body, encoding, most) if is_compressed(encoding) else body
    except UnreadableEncoding:
        return None
    return plain if len(plain) <= most else None


def _read_call(plain: bytes | None, *, is_typed: bool) -> Any:
    """Return a decoded JSON-RPC request or batch; None if the body was not meant as one.

    Raises ValueError or RecursionError if a body that was meant as one cannot be decoded.
    """
    if plain is None or not begins_as_json(plain):
        return None
    names_it = b"jsonrpc" in (plain.replace(b"\0", b"") if b"\0" in plain[:8] else plain)  # UTF-16, too
    with jsonrpc.collecting_nothing(len(plain)):
        if begins_as_json(plain, "["):  # without a type, no other array is a workitem
            return jsonrpc.decode_batch(plain) if names_it or not is_typed else None
        found = jsonrpc.decode_bounded(plain) if names_it else None
    return found if isinstance(found, dict) and "jsonrpc" in found else None


def _quoted(properties: Properties, plain: bytes | None) -> Workitem | None:
    """Return the workitem for a reply to quote; None if it is unreadable or too large."""
    if plain is None or len(plain) > _LARGEST_QUOTED:
        return None
    if sum(map(plain.count, (b",", b"[", b"{"))) > jsonrpc.MOST_VALUES:
        return None
    kind = JSON if begins_as_json(plain) else properties.content_type
    return Workitem("", 1, Properties(content_type=kind).encode(), plain)
