"""Reading the messages in the queue of a shard, of which some are for trusted users."""

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import MalformedProperties
from taskqueue.broker.subscription import Delivery
from taskqueue.broker.trust import Trust
from taskqueue.flow.ledger import Incoming, decoded
from taskqueue.flow.receipts import foreign
from taskqueue.workflows.wire import COMMAND, KIND, LIST, START, Receipt, decode


def read(delivery: Delivery, shard: int, trust: Trust, database: str) -> Incoming | None:
    """Return a message, and take its body from the delivery; None if its user is not trusted with it.

    Raises BadFlowMessage if it is none.

    Args:
        delivery: the message.
        shard: the number of the queue's shard.
        trust: tells whether a user is trusted.
        database: the id of the database of workflows; "" while there is none.
    """
    plain = decode(delivery.body)
    if plain.get(KIND) == COMMAND and plain.get("action") == LIST and trust.fault(delivery):
        return None  # whoever has a workflow's id may ask for it; all of them are for trusted users
    id_ = _id_of(delivery) if plain.get(KIND) == START else ""
    found = decoded(shard, plain, id_, len(delivery.body))
    if database and _is_foreign(found, database) and trust.fault(delivery):
        return None  # forged, it would keep this process from its shard
    delivery.body = b""
    return found


def _id_of(delivery: Delivery) -> str:
    """Return the id of a message; "" for none."""
    try:
        return Properties.decode(delivery.properties).message_id or ""
    except MalformedProperties:
        return ""


def _is_foreign(found: Incoming, database: str) -> bool:
    """Tell whether a message is the receipt of a workflow that another database keeps."""
    return isinstance(found.message, Receipt) and any(foreign([found.message], database))
