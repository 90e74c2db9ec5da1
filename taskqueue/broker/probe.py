"""Questions to a broker that change nothing there: sizes of queues, rights of the user, alarms.

A right is seen by a request that the broker refuses in any case: with ACCESS_REFUSED to a user without the
right, which it checks first, and else for a wrong argument.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from taskqueue.amqp.frames import NOT_FOUND
from taskqueue.amqp.properties import Properties
from taskqueue.broker.errands import QueueSize
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.session import Session, SessionListener
from taskqueue.errors import BrokerUnavailable

if TYPE_CHECKING:
    from taskqueue.config import AmqpSettings

CONFIGURE, WRITE, READ = "configure", "write", "read"  # the rights of RabbitMQ's users
#: The names by which RabbitMQ knows the default exchange, and queues that it has named.
DEFAULT_EXCHANGE: Final = "amq.default"
SERVER_NAMED: Final = "amq.gen-"

_TIMEOUT: Final = 10.0  # seconds for the answers to all questions of a kind
_ACCESS_REFUSED: Final = 403  # AMQP 0-9-1, section 1.1
#: No queue can expire at once (x-expires), no message has such an expiration, no consumer such a priority.
_WRONG_QUEUE: Final = {"x-expires": 0}
_WRONG_MESSAGE: Final = Properties(expiration="never").encode()
_WRONG_CONSUMER: Final = {"x-priority": "none"}
_DIFFERENT: Final = re.compile(
    r"inequivalent arg '([\w-]+)'.* current is (?:the value )?'([^']*)'", re.DOTALL
)

Request = Callable[[Any, Callable[[Any], None]], Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Right:
    """A right on a name: of a queue or an exchange, which need not exist."""

    kind: str  # CONFIGURE, WRITE or READ
    name: str


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the broker answered to a request: a method, or the code and text of a refusal."""

    method: Any = None
    code: int = 0
    text: str = ""


