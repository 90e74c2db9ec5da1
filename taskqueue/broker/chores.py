"""Small chores with one queue: counting what waits in it, emptying it, deleting it."""

from collections.abc import Callable
from typing import Any, Final

from taskqueue.broker.loop import EventLoop
from taskqueue.broker.session import Session

_NOT_FOUND: Final = 404
_CLOSED_BY_US: Final = (0, 200)  # as the versions of pika have it


class Depth:
    """Asks once how many messages wait, on a channel that is thrown away; makes no queue that is missing."""

    def __init__(
        self,
        loop: EventLoop,
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
        self._loop = loop
        self._session = session
        self._queue = queue
        self._done = done
        self._failed = failed
        session.channel(self._begin)

    def _begin(self, channel: Any) -> None:
        guard = self._loop.guard
        channel.add_on_close_callback(guard(self._refused))
        self._ask(channel, guard(lambda frame: self._answered(channel, frame)))

    def _ask(self, channel: Any, answered: Callable[[Any], None]) -> None:
        channel.queue_declare(self._queue, passive=True, callback=answered)

    def _answered(self, channel: Any, frame: Any) -> None:
        if channel.is_open:  # or the connection is being closed, and does it
            channel.close()
        self._done(frame.method.message_count)

    def _refused(self, _channel: Any, error: BaseException) -> None:
        code, text = getattr(error, "reply_code", 0), getattr(error, "reply_text", str(error))
        if code in _CLOSED_BY_US or not self._session.is_up:
            return
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
