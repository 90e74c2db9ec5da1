"""Short requests to the broker, one after the other over one channel.

A refused declaration closes its channel, so these requests use a channel that carries nothing else.
One channel for all of them stays below channel_max.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from taskqueue.amqp.frames import NOT_FOUND
from taskqueue.broker.loop import EventLoop

if TYPE_CHECKING:
    from taskqueue.broker.session import Session


@dataclass(frozen=True, slots=True)
class Errand:
    """A request and the callbacks for its two possible answers."""

    request: Callable[[Any, Callable[[Any], None]], Any]
    answered: Callable[[Any], None]
    refused: Callable[[int, str], None]


class Errands:
    """The queue of requests of one session.

    Its channel is opened for the first request, and again after a refusal.
    """

    def __init__(self, loop: EventLoop, session: "Session") -> None:
        self.epoch = 0  # counts lost connections; each of them drops the open requests
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
        """Send a request to the broker, after all earlier ones are answered.

        The session must be up. If it is lost, neither callback is called.

        request -- sends the request on the given channel, with the given callback
        answered -- takes the frame of the answer
        refused -- takes the code and the text of the broker's channel.close
        """
        self._waiting.append(Errand(request, answered, refused))
        self._go_on()

    def session_down(self) -> None:
        """Drop all requests."""
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
    """Count the messages in a queue that are ready for delivery; a missing queue is not declared: 0.

    done -- takes the number
    failed -- takes the reason; if the session is lost, neither is called
    """
    measure(session, queue, done=lambda found: done(found.messages), failed=failed)


class QueueSize(NamedTuple):
    """The numbers of ready messages in a queue and of its consumers."""

    messages: int = 0
    consumers: int = 0


def measure(
    session: "Session",
    queue: str,
    *,
    done: Callable[[QueueSize], None],
    failed: Callable[[str], None],
) -> None:
    """Measure a queue; one that is missing is not declared, and has nothing.

    Arguments are those of `count_messages`, but done takes both numbers.
    """

    def measured(method: Any) -> None:
        done(QueueSize() if method is None else QueueSize(method.message_count, method.consumer_count))

    _ask(
        session,
        measured,
        failed,
        lambda channel, reply: channel.queue_declare(queue, passive=True, callback=reply),
    )


def exists(
    session: "Session", queue: str, *, done: Callable[[bool], None], failed: Callable[[str], None]
) -> None:
    """Tell whether a queue exists; one that is missing is not declared. See `count_messages`."""
    _ask(
        session,
        lambda method: done(method is not None),
        failed,
        lambda channel, reply: channel.queue_declare(queue, passive=True, callback=reply),
    )


def purge(
    session: "Session", queue: str, *, done: Callable[[int], None], failed: Callable[[str], None]
) -> None:
    """Remove all ready messages from a queue; unacknowledged deliveries stay.

    Arguments are those of `count_messages`.
    """
    _ask(session, _number(done), failed, lambda channel, reply: channel.queue_purge(queue, callback=reply))


def delete(
    session: "Session", queue: str, *, done: Callable[[int], None], failed: Callable[[str], None]
) -> None:
    """Delete a queue with its messages. Arguments are those of `count_messages`."""
    _ask(session, _number(done), failed, lambda channel, reply: channel.queue_delete(queue, callback=reply))


def _number(done: Callable[[int], None]) -> Callable[[Any], None]:
    return lambda method: done(0 if method is None else method.message_count)


def _ask(
    session: "Session",
    done: Callable[[Any], None],
    failed: Callable[[str], None],
    request: Callable[[Any, Callable[[Any], None]], Any],
) -> None:
    def refused(code: int, text: str) -> None:
        if code == NOT_FOUND:
            done(None)
        else:
            failed(text)

    session.errands.run(request, lambda frame: done(frame.method), refused)
