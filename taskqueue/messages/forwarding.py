"""The properties with which a message goes on: which headers travel, which are taken out or set."""

import os
import random
import socket
import time
from datetime import datetime
from typing import Any, Final

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import MalformedProperties
from taskqueue.errors import LONGEST_DELAY, Unroutable
from taskqueue.messages.names import (
    DEADLINE,
    DIRECT_REPLY,
    DUE,
    ENDED,
    HEADER,
    HOST,
    LEASE,
    NOTIFY,
    ORIGINAL,
    PUBLISHER,
    QUEUE,
    REASON,
    WAIT,
)

#: Our headers that a producer may set.
_PRODUCERS: Final = frozenset((DUE, WAIT, DEADLINE, NOTIFY))
_PUBLISHER: Final = PUBLISHER.encode()
_WAIT: Final = WAIT.encode()


def is_untravelable(header: str) -> bool:
    """Tell whether a header must not be published again, nor be shown to a handler.

    CC and BCC would route copies, and RabbitMQ before 4.0 takes a repeated x-death for a cycle and
    drops the message (https://www.rabbitmq.com/docs/dlx#automatic-dead-letter-cycles). Queues count their
    deliveries in headers, each its own. A lease is over.
    """
    return header in _UNTRAVELABLE or header.startswith(("x-death", "x-first-death-", "x-last-death-"))


_UNTRAVELABLE: Final = frozenset(("CC", "BCC", "x-delivery-count", "x-acquired-count", LEASE))


def _is_taken_out(header: str) -> bool:
    """Tell whether a header of a producer's stays behind: ours say what only we can know."""
    is_ours = header.startswith(HEADER) and header not in _PRODUCERS
    return (is_ours and header != PUBLISHER) or is_untravelable(header)


def attributed(properties: Properties, login: str) -> Properties:
    """Return properties with the header that says who published the message, if the broker knows that.

    The broker admits a message with the property user_id only from that user
    (https://www.rabbitmq.com/docs/validated-user-id). So the header counts where user_id is our own login,
    under which we pass it on; elsewhere user_id is the publisher. A header without either is dropped.

    login -- our name at the broker
    """
    table, user = properties.header_table, properties.user_id
    claims = table is not None and _PUBLISHER in table
    if (user is None and not claims) or (claims and user == login):
        return properties
    return properties.with_headers({PUBLISHER: user or None}).replace(
        user_id=(login or None) if user else None
    )


def login_of(properties: Properties) -> str | None:
    """Return the user_id that properties of ours keep: the one that vouches for the publisher's name."""
    table = properties.header_table
    return properties.user_id if table is not None and _PUBLISHER in table else None


def travelling(
    properties: Properties,
    worker_type: str,
    *,
    content_type: str | None = None,
    login: str = "",
    is_cluster: bool = False,
) -> Properties:
    """Return the properties with which a routed workitem goes on: the same object where they can stay.

    Args:
        properties: as they came.
        worker_type: where it goes.
        content_type: what its body is from here on; None for what it was.
        login: our name at the broker.
        is_cluster: whether the broker may lose a queue while connections go on.
    """
    kept = attributed(properties, login)
    headers: dict[str, Any] = {}
    if kept.expiration is not None and kept.expiration.isdecimal():
        headers[DEADLINE] = time.time() + int(kept.expiration) / 1000
    if headers or kept.header_table:
        kept = kept.with_headers(headers, _is_taken_out)
    mode = 1 if _may_end_with_broker(properties) and not is_cluster else 2
    if content_type is not None:
        kept = kept.replace(content_type=content_type)
    if (kept.type, kept.delivery_mode, kept.expiration) == (worker_type, mode, None):
        return kept if kept.message_id else kept.replace(message_id=new_id())
    return kept.replace(
        type=worker_type, delivery_mode=mode, message_id=kept.message_id or new_id(), expiration=None
    )


def _may_end_with_broker(properties: Properties) -> bool:
    """Tell whether a producer says so of a message whose reply could not come any more, either."""
    return properties.delivery_mode == 1 and (properties.reply_to or "").startswith(DIRECT_REPLY)


def rejected(properties: Properties, reason: str, queue: str, login: str = "") -> Properties:
    """Return the properties under which an unroutable message is kept, the original ones inside.

    login -- our name at the broker
    """
    headers = {
        REASON: reason,
        QUEUE: queue,
        ORIGINAL: properties.fields,
        HOST: socket.gethostname(),
        ENDED: time.time(),
    }
    kept = attributed(properties, login).with_headers(headers, _is_taken_out)
    return kept.replace(delivery_mode=2, message_id=properties.message_id or new_id(), expiration=None)


_random: Final = random.Random()  # noqa: S311 -- no secret; urandom is asked once, and not for every workitem
os.register_at_fork(after_in_child=_random.seed)


def new_id() -> str:
    """Return an id for a workitem that came without one."""
    return f"{_random.getrandbits(128):032x}"


def moment(properties: Properties, header: str) -> float | None:
    """Return a header that is a time in seconds since 1970; None where a producer wrote anything else."""
    if properties.header_table is None:
        return None  # as nearly always
    try:
        value = properties.header(header)
    except MalformedProperties:
        return None
    if isinstance(value, datetime):
        return value.timestamp()
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def wait_of(properties: Properties, now: float) -> float | None:
    """Return in how many seconds a workitem is to run; None for at once. It is `now` by this host's clock.

    A delay that was meant as one (the header WAIT: seconds that are left of it) ends after that time,
    whichever way the clock was set meanwhile or another host's differs; a workitem that had to wait for a
    worker as well is due by its time. Raises Unroutable for a time more than ten years ahead.
    """
    due = moment(properties, DUE)
    if due is None:
        return None
    if not due <= now + LONGEST_DELAY:
        raise Unroutable(
            f"{DUE} is {due:g}, more than ten years ahead; expected seconds since 1970, now {now:.0f}"
        )
    wait = moment(properties, WAIT)
    return due - now if wait is None or not wait < due - now else max(0.0, wait)


def with_wait(raw: bytes, seconds: float) -> bytes:
    """Return properties, as AMQP writes them, with what is left of a delay, if they have one."""
    if _WAIT not in raw:
        return raw
    properties = Properties.decode(raw)
    if moment(properties, WAIT) is None:
        return raw
    return properties.with_headers({WAIT: max(0.0, seconds)}).encode()


# RabbitMQ 4 drops, or dead-letters, a message at its 21st return unless the queue's argument or a policy
# says else (https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling). A connection that ends
# returns all that was not acknowledged on it, whoever is to blame. A queue that an earlier RabbitMQ has made,
# or somebody else, or that is a quorum queue because its virtual host says so, has that limit. So the process
# that takes a worn message publishes it anew and acknowledges the worn one: each copy is counted from zero.
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
