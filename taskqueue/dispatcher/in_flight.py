"""A message as its dispatcher keeps it: from the delivery until the broker has confirmed where it went."""

from dataclasses import dataclass

from taskqueue.amqp.properties import Properties
from taskqueue.broker.subscription import Delivery


@dataclass(slots=True, eq=False)
class InFlightMessage:
    """One message on its way through the dispatcher."""

    delivery: Delivery
    properties: Properties
    id: str
    due: float | None = None  # when it is to run, on the monotonic clock; None for at once
    reason: str = ""  # why it is rejected
    is_answered: bool = False  # whether whoever asked for a reply has been told that
    is_bare: bool = False  # its properties were too much to be kept
