"""The next workitem of a chain, which is published instead of a result."""

import time
from typing import Final

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import MalformedProperties
from taskqueue.broker.publisher import Publication
from taskqueue.broker.topology import TASKQUEUE
from taskqueue.errors import Unroutable
from taskqueue.messages import names
from taskqueue.messages.content import JSON
from taskqueue.messages.forwarding import login_of
from taskqueue.messages.results import Failure
from taskqueue.unique.wire import Result
from taskqueue.workflows.chains import Link
from taskqueue.workflows.passing import Failed, explained, passed_on
from taskqueue.workflows.wire import value_of

_MARK: Final = names.CHAIN.encode()


def following(properties: Properties, result: Result) -> Publication | Failure | None:
    """Return the workitem that follows one of a chain which has succeeded.

    properties -- of the one that has succeeded
    result -- its result

    Returns why nothing can follow, if the chain fails; None if the workitem is the last, or of no chain.
    """
    table = properties.header_table
    if table is None or _MARK not in table:
        return None  # the most frequent case
    try:
        header = properties.header(names.CHAIN)
        return None if header is None else _next(properties, Link.decode(header), result)
    except Failed as error:
        return Failure("Error", str(error))
    except (ValueError, TypeError, KeyError, Unroutable, MalformedProperties) as error:
        return Failure("BadWorkflow", f"{names.CHAIN}: {error}")


def _next(properties: Properties, chain: Link, result: Result) -> Publication | Failure:
    try:
        text = passed_on(result.content_type, result.body)
    except ValueError:
        return Failure("ResultUnwritable", explained(len(result.body)))
    type_, body, options = chain.next_call(value_of(text.encode()), chain.next_id)
    kept = {names.CHAIN: chain.rest(), names.NOTIFY: properties.header(names.NOTIFY)}
    publisher = properties.header(names.PUBLISHER) if login_of(properties) else None
    own = Properties(
        content_type=JSON,
        delivery_mode=2,
        correlation_id=properties.correlation_id or properties.message_id,
        message_id=chain.next_id,
        reply_to=properties.reply_to,
        timestamp=int(time.time()),
        type=type_,
        user_id=login_of(properties),
    ).with_headers({**kept, names.PUBLISHER: publisher})
    return Publication(TASKQUEUE, options.marked(own.encode()), body)
