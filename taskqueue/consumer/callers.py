"""Notices to callers, and cancellations from them.

A notice is a JSON-RPC notification to the call's reply_to, sent if a header asks for it. A lost notice does
no harm: only the reply counts.
"""

import math
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from taskqueue.amqp.properties import Form, Properties
from taskqueue.amqp.tables import MalformedProperties, as_bytes, short_string_pieces
from taskqueue.broker.broadcast import BroadcastConsumer
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.publisher import Publication, Publisher
from taskqueue.broker.session import Session
from taskqueue.broker.topology import CANCEL
from taskqueue.consumer.in_flight import Assignment
from taskqueue.messages import jsonrpc
from taskqueue.messages.content import JSON
from taskqueue.messages.names import TENANT
from taskqueue.messages.recording import tenant_and_labels
from taskqueue.messages.results import HOST
from taskqueue.texts import shorten

_REMEMBERED: Final = 10_000
_REMEMBERED_TIME: Final = 24 * 3600.0  # seconds


class Cancellations:
    """Receives cancellations, and remembers those of workitems that have not been delivered here yet."""

    def __init__(
        self,
        loop: EventLoop,
        session: Session,
        *,
        on_cancel: Callable[[str, str | None], bool],
        on_subscribed: Callable[[], None],
    ) -> None:
        """Receive cancellations over `session`.

        on_cancel -- takes a workitem's id, and its tenant, None for any; returns whether it is in flight here
        on_subscribed -- called once cancellations are received
        """
        self._on_cancel = on_cancel
        #: When each was received (monotonic), the oldest first, by id and tenant.
        self._known: dict[tuple[str, str | None], float] = {}
        self._listener = BroadcastConsumer(
            loop, session, CANCEL, on_message=self._on_message, on_settled=on_subscribed
        )

    @property
    def is_subscribed(self) -> bool:
        """Whether this process receives all cancellations that the broker lets it receive."""
        return self._listener.is_settled

    def pop(self, workitem: str, properties: Properties) -> bool:
        """Return whether a workitem is cancelled, and forget the cancellation: it is needed once."""
        if not self._known:
            return False
        tenant, _ = tenant_and_labels(properties)
        found = [self._known.pop((workitem, each), None) for each in (tenant, None)]
        return any(at is not None for at in found)

    def _on_message(self, raw: bytes, _body: bytes) -> None:
        try:
            properties = Properties.decode(raw)
            workitem, tenant = properties.correlation_id, properties.header(TENANT)
        except MalformedProperties:
            return
        if not workitem or not isinstance(tenant, str | None) or self._on_cancel(workitem, tenant):
            return
        now, known = time.monotonic(), self._known
        known.pop((workitem, tenant), None)
        known[workitem, tenant] = now
        while len(known) > _REMEMBERED or next(iter(known.values())) < now - _REMEMBERED_TIME:
            del known[next(iter(known))]


_EXPIRATION: Final = "60000"  # milliseconds that a notice waits in the queue of an absent caller
_LONGEST_TEXT: Final = 500  # characters


class Notices:
    """Publishes notices, without waiting for their confirms."""

    def __init__(self, publisher: Publisher) -> None:
        """Publish with `publisher`; while it is not ready, notices are dropped."""
        self._publisher = publisher

    def started(self, assignment: Assignment, worker: str) -> None:
        """Notify the caller that a worker has begun the workitem."""
        if assignment.wants_notices:
            self._notify(assignment, "started", attempt=assignment.attempt, host=HOST, worker=worker)

    def progress(self, assignment: Assignment, fraction: float, text: str) -> None:
        """Notify the caller of the worker's progress."""
        if assignment.wants_notices:
            share = min(max(fraction, 0.0), 1.0) if math.isfinite(fraction) else 0.0
            self._notify(assignment, "progress", fraction=share, text=shorten(text, _LONGEST_TEXT))

    def retrying(self, assignment: Assignment, delay: float, error: str) -> None:
        """Notify the caller that the workitem runs again in `delay` seconds, and why."""
        if assignment.wants_notices:
            text = shorten(error, _LONGEST_TEXT)
            pause = delay if math.isfinite(delay) else 0.0
            self._notify(assignment, "retrying", attempt=assignment.attempt + 1, delay=pause, error=text)

    def finished(self, assignment: Assignment, status: str) -> None:
        """Notify the caller that the workitem is finished, just before the reply."""
        if assignment.wants_notices:
            self._notify(assignment, "finished", status=status)

    def _notify(self, assignment: Assignment, what: str, **params: Any) -> None:
        if not self._publisher.is_ready:
            return
        if assignment.notice is not None and assignment.notice.is_suspect:
            assignment.wants_notices = False  # the broker may have closed the connection because of it
            return
        asked = assignment.properties
        call = asked.correlation_id or assignment.id
        own = as_bytes(call)
        properties = _form(len(own)).encode(own)
        body = jsonrpc.request(what, {"id": call, **params}, None)
        queue = asked.reply_to or ""
        assignment.notice = Publication(queue, properties, body, mandatory=False)
        self._publisher.publish(assignment.notice)


@lru_cache(maxsize=256)
def _form(size: int) -> Form:
    """Return the common form of the properties of notices; `size` is the length of the call's id in bytes."""
    fixed = Properties(content_type=JSON, delivery_mode=1, expiration=_EXPIRATION)
    return Form(fixed, {"correlation_id": short_string_pieces(size)})
