"""Reading the messages in the queue of a shard, of which some are for trusted users."""

from collections.abc import Callable
from typing import Final

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import MalformedProperties
from taskqueue.broker.subscription import Delivery
from taskqueue.broker.trust import Trust
from taskqueue.errors import BadFlowMessage
from taskqueue.flow.ledger import Incoming, decoded
from taskqueue.flow.receipts import foreign
from taskqueue.workflows.wire import (
    COMMAND,
    KIND,
    LIST,
    MOST_DOCUMENT,
    RECEIPT,
    RECEIPTS,
    START,
    Receipt,
    decode,
)

_TOGETHER: Final = RECEIPTS.encode()
_MOST_RECEIPTS: Final = 10_000  # in a message


def read(
    delivery: Delivery, shard: int, trust: Trust, database: str, drop: Callable[[str], None]
) -> Incoming | None:
    """Return a message, and take its body from the delivery; None if its user is not trusted with it.

    Raises BadFlowMessage if it is none.

    Args:
        delivery: the message.
        shard: the number of the queue's shard.
        trust: tells whether a user is trusted.
        database: the id of the database of workflows; "" while there is none.
        drop: takes why one of several receipts in it cannot be read.
    """
    if _TOGETHER in delivery.properties and _properties(delivery).content_type == RECEIPTS:
        found = Incoming(shard, tuple(_receipts(delivery.body, drop)))
    else:
        plain = decode(delivery.body)
        if plain.get(KIND) == COMMAND and plain.get("action") == LIST and trust.fault(delivery):
            return None  # whoever has a workflow's id may ask for it; all of them are for trusted users
        id_ = _properties(delivery).message_id or "" if plain.get(KIND) == START else ""
        found = decoded(shard, plain, id_)
    if database and any(foreign(found.receipts, database)) and trust.fault(delivery):
        found = _without_foreign(found, database)  # forged, they would keep this process from its shard
    delivery.body = b""
    return found if found.message else None


def _properties(delivery: Delivery) -> Properties:
    try:
        return Properties.decode(delivery.properties)
    except MalformedProperties:
        return Properties()


def _receipts(body: bytes, drop: Callable[[str], None]) -> list[Receipt]:
    """Return the receipts of a body, a line each; one that cannot be read does not concern the others."""
    if len(body) > MOST_DOCUMENT:  # decoded, it may take thirty times its size
        raise BadFlowMessage(f"receipts of {len(body):,} bytes; at most {MOST_DOCUMENT:,} are read")
    lines = body.split(b"\n")
    if len(lines) > _MOST_RECEIPTS:
        raise BadFlowMessage(f"{len(lines):,} receipts in a message; at most {_MOST_RECEIPTS:,} are read")
    found = []
    for line in lines:
        try:
            plain = decode(line)
            if plain.get(KIND) != RECEIPT:
                raise BadFlowMessage("no receipt among receipts")
            found.append(Receipt.of_json(plain))
        except BadFlowMessage as error:
            drop(str(error))
    return found


def _without_foreign(incoming: Incoming, database: str) -> Incoming:
    """Return a message without the receipts of workflows that another database keeps."""
    others = {id(receipt) for receipt in foreign(incoming.receipts, database)}
    own = tuple(receipt for receipt in incoming.receipts if id(receipt) not in others)
    return incoming._replace(message=own)
