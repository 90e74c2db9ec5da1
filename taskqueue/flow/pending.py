"""Messages that are not applied yet."""

from collections.abc import Sequence
from typing import NamedTuple

from taskqueue.broker.subscription import Delivery
from taskqueue.flow.ledger import Incoming
from taskqueue.flow.shard_queue import ShardQueue

_MOST_MESSAGES, _MOST_RECEIPTS = 500, 1000  # in a round


class Pending(NamedTuple):
    """A delivery that is not applied, and its message; None if it is dropped."""

    queue: ShardQueue
    delivery: Delivery
    message: Incoming | None


class PendingMessages:
    """Messages in the order of their delivery; those of a round that has failed are applied one by one."""

    def __init__(self) -> None:
        self._messages: list[Pending] = []
        self._singly = 0  # number of them, from the first, that are applied one by one

    def __bool__(self) -> bool:
        return bool(self._messages)

    @property
    def is_single(self) -> bool:
        """Whether the next one is applied alone."""
        return self._singly > 0

    def add(self, message: Pending) -> None:
        """Add a message."""
        self._messages.append(message)

    def take(self) -> list[Pending]:
        """Take the messages of a round."""
        taken = receipts = 0
        for each in self._messages[:_MOST_MESSAGES]:
            if receipts > _MOST_RECEIPTS:
                break
            taken += 1
            receipts += 0 if each.message is None else len(each.message.receipts)
        found, self._messages = self._messages[:taken], self._messages[taken:]
        return found

    def take_one(self) -> Pending:
        """Take the next message."""
        self._singly -= 1
        return self._messages.pop(0)

    def put_back(self, messages: Sequence[Pending]) -> None:
        """Put the messages of a round back, to be applied one by one."""
        self._messages[:0], self._singly = messages, len(messages)

    def forget(self, queue: ShardQueue) -> None:
        """Forget the messages of a queue."""
        self._singly = sum(each.queue is not queue for each in self._messages[: self._singly])
        self._messages = [each for each in self._messages if each.queue is not queue]

    def clear(self) -> None:
        """Forget all messages."""
        self._messages.clear()
        self._singly = 0
