"""The properties of a forwarded message: which headers are kept, removed or set."""

import os
import random
import socket
import time
from datetime import UTC, datetime
from typing import Any, Final

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import MalformedProperties
from taskqueue.errors import LONGEST_DELAY, Unroutable
from taskqueue.messages.names import (
    CHAIN,
    COMPLETION,
    DEADLINE,
    DEBOUNCE,
    DEBOUNCED,
    DIRECT_REPLY,
    DUE,
    ENDED,
    HEADER,
    HOST,
    LABELS,
    LEASE,
    NOTIFY,
    ORIGINAL,
    PROOF,
    PUBLISHER,
    QUEUE,
    REASON,
    RUN,
    SCHEDULE,
    STEP,
    TENANT,
    TICK,
    UNIQUE,
    UNIQUE_FOR,
    WAIT,
    WORKFLOW,
)

#: The headers by which the end of a workitem goes on with its workflow or its chain.
OF_WORKFLOWS: Final = frozenset((WORKFLOW, STEP, RUN, PROOF, CHAIN))

#: The headers of ours that a producer may set.
_PRODUCERS: Final = frozenset(
    (
        *(DUE, WAIT, DEADLINE, NOTIFY, TENANT, LABELS, SCHEDULE, TICK, COMPLETION),
        *(UNIQUE, UNIQUE_FOR, DEBOUNCE, DEBOUNCED, *OF_WORKFLOWS),
    )
)
_PUBLISHER: Final = PUBLISHER.encode()
_WAIT: Final = WAIT.encode()


def is_untravelable(header: str) -> bool:
    """Tell whether a header must not be published again, nor be shown to a handler.

    CC and BCC would route copies. RabbitMQ before 4.0 takes a repeated x-death for a cycle and drops the
    message (https://www.rabbitmq.com/docs/dlx#automatic-dead-letter-cycles). Each queue counts its own
    deliveries in a header. A lease ends with its message.
    """
    return header in _UNTRAVELABLE or header.startswith(("x-death", "x-first-death-", "x-last-death-"))


_UNTRAVELABLE: Final = frozenset(("CC", "BCC", "x-delivery-count", "x-acquired-count", LEASE))


def _is_taken_out(header: str) -> bool:
    """Tell whether a producer's header is removed: most headers of ours may not be set by a producer."""
    is_ours = header.startswith(HEADER) and header not in _PRODUCERS
    return (is_ours and header != PUBLISHER) or is_untravelable(header)


def attributed(properties: Properties, login: str) -> Properties:
    """Return properties with the header that names the publisher, if the broker has verified the name.

    The broker accepts a message with the property user_id only from that user
    (https://www.rabbitmq.com/docs/validated-user-id). So the header counts if user_id is our own login, which
    we forward under; otherwise user_id is the publisher. Without a user_id the header is dropped.

    login -- our login at the broker
    """
    table, user = properties.header_table, properties.user_id
    claims = table is not None and _PUBLISHER in table
    if (user is None and not claims) or (claims and user == login):
        return properties
    return properties.with_headers({PUBLISHER: user or None}).replace(
        user_id=(login or None) if user else None
    )


def login_of(properties: Properties) -> str | None:
    """Return the user_id that our properties keep: our login, which vouches for the publisher's name."""
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
    """Return the properties of a routed workitem; the same object if nothing changes.

    Args:
        properties: as received.
        worker_type: its worker type.
        content_type: the content type of the new body; None: unchanged.
        login: our login at the broker.
        is_cluster: whether the broker may lose a queue while connections stay up.
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
    """Tell whether a message is transient and its direct reply would end with the broker, too."""
    return properties.delivery_mode == 1 and (properties.reply_to or "").startswith(DIRECT_REPLY)


def rejected(properties: Properties, reason: str, queue: str, login: str = "") -> Properties:
    """Return the properties of a rejected message; the original ones are in a header.

    login -- our login at the broker
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


_random: Final = random.Random()  # noqa: S311 -- not secret; urandom would cost a system call each
os.register_at_fork(after_in_child=_random.seed)


def new_id() -> str:
    """Return a random id for a message without one."""
    return f"{_random.getrandbits(128):032x}"


def moment(properties: Properties, header: str) -> float | None:
    """Return a header that is a time in seconds since 1970; None if it is absent or no time."""
    if properties.header_table is None:
        return None  # the most frequent case
    try:
        value = properties.header(header)
    except MalformedProperties:
        return None
    if isinstance(value, datetime):
        return value.timestamp()
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def wait_of(properties: Properties, now: float) -> float | None:
    """Return the seconds until a workitem is due; None: at once. `now` is this host's time.

    A delay (the header WAIT: its remaining seconds) does not depend on the clocks of hosts; a workitem that
    also waited for a worker is due by its time. Raises Unroutable for a time more than ten years ahead.
    """
    due = moment(properties, DUE)
    if due is None:
        return None
    if not due <= now + LONGEST_DELAY:
        raise Unroutable(
            f"{DUE} is {_shown(due)}, more than ten years ahead; expected seconds since 1970, now {now:.0f}"
        )
    wait = moment(properties, WAIT)
    return due - now if wait is None or not wait < due - now else max(0.0, wait)


def _shown(seconds: float) -> str:
    """Return a time in seconds since 1970, with its date if it has one."""
    number = f"{seconds:.15g}"
    try:
        return f"{number} ({datetime.fromtimestamp(seconds, UTC).isoformat(timespec='seconds')})"
    except (ValueError, OverflowError, OSError):  # NaN, or after the year 9999
        return number


def with_wait(raw: bytes, seconds: float) -> bytes:
    """Return encoded properties with the remaining seconds of a delay, if they have a delay."""
    if _WAIT not in raw:
        return raw
    properties = Properties.decode(raw)
    if moment(properties, WAIT) is None:
        return raw
    return properties.with_headers({WAIT: max(0.0, seconds)}).encode()


# By default RabbitMQ 4 drops, or dead-letters, a message at its 21st return; a queue argument or a policy can
# change that (https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling). A connection that ends
# returns all its unacknowledged deliveries, whatever the cause. Queues that an earlier RabbitMQ or another
# client declared, or that are quorum queues by their virtual host's default, have that limit. So the receiver
# of a message near that limit publishes it again and acknowledges the old one: copies start at zero.
MOST_DELIVERIES: Final = 10  # half of RabbitMQ 4's limit
_DELIVERIES: Final = "x-delivery-count"  # number of earlier deliveries by a quorum queue


def is_near_delivery_limit(properties: Properties) -> bool:
    """Return whether a message has had MOST_DELIVERIES earlier deliveries."""
    try:
        count = properties.header(_DELIVERIES) if properties.header_table else None
    except MalformedProperties:
        return False
    return isinstance(count, int) and count >= MOST_DELIVERIES


def renewed(properties: Properties, login: str) -> Properties:
    """Return the properties of a message near the limit that is published to the same queue again.

    login -- our login at the broker
    """
    kept = attributed(properties, login).with_headers({}, is_untravelable)
    return kept.replace(delivery_mode=2, user_id=login_of(kept))
