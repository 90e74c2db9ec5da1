"""Deliveries that are not applied yet, read when their round comes: a small body has many receipts."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from taskqueue.broker.subscription import Delivery
from taskqueue.flow.ledger import Incoming
from taskqueue.flow.shard_queue import ShardQueue

_MOST_MESSAGES, _MOST_RECEIPTS = 500, 1000  # in a round


class Pending(NamedTuple):
    """A delivery that is read, and its message; None if it is dropped."""

    queue: ShardQueue
    delivery: Delivery
    message: Incoming | None


class PendingMessages:
    """Deliveries in their order; those of a round that has failed are applied one by one."""

    def __init__(self, read: Callable[[ShardQueue, Delivery], Pending | None]) -> None:
        """Keep deliveries.

        read -- reads one; None if it is put aside
        """
        self._read = read
        self._unread: deque[tuple[ShardQueue, Delivery]] = deque()
        self._single: list[Pending] = []  # before those; they are applied one by one

    def __bool__(self) -> bool:
        return bool(self._unread or self._single)

    @property
    def is_single(self) -> bool:
        """Whether the next one is applied alone."""
        return bool(self._single)

    def add(self, queue: ShardQueue, delivery: Delivery) -> None:
        """Add a delivery."""
        self._unread.append((queue, delivery))

    def take(self) -> list[Pending]:
        """Read and take the messages of a round."""
        found: list[Pending] = []
        receipts = 0
        while self._unread and len(found) < _MOST_MESSAGES and receipts < _MOST_RECEIPTS:
            each = self._read(*self._unread.popleft())
            if each is not None:
                found.append(each)
                receipts += 0 if each.message is None else len(each.message.receipts)
        return found

    def take_one(self) -> Pending:
        """Take the next message that is applied alone."""
        return self._single.pop(0)

    def put_back(self, messages: Sequence[Pending]) -> None:
        """Put the messages of a round back, to be applied one by one."""
        self._single[:0] = messages

    def forget(self, queue: ShardQueue) -> None:
        """Forget the deliveries of a queue."""
        self._unread = deque(each for each in self._unread if each[0] is not queue)
        self._single = [each for each in self._single if each.queue is not queue]

    def clear(self) -> None:
        """Forget all deliveries."""
        self._unread.clear()
        self._single.clear()
