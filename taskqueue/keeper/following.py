"""Results for the callers of duplicates: the first workitem's result, under their own correlation ids."""

from collections.abc import Iterable
from typing import Any

from taskqueue.amqp.properties import Properties
from taskqueue.broker.publisher import Publication
from taskqueue.messages import jsonrpc, names
from taskqueue.messages.content import JSON
from taskqueue.messages.forwarding import new_id
from taskqueue.messages.results import HOST
from taskqueue.unique.wire import Follower, Message


def results_for(message: Message, followers: Iterable[Follower]) -> list[Publication]:
    """Return the publications for the followers of a workitem that is over, as `message` says."""
    head = message.head
    call = _response_in(message) if head["content_type"] == JSON else None
    return [_result_for(each, message, call) for each in followers]


def _result_for(follower: Follower, message: Message, call: dict[str, Any] | None) -> Publication:
    head = message.head
    status, body = str(head["status"]), message.result or b"null"
    if not head["is_whole"]:
        status, body = names.DUPLICATE, jsonrpc.encode({"duplicate_of": head["id"], "result_follows": False})
        if follower.is_call:
            text = f"duplicate of {head['id']}, whose result is too large to be passed on"
            body = jsonrpc.encode(jsonrpc.error(follower.call_id, jsonrpc.DUPLICATE, text))
    elif follower.is_call and call is not None:
        body = jsonrpc.encode(call | {"id": follower.call_id})
    properties = Properties(
        content_type=str(head["content_type"]) if head["is_whole"] else JSON,
        delivery_mode=2,
        correlation_id=follower.correlation_id,
        message_id=new_id(),
        type=str(head["scope"][0]),
    ).with_headers(
        {
            names.STATUS: status,
            names.WORKITEM_ID: head["id"],
            names.DUPLICATE_OF: head["id"],
            names.HOST: HOST,
            names.ENDED: float(head["time"]),
        }
    )
    is_direct = follower.reply_to.startswith(
        names.DIRECT_REPLY
    )  # RabbitMQ before 4.2 returns even if delivered
    return Publication(follower.reply_to, properties.encode(), body, mandatory=not is_direct, declares=False)


def _response_in(message: Message) -> dict[str, Any] | None:
    """Return the JSON-RPC response that a result is; None if it is none."""
    try:
        found = jsonrpc.decode_bounded(message.result)
    except (ValueError, RecursionError, jsonrpc.TooMany):
        return None
    return found if isinstance(found, dict) and "jsonrpc" in found else None
