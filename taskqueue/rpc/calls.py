"""Calls as the dispatcher sees them: that a workitem is one, and what is said where nobody serves it."""

import json
from typing import Any

from taskqueue import results
from taskqueue import workitem as words
from taskqueue.broker.publisher import Publication, Settled
from taskqueue.broker.topology import is_ours, is_text
from taskqueue.errors import UnknownTask
from taskqueue.properties import Properties
from taskqueue.rpc import jsonrpc


def is_call(body: bytes) -> bool:
    """Tell whether a workitem's body is a JSON-RPC request or batch."""
    if len(body) > words.LARGEST_READ or b'"jsonrpc"' not in body:
        return False
    found = _read(body)
    return jsonrpc.is_request(found) or jsonrpc.is_batch(found)


def unknown_task(
    properties: Properties, id_: str, body: bytes, reason: str, settled: Settled
) -> Publication | None:
    """Return what tells a caller that nobody serves the task; None where no reply is wanted or possible.

    Args:
        properties: of the request, as they came.
        id_: the workitem's id.
        body: the request.
        reason: why, in a line.
        settled: takes what becomes of the reply.
    """
    reply_to = properties.reply_to
    if not reply_to or is_ours(reply_to) or not is_text(reply_to):
        return None
    data = {"type": UnknownTask.__name__, "traceback": ""}
    answer = jsonrpc.errors(_read(body), jsonrpc.METHOD_NOT_FOUND, reason, data)
    if not answer:
        return None
    headers = {words.STATUS: results.REJECTED, words.WORKITEM_ID: id_, words.HOST: results.HOST}
    reply = Properties(
        content_type=words.JSON,
        delivery_mode=2,
        correlation_id=properties.correlation_id or id_,
        message_id=words.new_id(),
    ).with_headers(headers)
    return Publication(reply_to, reply.encode(), answer, settled, mandatory=False)


def _read(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
