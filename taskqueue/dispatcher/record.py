"""The dispatcher's events: which workitems it has routed, and which messages it has rejected."""

import time
from collections.abc import Callable, Mapping
from typing import Final, Generic, TypeVar

from taskqueue.amqp.properties import Properties
from taskqueue.broker.events import EventPublisher
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.outbound import Outbound
from taskqueue.broker.session import Session
from taskqueue.config import RecordSettings
from taskqueue.messages.events import CANCELLED, Ended, Rejected, Routed
from taskqueue.messages.forwarding import new_id
from taskqueue.messages.recording import head_of, tenant_and_labels
from taskqueue.messages.states import DUPLICATE_OF
from taskqueue.texts import shorten

T = TypeVar("T")

_DEFAULT: Final = RecordSettings()


class DispatchRecord(Generic[T]):
    """Makes events of what the dispatcher does with messages, while anybody records them."""

    def __init__(
        self,
        loop: EventLoop,
        session: Session,
        outbound: Outbound,
        settings: Mapping[str, RecordSettings],
        on_recorded: Callable[[T], None],
    ) -> None:
        """Publish with `outbound`, whose session is `session`.

        settings -- what events contain of bodies, by worker type; under "DEFAULT" for all other types
        on_recorded -- takes what was waiting for an event, once it need not wait any more
        """
        self.publisher = EventPublisher[T](loop, session, outbound, "dispatcher")
        self.publisher.on_recorded = on_recorded
        self._settings = settings
        self._default = settings.get("DEFAULT", _DEFAULT)

    def routed(
        self,
        worker_type: str,
        properties: Properties,
        body: bytes,
        wait: float | None,
        waiting: T,
    ) -> bool:
        """Tell that a workitem is published to its type's queue; return whether `waiting` waits for it.

        wait -- seconds until it is due; None: now
        """
        events = self.publisher
        if not events.is_on:
            events.skip()
            return False
        now = time.time()
        due = None if wait is None else now + wait
        kept = self._settings.get(worker_type, self._default)
        head = head_of(properties, body, kept.body, kept.redact)
        tenant, labels = tenant_and_labels(properties)
        workitem = properties.message_id or ""
        return events.emit(Routed(workitem, worker_type, now, len(body), due, tenant, labels, head), waiting)

    def duplicate(self, worker_type: str, properties: Properties, first: str, waiting: T) -> bool:
        """Tell that a workitem is not run, as another one is; return whether `waiting` waits for the event.

        first -- the id of the other one
        """
        if not self.publisher.is_on:
            self.publisher.skip()
            return False
        tenant, labels = tenant_and_labels(properties)
        ended = Ended(properties.message_id or "", worker_type, 0, CANCELLED, CANCELLED, time.time())
        return self.publisher.emit(
            ended._replace(queued=ended.ended, error=DUPLICATE_OF + first, tenant=tenant, labels=labels),
            waiting,
        )

    def rejected(self, workitem: str, properties: Properties, body: bytes, reason: str, waiting: T) -> bool:
        """Tell that a message is put into the rejected queue; return whether `waiting` waits for it."""
        if not self.publisher.is_on:
            self.publisher.skip()
            return False
        worker_type = properties.type or ""
        kept = self._settings.get(worker_type, self._default)
        head = head_of(properties, body, kept.body, kept.redact)
        tenant, labels = tenant_and_labels(properties)
        size, text = len(body), shorten(reason, 2000)
        event = Rejected(workitem or new_id(), worker_type, time.time(), text, size, tenant, labels, head)
        return self.publisher.emit(event, waiting)
