"""Short errands at the broker, one after the other over one channel.

A declaration that is refused closes its channel, so it must not go over one that is used for anything else.
And a broker may allow few channels on a connection (channel_max).
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from taskqueue.amqp.frames import NOT_FOUND
from taskqueue.broker.loop import EventLoop

if TYPE_CHECKING:
    from taskqueue.broker.session import Session


@dataclass(frozen=True, slots=True)
class Errand:
    """One request and what is done with the answer to it."""

    request: Callable[[Any, Callable[[Any], None]], Any]
    answered: Callable[[Any], None]
    refused: Callable[[int, str], None]


class Errands:
    """The errands of one session."""

    def __init__(self, loop: EventLoop, session: "Session") -> None:
        """Begin without a channel: it is opened for the first errand, and anew after a refusal."""
        self.epoch = 0  # counts the connections that were lost, and with them what was asked for
        self._loop = loop
        self._session = session
        self._waiting: deque[Errand] = deque()
        self._current: Errand | None = None
        self._channel: Any = None
        self._is_opening = False

    def run(
        self,
        request: Callable[[Any, Callable[[Any], None]], Any],
        answered: Callable[[Any], None],
        refused: Callable[[int, str], None],
    ) -> None:
        """Ask the broker for something when all that was asked for before is answered.

        The session must be up. Nothing is called once it is lost.

        request -- sends the request on a channel, with the callback that it is given
        answered -- takes the frame that answers
        refused -- takes code and text with which the broker closed the channel
        """
        self._waiting.append(Errand(request, answered, refused))
        self._go_on()

    def session_down(self) -> None:
        """Forget what was asked for; the session calls this."""
        self.epoch += 1
        self._waiting.clear()
        self._current = self._channel = None
        self._is_opening = False

    def _go_on(self) -> None:
        if self._current is not None or not self._waiting or self._is_opening:
            return
        if self._channel is None:
            self._is_opening = True
            self._session.channel(self._opened)
        elif self._channel.is_open:  # else the connection is being closed
            errand = self._current = self._waiting.popleft()
            errand.request(self._channel, self._loop.guard(lambda frame: self._answered(errand, frame)))

    def _opened(self, channel: Any) -> None:
        self._is_opening, self._channel = False, channel
        channel.add_on_close_callback(self._loop.guard(self._closed))
        self._go_on()

    def _answered(self, errand: Errand, frame: Any) -> None:
        if errand is self._current:
            self._current = None
            errand.answered(frame)
            self._go_on()

    def _closed(self, channel: Any, error: BaseException) -> None:
        if channel is not self._channel or not self._session.is_up:
            return
        errand, self._current, self._channel = self._current, None, None
        if errand is not None:
            errand.refused(getattr(error, "reply_code", 0), getattr(error, "reply_text", str(error)))
        self._go_on()


def count_messages(
    session: "Session", queue: str, *, done: Callable[[int], None], failed: Callable[[str], None]
) -> None:
    """Ask how many messages are ready to be delivered; a queue that is missing is not made, and has none.

    done -- takes the number
    failed -- takes the reason; neither is called once the session is lost
    """
    _ask(
        session,
        done,
        failed,
        lambda channel, reply: channel.queue_declare(queue, passive=True, callback=reply),
    )


def purge(
    session: "Session", queue: str, *, done: Callable[[int], None], failed: Callable[[str], None]
) -> None:
    """Remove all that waits in a queue; what was delivered and is not acknowledged stays.

    Arguments are those of `count_messages`.
    """
    _ask(session, done, failed, lambda channel, reply: channel.queue_purge(queue, callback=reply))


def delete(
    session: "Session", queue: str, *, done: Callable[[int], None], failed: Callable[[str], None]
) -> None:
    """Delete a queue with all that is in it. Arguments are those of `count_messages`."""
    _ask(session, done, failed, lambda channel, reply: channel.queue_delete(queue, callback=reply))


def _ask(
    session: "Session",
    done: Callable[[int], None],
    failed: Callable[[str], None],
    request: Callable[[Any, Callable[[Any], None]], Any],
) -> None:
    def refused(code: int, text: str) -> None:
        if code == NOT_FOUND:
            done(0)
        else:
            failed(text)

    session.errands.run(request, lambda frame: done(frame.method.message_count), refused)
