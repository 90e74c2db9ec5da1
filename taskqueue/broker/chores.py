"""Small chores with one queue: counting what waits in it, emptying it, deleting it."""

from collections.abc import Callable
from typing import Any, Final

from taskqueue.broker.session import Session

_NOT_FOUND: Final = 404


class Depth:
    """Asks once how many messages wait; makes no queue that is missing."""

    def __init__(
        self,
        session: Session,
        queue: str,
        *,
        done: Callable[[int], None],
        failed: Callable[[str], None],
    ) -> None:
        """Begin; one of `done` and `failed` (with the reason) is called, unless the session ends.

        done -- takes the number of messages that are ready to be delivered, or were until they were removed;
            0 where there is no such queue
        """
        self._queue = queue
        self._done = done
        self._failed = failed
        session.errands.run(self._ask, lambda frame: done(frame.method.message_count), self._refused)

    def _ask(self, channel: Any, answered: Callable[[Any], None]) -> None:
        channel.queue_declare(self._queue, passive=True, callback=answered)

    def _refused(self, code: int, text: str) -> None:
        if code == _NOT_FOUND:
            self._done(0)
        else:
            self._failed(text)


class Purge(Depth):
    """Removes, once, all that waits in a queue; what was delivered and is not acknowledged stays."""

    def _ask(self, channel: Any, answered: Callable[[Any], None]) -> None:
        channel.queue_purge(self._queue, callback=answered)


class Deletion(Depth):
    """Deletes a queue with all that is in it."""

    def _ask(self, channel: Any, answered: Callable[[Any], None]) -> None:
        channel.queue_delete(self._queue, callback=answered)
