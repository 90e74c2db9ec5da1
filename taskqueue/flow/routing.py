"""The routing of steps: most go straight to the queue of their worker type, without a dispatcher."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from taskqueue.amqp.properties import Properties
from taskqueue.broker.events import EventPublisher
from taskqueue.broker.outbound import Outbound
from taskqueue.broker.publisher import Publication, PublishResult, Settled
from taskqueue.broker.topology import TASKQUEUE, worker_queue
from taskqueue.config import RecordSettings
from taskqueue.flow.outbox import Drawn
from taskqueue.messages.events import Routed
from taskqueue.messages.recording import head_of

_DEFAULT: Final = RecordSettings()
_PLAIN: Final = Properties()  # of a body that is not compressed


class Routing:
    """Publishes the workitems of steps.

    Dispatchers would cost as much as the step itself. They get the workitems on which they act: unique and
    delayed ones, those of types with lanes, and those whose type has no queue.
    """

    def __init__(
        self,
        outbound: Outbound,
        events: EventPublisher[Callable[[], None]],
        *,
        records: Mapping[str, RecordSettings],
        lanes: Mapping[str, int],
    ) -> None:
        """Publish with `outbound`.

        Args:
            outbound: the outbound path.
            events: tells of workitems that are not routed by a dispatcher.
            records: what events contain of bodies, by worker type; under "DEFAULT" for all other types.
            lanes: the number of lanes by worker type; under "DEFAULT" for all other types.
        """
        self._outbound, self._events = outbound, events
        self._records, self._lanes = records, lanes

    def publish(self, drawn: Drawn, settled: Settled, recorded: Callable[[], None]) -> bool:
        """Publish the workitem of a step, and tell of it while anybody records.

        settled -- called once; CONFIRMED, REFUSED or UNDECLARED
        recorded -- called once the event is recorded

        Returns whether there is an event.
        """
        if self._is_for_dispatchers(drawn):
            self._send(drawn, TASKQUEUE, settled)
            return False
        is_told = self._tell(drawn, recorded)
        self._send(drawn, worker_queue(drawn.worker_type), partial(self._published, drawn, settled))
        return is_told

    def _is_for_dispatchers(self, drawn: Drawn) -> bool:
        options = drawn.options
        has_lanes = self._lanes.get(drawn.worker_type, self._lanes.get("DEFAULT", 0))
        return bool(has_lanes or options.unique or options.delay)

    def _send(self, drawn: Drawn, queue: str, settled: Settled) -> None:
        """Publish a workitem. It is signed, so that its receipts are."""
        self._outbound.send(
            Publication(queue, drawn.properties, drawn.body, declares=queue == TASKQUEUE, is_signed=True),
            settled,
        )

    def _published(
        self, drawn: Drawn, settled: Settled, publication: Publication, result: PublishResult, reason: str
    ) -> None:
        if result is PublishResult.RETURNED:  # a dispatcher decides whether the queue may be declared
            self._send(drawn, TASKQUEUE, settled)
        else:
            settled(publication, result, reason)

    def _tell(self, drawn: Drawn, recorded: Callable[[], None]) -> bool:
        if not self._events.is_on:
            self._events.skip()
            return False
        kept = self._records.get(drawn.worker_type, self._records.get("DEFAULT", _DEFAULT))
        body, options = drawn.body, drawn.options
        head = head_of(_PLAIN, body, kept.body, kept.redact)
        tenant, labels = options.tenant or "", " ".join(options.tags or ())
        event = Routed(drawn.id, drawn.worker_type, time.time(), len(body), None, tenant, labels, head)
        return self._events.emit(event, recorded)
