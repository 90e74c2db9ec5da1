"""Which workitems a consumer has in hand, so that one that is delivered again is recognised."""

import time
from collections.abc import Callable, Iterator
from typing import Final

from taskqueue.amqp.properties import Properties
from taskqueue.broker.subscription import Delivery
from taskqueue.config import GroupSettings
from taskqueue.consumer.assignment import Assignment, header_of
from taskqueue.consumer.notices import are_wanted
from taskqueue.messages import names
from taskqueue.messages.forwarding import new_id

_Content = tuple[Properties, int, int]

_REMEMBERED: Final = 10_000  # finished workitems whose delivery was lost before it was acknowledged
#: Seconds that they are remembered: somebody else may have got what was delivered again, and a producer who
#: uses his ids again would find his new workitem taken for the old one.
_MEMORY: Final = 600.0


class InFlightTable:
    """The open assignments of a consumer, and the ids of finished ones that will be delivered again.

    After a lost connection the broker delivers again all that was not acknowledged, here or to another
    consumer. What we are still working on is adopted: it gets the new delivery and does not run twice.
    """

    def __init__(self, comes_again: Callable[[Assignment], bool]) -> None:
        """Begin with nothing in hand; `comes_again` tells whether the broker may deliver one once more."""
        self._comes_again = comes_again
        self._count = 0
        self._open: dict[int, Assignment] = {}
        self._by_id: dict[str, Assignment] = {}
        self._finished: dict[str, tuple[_Content, float]] = {}  # and when (monotonic), in that order

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Assignment]:
        return iter(self._open.values())

    def find(self, workitem: str) -> Assignment | None:
        """Return the open assignment of a workitem, if there is one."""
        return self._by_id.get(workitem)

    def enter(self, group: GroupSettings, delivery: Delivery, properties: Properties) -> Assignment:
        """Open an assignment for a delivery; give the workitem an id if it has none.

        group -- what holds for workitems of the worker type whose queue it came from
        """
        raw, workitem = delivery.properties, properties.message_id
        if not workitem:
            workitem = new_id()
            properties = properties.replace(message_id=workitem)
            raw = properties.encode()
        self._count += 1
        assignment = Assignment(self._count, workitem, group, delivery, properties, raw)
        if properties.header_table is not None:
            assignment.is_followed = are_wanted(properties)
        self._open[assignment.number] = self._by_id[workitem] = assignment
        return assignment

    def adopt(self, delivery: Delivery, properties: Properties) -> Assignment | None:
        """Give a delivery that has come before to the open assignment that lost its own, if there is one.

        One that is leased is delivered again when its lease was lost, or when the broker did not get the
        acknowledgement of the delivery that was leased.
        """
        known = self._by_id.get(properties.message_id or "")
        if known is None or (known.lease is None and not self._comes_again(known)):
            return None
        if _content(known.properties, known.body) != _content(properties, delivery.body):
            return None
        known.delivery, known.delivered = delivery, time.monotonic()
        return known

    def is_superfluous(self, delivery: Delivery, properties: Properties) -> bool:
        """Tell whether a delivery that has come before needs no run.

        It may be one more copy of a lost lease, or of what was finished here.
        What was finished under a delivery that was lost is known once, and for some minutes.
        """
        workitem = properties.message_id or ""
        known = self._by_id.get(workitem)
        if known is not None and header_of(properties, names.LEASE) is not None:
            return _content(known.properties, known.body) == _content(properties, delivery.body)
        if workitem not in self._finished:
            return False
        content, finished = self._finished[workitem]
        if content != _content(properties, delivery.body) or time.monotonic() - finished > _MEMORY:
            return False
        del self._finished[workitem]
        return True

    def close(self, assignment: Assignment) -> None:
        """Note that an assignment came to its end; it is known once more if it comes again."""
        self.drop(assignment)
        if self._comes_again(assignment):
            content = _content(assignment.properties, assignment.body)
            self._finished[assignment.id] = content, time.monotonic()
            if len(self._finished) > _REMEMBERED:
                del self._finished[next(iter(self._finished))]

    def drop(self, assignment: Assignment) -> None:
        """Forget an assignment: somebody else will have the workitem."""
        self._open.pop(assignment.number, None)
        if self._by_id.get(assignment.id) is assignment:
            del self._by_id[assignment.id]


def has_come_before(delivery: Delivery, properties: Properties) -> bool:
    """Tell whether a workitem may have been delivered before, here or elsewhere: it says so itself."""
    if delivery.redelivered:
        return True
    return properties.header_table is not None and header_of(properties, names.LEASE) is not None


def _content(properties: Properties, body: bytes) -> _Content:
    """Tell workitems under one id apart.

    Without the headers, where a quorum queue counts its deliveries, and what a lease cannot keep.
    """
    kept = properties.replace(header_table=None, delivery_mode=None, user_id=None, expiration=None)
    return kept, len(body), hash(body)
