"""A message in the dispatcher."""

from dataclasses import dataclass

from taskqueue.amqp.properties import Properties
from taskqueue.broker.subscription import Delivery
from taskqueue.unique.wire import Scope


@dataclass(slots=True, eq=False)
class InFlightMessage:
    """One message in the dispatcher, from its delivery to its acknowledgement."""

    delivery: Delivery
    properties: Properties
    id: str
    is_confirmed: bool = False  # whether the broker has confirmed its publication
    unrecorded: int = 0  # its events and messages to others that the broker has not confirmed
    reason: str = ""  # why it is rejected
    has_reply: bool = False  # whether a reply has been published to its reply_to
    is_bare: bool = False  # the broker refused it with its properties
    scope: Scope | None = None  # of the key that it has; None for none
    number: int = 0  # of the question for that key
    token: str = ""  # of the claim on that key