class Probe(SessionListener):
    """A connection for questions; each waits for its answers, and may raise BrokerUnavailable.

    Under an alarm RabbitMQ reads nothing more from a connection that publishes. So questions about the right
    to write come last; they are not answered then.
    """

    def __init__(self, amqp: "AmqpSettings", name: str, timeout: float = _TIMEOUT) -> None:
        """Prepare; the context manager connects.

        Args:
            amqp: the broker's address.
            name: of the connection.
            timeout: seconds for the connection, and for each kind of question.
        """
        self.is_blocked = False  # whether the broker has told of an alarm
        self._loop = EventLoop()
        self._timeout = timeout
        self._is_over = False
        self._session = Session(self._loop, amqp, name, on_error=self._loop.fail)
        self._session.attach(self)

    def __enter__(self) -> Self:
        """Connect. Raises BrokerUnavailable or BrokerRefused."""
        try:
            self._run(self._session.open)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Hang up: under an alarm the broker does not answer a farewell."""
        self._close()

    def _close(self) -> None:
        self._is_over = True
        self._session.abandon()
        self._loop.close()

    def _run(self, begin: Callable[[], None]) -> None:
        """Begin, and serve until `stop`."""
        late = BrokerUnavailable(f"the broker does not answer within {self._timeout:g} s")
        timer = self._loop.call_later(self._timeout, lambda: self._loop.fail(late))
        begin()
        self._loop.run()
        self._loop.cancel(timer)

    def session_up(self) -> None:
        """Go on: the connection is open."""
        self._loop.stop()

    def session_down(self) -> None:
        """Fail: the answers that are missing do not come any more."""
        if not self._is_over:
            self._loop.fail(BrokerUnavailable("the connection to the broker was lost"))

    def session_blocked(self) -> None:
        """Note the alarm; no other answer comes."""
        self.is_blocked = True
        self._loop.stop()

    # --- questions ---

    @property
    def properties(self) -> Mapping[str, Any]:
        """The broker's description of itself: product, version, cluster_name."""
        return self._session.server_properties

    def sizes(self, queues: Iterable[str]) -> dict[str, QueueSize | None]:
        """Return the sizes of queues; None for one that is missing, and none for one that is refused."""
        requests = {name: partial(_declare_passively, name) for name in queues}
        answers = self._ask(requests)
        found = {name: _size(answer) for name, answer in answers.items() if not answer.code}
        return found | {name: None for name, answer in answers.items() if answer.code == NOT_FOUND}

    def differences(self, queues: Iterable[str]) -> dict[str, tuple[str, str]]:
        """Return the first argument, with its value, by which each queue differs from a plain durable one.

        Queues without one are left out, like those that the user must not declare. All must exist.
        """
        answers = self._ask({name: partial(_declare, name) for name in queues})
        found = {name: _DIFFERENT.search(answer.text) for name, answer in answers.items()}
        return {name: (match[1], match[2]) for name, match in found.items() if match}

    def lacking(self, rights: Iterable[Right]) -> set[Right]:
        """Return those of the rights that the user does not have."""
        wanted = sorted(set(rights), key=lambda right: (right.kind == WRITE, right.name))
        answers = self._ask({right: partial(_PROBES[right.kind], right.name) for right in wanted})
        return {right for right, answer in answers.items() if answer.code == _ACCESS_REFUSED}

    def has_alarm(self) -> bool:
        """Tell whether the broker has an alarm, as it does once something is published."""
        # The first publication may be answered before the alarm is told; the second one is not read then.
        self._ask({number: partial(_publish, DEFAULT_EXCHANGE) for number in range(2)})
        return self.is_blocked

    def _ask(self, requests: Mapping[T, Request]) -> dict[T, _Answer]:
        """Send requests one after the other; return the answers that have come before an alarm was told."""
        answers: dict[T, _Answer] = {}

        def take(key: T, answer: _Answer) -> None:
            answers[key] = answer
            if len(answers) == len(requests):
                self._loop.stop()

        def begin() -> None:
            for key, request in requests.items():
                self._session.errands.run(
                    request,
                    lambda frame, key=key: take(key, _Answer(frame.method)),  # type: ignore[misc]
                    lambda code, text, key=key: take(key, _Answer(None, code, text)),  # type: ignore[misc]
                )

        if requests and not self.is_blocked:
            self._run(begin)
        return answers


def _size(answer: _Answer) -> QueueSize:
    return QueueSize(answer.method.message_count, answer.method.consumer_count)


def _declare_passively(queue: str, channel: Any, answered: Callable[[Any], None]) -> None:
    channel.queue_declare(queue, passive=True, callback=answered)


def _declare(queue: str, channel: Any, answered: Callable[[Any], None]) -> None:
    channel.queue_declare(queue, durable=True, callback=answered)


def _declare_wrongly(queue: str, channel: Any, answered: Callable[[Any], None]) -> None:
    # RabbitMQ refuses names that begin so before it looks at rights; those that it gives itself are others.
    is_named_by_server = queue.startswith(SERVER_NAMED)
    channel.queue_declare(
        "" if is_named_by_server else queue,
        durable=not is_named_by_server,
        exclusive=is_named_by_server,
        arguments=_WRONG_QUEUE,
        callback=answered,
    )


def _publish(exchange: str, channel: Any, _answered: Callable[[Any], None]) -> None:
    name = "" if exchange == DEFAULT_EXCHANGE else exchange
    channel.connection.publish(channel.channel_number, name, "", _WRONG_MESSAGE, b"", mandatory=False)


def _consume(queue: str, channel: Any, answered: Callable[[Any], None]) -> None:
    channel.basic_consume(queue, _nothing, arguments=_WRONG_CONSUMER, callback=answered)


def _nothing(*_delivery: object) -> None:
    pass


_PROBES: Final[Mapping[str, Callable[[str, Any, Callable[[Any], None]], None]]] = {
    CONFIGURE: _declare_wrongly,
    WRITE: _publish,
    READ: _consume,
}
