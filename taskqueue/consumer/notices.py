"""Notices to callers about their running calls: JSON-RPC notifications to the reply's address.

Only who asks for it by a header is told. A notice that is lost does no harm: the reply is what counts.
"""

import math
from functools import lru_cache
from typing import Any, Final

from taskqueue.amqp.properties import Form, Properties
from taskqueue.amqp.tables import as_bytes, short_string_pieces
from taskqueue.broker.publisher import Publication, Publisher, PublishResult
from taskqueue.broker.topology import is_ours, is_text
from taskqueue.consumer.assignment import Assignment, header_of
from taskqueue.messages import jsonrpc, names
from taskqueue.messages.content import JSON
from taskqueue.messages.results import HOST
from taskqueue.texts import shorten

_EXPIRATION: Final = "60000"  # milliseconds that a notice waits for a caller who is away
_LONGEST_TEXT: Final = 500  # characters


class Notices:
    """Publishes notices; nobody waits for their confirms."""

    def __init__(self, publisher: Publisher) -> None:
        """Publish with `publisher`, and not at all while it cannot."""
        self._publisher = publisher

    def started(self, assignment: Assignment, worker: str) -> None:
        """Tell that a worker has begun."""
        if assignment.is_followed:
            self._tell(assignment, "started", attempt=assignment.attempt, host=HOST, worker=worker)

    def progress(self, assignment: Assignment, fraction: float, text: str) -> None:
        """Tell how far the worker is."""
        if assignment.is_followed:
            share = min(max(fraction, 0.0), 1.0) if math.isfinite(fraction) else 0.0
            self._tell(assignment, "progress", fraction=share, text=shorten(text, _LONGEST_TEXT))

    def retrying(self, assignment: Assignment, delay: float, error: str) -> None:
        """Tell that it runs again in `delay` seconds, and why."""
        if assignment.is_followed:
            text = shorten(error, _LONGEST_TEXT)
            pause = delay if math.isfinite(delay) else 0.0
            self._tell(assignment, "retrying", attempt=assignment.attempt + 1, delay=pause, error=text)

    def finished(self, assignment: Assignment, status: str) -> None:
        """Tell that nothing more is done, a moment before the reply."""
        if assignment.is_followed:
            self._tell(assignment, "finished", status=status)

    def _tell(self, assignment: Assignment, what: str, **params: Any) -> None:
        if not self._publisher.is_ready:
            return
        if assignment.notice is not None and assignment.notice.is_suspect:
            assignment.is_followed = (
                False  # perhaps it was for this one that the broker closed the connection
            )
            return
        asked = assignment.properties
        call = asked.correlation_id or assignment.id
        own = as_bytes(call)
        properties = _form(len(own)).encode(own)
        body = jsonrpc.request(what, {"id": call, **params}, None)
        queue = asked.reply_to or ""
        assignment.notice = Publication(queue, properties, body, _forget, mandatory=False)
        self._publisher.publish(assignment.notice)


def are_wanted(asked: Properties) -> bool:
    """Tell whether whoever sent a workitem under these properties wants to be told."""
    if not asked.reply_to or header_of(asked, names.NOTIFY) is not True:
        return False
    return not is_ours(asked.reply_to) and is_text(asked.reply_to)


@lru_cache(maxsize=256)
def _form(size: int) -> Form:
    """Return what the properties of notices have in common; `size` is that of the call's id."""
    fixed = Properties(content_type=JSON, delivery_mode=1, expiration=_EXPIRATION)
    return Form(fixed, {"correlation_id": short_string_pieces(size)})


def _forget(_publication: Publication, _fate: PublishResult, _reason: str) -> None:
    pass
