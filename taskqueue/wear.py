"""Messages that a quorum queue has delivered often without hearing what became of them.

RabbitMQ 4 drops, or dead-letters, a message at its 21st return unless the queue's argument or a policy says
else (https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling). A connection that ends returns all
that was not acknowledged on it, whoever is to blame. A queue that an earlier RabbitMQ has made, or somebody
else, or that is a quorum queue because its virtual host says so, has that limit. So who takes a worn message
publishes it anew, and acknowledges the worn one: each copy is counted from nought.
"""

from typing import Final

from taskqueue.headers import MalformedProperties
from taskqueue.properties import Properties
from taskqueue.workitem import attributed, is_untravelable, login_of

MOST_DELIVERIES: Final = 10  # half of what RabbitMQ 4 allows

_DELIVERIES: Final = "x-delivery-count"  # how often a quorum queue has delivered a message before


def is_worn(properties: Properties) -> bool:
    """Tell whether a message has been delivered MOST_DELIVERIES times before."""
    try:
        count = properties.header(_DELIVERIES) if properties.header_table else None
    except MalformedProperties:
        return False
    return isinstance(count, int) and count >= MOST_DELIVERIES


def renewed(properties: Properties, login: str) -> Properties:
    """Return the properties with which a worn message is published to the same queue once more.

    login -- our name at the broker
    """
    kept = attributed(properties, login).with_headers({}, is_untravelable)
    return kept.replace(delivery_mode=2, user_id=login_of(kept))
