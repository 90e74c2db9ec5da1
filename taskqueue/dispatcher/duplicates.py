"""Duplicates of unique workitems: who wants the first one's result, and the answer that names it."""

import secrets
import time
from typing import Any, Final

from taskqueue.amqp.properties import Properties
from taskqueue.broker.publisher import Publication
from taskqueue.dispatcher import refusals
from taskqueue.messages import jsonrpc, names
from taskqueue.messages.content import JSON
from taskqueue.messages.forwarding import new_id
from taskqueue.messages.results import HOST
from taskqueue.unique.headers import LONGEST_CLAIM, Unique
from taskqueue.unique.wire import Answer, Ask, Follower, Scope

_LONGEST_ID: Final = 255  # characters of a JSON-RPC request's id that is kept


def question(unique: Unique, properties: Properties, id_: str, body: bytes, wait: float | None) -> Ask:
    """Return the question whether a workitem may be routed, without its number.

    wait -- seconds until it is due; None: now
    """
    now = time.time()
    longest = max(unique.unique_for, (wait or 0.0) + unique.debounce + LONGEST_CLAIM)
    if unique.unique_for and is_own_key(unique.scope, id_):
        longest = unique.unique_for  # whether it is over or not
    return Ask(
        unique.scope,
        id_,
        0,
        now,
        kept_until=now + unique.unique_for if unique.unique_for else 0.0,
        until=now + longest,
        debounce=unique.debounce,
        is_settled=unique.is_settled,
        follower=_follower(properties, id_, body),
        token=secrets.token_hex(16),
    )


def is_own_key(scope: Scope, id_: str) -> bool:
    """Return whether a workitem's key is its id, which only tells whether it was published twice."""
    return scope[-1] == id_


def _follower(properties: Properties, id_: str, body: bytes) -> Follower | None:
    """Return who wants the result of a workitem; None for nobody."""
    reply_to = properties.reply_to
    if not reply_to or refusals.reply_to_fault(properties):
        return None
    is_call, call_id = refusals.call_of(properties, body)
    is_short = isinstance(call_id, int | float | None) or (
        isinstance(call_id, str) and len(call_id) <= _LONGEST_ID
    )
    return Follower(reply_to, properties.correlation_id or id_, is_call, call_id if is_short else None)


def answer_to(ask: Ask, answer: Answer) -> Publication | None:
    """Return the answer to the producer of a duplicate, which names the first one; None if nobody wants it.

    While the first one is not over, its result follows.
    """
    follower = ask.follower
    if follower is None:
        return None
    headers: dict[str, Any] = {
        names.STATUS: names.DUPLICATE,
        names.WORKITEM_ID: ask.id,
        names.DUPLICATE_OF: answer.owner,
        names.HOST: HOST,
    }
    properties = Properties(
        content_type=JSON,
        delivery_mode=2,
        correlation_id=follower.correlation_id,
        message_id=new_id(),
        type=ask.scope[0],
    ).with_headers(headers)
    is_direct = follower.reply_to.startswith(
        names.DIRECT_REPLY
    )  # RabbitMQ before 4.2 returns even if delivered
    body = _body(follower, answer)
    return Publication(follower.reply_to, properties.encode(), body, mandatory=not is_direct, declares=False)


def _body(follower: Follower, answer: Answer) -> bytes:
    if not follower.is_call:
        return jsonrpc.encode({"duplicate_of": answer.owner, "result_follows": answer.is_followed})
    if answer.is_followed:
        params = {"id": follower.correlation_id, "of": answer.owner}
        return jsonrpc.request(names.DUPLICATE, params, None)
    why = "which is over" if answer.ended else "which has too many followers"
    text = f"duplicate of {answer.owner}, {why}"
    data = {"type": "Duplicate", "traceback": "", "of": answer.owner}
    return jsonrpc.encode(jsonrpc.error(follower.call_id, jsonrpc.DUPLICATE, text, data))
