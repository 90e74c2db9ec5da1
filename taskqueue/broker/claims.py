"""Messages to the keeper of claims on keys of unique work."""

from typing import Final

from taskqueue.amqp.properties import Properties
from taskqueue.broker.publisher import Publication
from taskqueue.broker.topology import CLAIMS
from taskqueue.messages.content import JSON
from taskqueue.unique import wire
from taskqueue.unique.headers import scope_in, token_in

_PROPERTIES: Final = Properties(content_type=JSON, delivery_mode=2).encode()


def to_log(body: bytes) -> Publication:
    """Return a message for the log of claims. If it is returned, no keeper has ever run."""
    return Publication(CLAIMS.name, _PROPERTIES, body, declares=False, is_signed=True)


def end_of(properties: Properties, worker_type: str, at: float, result: wire.Result) -> Publication | None:
    """Return that a workitem is over, for the keeper; None if the workitem is not unique.

    It belongs to the publications that are confirmed before the workitem is acknowledged.

    Args:
        properties: of the workitem, as its dispatcher has published it.
        worker_type: its worker type.
        at: when it was over, in seconds since 1970.
        result: its result, for the callers of its duplicates.
    """
    scope = scope_in(properties, worker_type)
    if scope is None:
        return None
    token = token_in(properties)
    return to_log(wire.encode_end(scope, properties.message_id or "", at, result, token=token))
