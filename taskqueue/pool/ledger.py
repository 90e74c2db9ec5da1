"""Which workitems a consumer has in hand, so that one that is delivered again is recognised."""

from collections.abc import Callable
from typing import Final

from taskqueue import workitem as words
from taskqueue.broker.subscription import Delivery
from taskqueue.pool.assignment import Assignment
from taskqueue.properties import Properties

_Content = tuple[Properties, int, int]

_REMEMBERED: Final = 10_000  # finished workitems whose delivery was lost before it was acknowledged


class Ledger:
    """The open assignments of a consumer, and the ids of finished ones that will be delivered again.

    After a lost connection the broker delivers again all that was not acknowledged, here or to another
    consumer. What we are still working on is adopted: it gets the new delivery and does not run twice.
    """

    def __init__(self, worker_type: str, is_current: Callable[[Delivery], bool]) -> None:
        """Begin with nothing in hand; `is_current` tells whether a delivery can still be acknowledged."""
        self._worker_type = worker_type
        self._is_current = is_current
        self._count = 0
        self._open: dict[int, Assignment] = {}
        self._by_id: dict[str, Assignment] = {}
        self._finished: dict[str, _Content] = {}  # in the order they finished

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, delivery: Delivery, properties: Properties) -> Assignment:
        """Open an assignment for a delivery; give the workitem an id if it has none."""
        if not properties.message_id:
            properties = properties.replace(message_id=words.new_id())
        self._count += 1
        assignment = Assignment(self._count, self._worker_type, delivery, properties)
        self._open[assignment.number] = self._by_id[assignment.id] = assignment
        return assignment

    def adopt(self, delivery: Delivery, properties: Properties) -> bool:
        """Give a delivery to the open assignment of the same workitem, if there is one that lost its own."""
        known = self._by_id.get(properties.message_id or "")
        if known is None or not delivery.redelivered or self._is_current(known.delivery):
            return False
        if _content(known.properties, known.body) != _content(properties, delivery.body):
            return False
        known.delivery = delivery
        return True

    def has_finished(self, delivery: Delivery, properties: Properties) -> bool:
        """Tell, once, whether a workitem that is delivered again was finished under its lost delivery."""
        workitem = properties.message_id or ""
        if not delivery.redelivered or workitem not in self._finished:
            return False
        if self._finished[workitem] != _content(properties, delivery.body):
            return False
        del self._finished[workitem]
        return True

    def close(self, assignment: Assignment) -> bool:
        """Note that an assignment came to its end; tell whether its delivery can be acknowledged now."""
        self.drop(assignment)
        if self._is_current(assignment.delivery):
            return True
        self._finished[assignment.id] = _content(assignment.properties, assignment.body)
        if len(self._finished) > _REMEMBERED:
            del self._finished[next(iter(self._finished))]
        return False

    def drop(self, assignment: Assignment) -> None:
        """Forget an assignment: somebody else will have the workitem."""
        self._open.pop(assignment.number, None)
        if self._by_id.get(assignment.id) is assignment:
            del self._by_id[assignment.id]


def _content(properties: Properties, body: bytes) -> _Content:
    """Tell workitems under one id apart; without the headers, where a quorum queue counts its deliveries."""
    return properties.replace(header_table=None), len(body), hash(body)
