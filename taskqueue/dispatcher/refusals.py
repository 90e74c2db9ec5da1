"""Messages as the dispatcher sees them that nobody performs: calls that nobody serves, and what is rejected.

Every request with a reply address gets a reply.
"""

from typing import Any, Final

from taskqueue.amqp.properties import Properties
from taskqueue.broker.publisher import Publication, Settled
from taskqueue.broker.topology import is_ours, is_text
from taskqueue.messages import jsonrpc, names, results
from taskqueue.messages.content import JSON, UnreadableEncoding, decompress, is_compressed
from taskqueue.messages.forwarding import new_id
from taskqueue.messages.results import Failure
from taskqueue.messages.routing import LARGEST_READ, begins_as_json
from taskqueue.messages.workitem import Workitem

_LARGEST_QUOTED: Final = 4 * 1024 * 1024  # bytes of a body that comes back in its answer


def is_call(properties: Properties, body: bytes) -> bool:
    """Tell whether a workitem's body is a JSON-RPC request or batch."""
    try:
        found = _read_call(_plain(properties, body), is_typed=True)
    except (ValueError, RecursionError):
        return False
    return jsonrpc.is_request(found) or jsonrpc.is_batch(found)


def refusal(
    properties: Properties, id_: str, body: bytes, failure: Failure, settled: Settled
) -> Publication | None:
    """Return what tells a producer that its message is rejected; None where no reply is wanted or possible.

    Args:
        properties: of the message, as they came.
        id_: the workitem's id.
        body: the message's.
        failure: why.
        settled: takes what becomes of the reply.
    """
    reply_to = properties.reply_to
    if not reply_to or is_ours(reply_to) or not is_text(reply_to):
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
    is_direct = reply_to.startswith(names.DIRECT_REPLY)  # before 4.2, RabbitMQ returns what it has delivered
    return Publication(reply_to, reply.encode(), answer, settled, mandatory=not is_direct)


def _answer(properties: Properties, body: bytes, failure: Failure) -> bytes:
    """Return a JSON-RPC response where the message was meant as a request, else the body of a result."""
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
    """Return a body decompressed; None where that is impossible, or it has too many bytes."""
    encoding, most = properties.content_encoding or "", LARGEST_READ
    try:
        plain = decompress(body, encoding, most) if is_compressed(encoding) else body
    except UnreadableEncoding:
        return None
    return plain if len(plain) <= most else None


def _read_call(plain: bytes | None, *, is_typed: bool) -> Any:
    """Return what was meant as a JSON-RPC request or batch, decoded; None for anything else.

    Raises ValueError or RecursionError where what was meant cannot be read.
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
    """Return the workitem that an answer quotes; None where it is too large, or cannot be read."""
    if plain is None or len(plain) > _LARGEST_QUOTED:
        return None
    if sum(map(plain.count, (b",", b"[", b"{"))) > jsonrpc.MOST_VALUES:
        return None
    kind = JSON if begins_as_json(plain) else properties.content_type
    return Workitem("", 1, Properties(content_type=kind).encode(), plain)
