"""Messages of other processes to the scheduler: ends of workitems, and schedules that plugins declare."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import MalformedProperties
from taskqueue.broker.publisher import Publication
from taskqueue.broker.topology import SCHEDULES
from taskqueue.messages.content import JSON
from taskqueue.messages.forwarding import moment
from taskqueue.messages.names import COMPLETION, SCHEDULE, TICK
from taskqueue.schedules.definition import NAME, Definition

#: The kinds of these messages in the scheduler's queue.
DEFINE: Final = "define"
OVER: Final = "over"

_LONGEST_TOKEN: Final = 100  # characters
_ASKED: Final = COMPLETION.encode()
_PROPERTIES: Final = Properties(content_type=JSON, delivery_mode=2).encode()


def completion_of(properties: Properties) -> Publication | None:
    """Return the completion of a workitem that is over; None if nobody asks for one.

    It belongs to the publications that are confirmed before the workitem is acknowledged. If it is returned,
    there is no scheduler.
    """
    table = properties.header_table
    if table is None or _ASKED not in table:
        return None
    try:
        schedule, token = properties.header(SCHEDULE), properties.header(COMPLETION)
    except MalformedProperties:
        return None
    tick = moment(properties, TICK)
    if not isinstance(schedule, str) or not NAME.match(schedule) or tick is None:
        return None
    if not isinstance(token, str) or len(token) > _LONGEST_TOKEN:
        return None
    ids = {"schedule": schedule, "workitem": properties.message_id or "", "tick": tick}
    message = {"kind": OVER, **ids, "token": token}
    return _to_scheduler(message)


def announcement(source: str, definitions: Iterable[Definition]) -> Publication:
    """Return the announcement of all schedules that a source defines; those that it had before are removed.

    source -- a host's configuration or plugin, in words
    """
    listed = [each.as_json() for each in definitions]
    message = {"kind": DEFINE, "source": source, "definitions": listed}
    return _to_scheduler(message, is_own=True)


def _to_scheduler(message: Mapping[str, Any], *, is_own: bool = False) -> Publication:
    body = json.dumps(message).encode()
    return Publication(SCHEDULES.name, _PROPERTIES, body, declares=False, is_signed=True, is_own=is_own)
