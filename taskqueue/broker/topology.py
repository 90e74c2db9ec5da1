"""Every queue that taskqueue knows: its name, its arguments, and how it comes to be."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from taskqueue.broker.loop import EventLoop
from taskqueue.broker.session import Session, SessionListener
from taskqueue.messages.forwarding import new_id

if TYPE_CHECKING:
    from taskqueue.config import AmqpSettings

TASKQUEUE: Final = "taskqueue"
REJECTED_QUEUE: Final = "taskqueue_rejected"
FAILED_QUEUE: Final = "taskqueue_failed"
WORKER_PREFIX: Final = "worker_"
#: Prefix of internal queues' names: those that nobody else declares.
INTERNAL_PREFIX: Final = "taskqueue_"
REPLIES_PREFIX: Final = "replies_"
#: The fanout exchange by which every consumer hears which workitems are not wanted any more.
CANCEL: Final = "taskqueue_cancel"

#: Seconds that each rung of the delay ladder holds a message back; any delay is a sum of them.
LADDER: Final = (0.25, 1, 5, 15, 60, 300, 900, 3600, 21600)

_LEASE_EXPIRES: Final = 10  # times to live after which a lease's queue that nobody uses goes away

#: The first RabbitMQ whose quorum queues limit deliveries unless told otherwise.
_LIMITED_DELIVERIES: Final = 4
#: How a queue dead-letters so that nothing is lost on the way: it keeps each message until the next queue has
#: confirmed it. Classic queues cannot do that: what they passed on a moment ago is gone when the broker is
#: killed (https://www.rabbitmq.com/docs/quorum-queues#activating-at-least-once-dead-lettering).
_SAFE_DEAD_LETTERING: Final = {
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}

_SETTLED: Final = 1.0  # seconds; a quorum queue that is younger when the broker is killed is of no use after
#: By the reply codes of AMQP 0-9-1 (section 1.1): what a refusal means for a declaration.
_REFUSALS: Final = {403: "forbidden", 404: "missing", 406: "other"}


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable queue. Shared ones have no arguments, so that foreign declarations agree with ours."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    has_exchange: bool = False  # whether a fanout exchange of the same name leads to it

    @property
    def is_internal(self) -> bool:
        """Whether only taskqueue declares it, so that arguments disturb nobody."""
        return self.name.startswith(INTERNAL_PREFIX)


def declared_arguments(queue: Queue, amqp: "AmqpSettings", broker_major: int) -> dict[str, Any]:
    """Return the arguments a queue is made with: its own, the type that is asked for, and no delivery limit.

    A quorum queue of RabbitMQ 4 drops what has been delivered 20 times unless told otherwise
    (https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling). RabbitMQ 3 has no such limit, and
    takes -1 for "drop at the first return".

    amqp -- says which type internal queues have, and which the shared ones
    broker_major -- the first number of the broker's version
    """
    arguments = dict(queue.arguments)
    kind = amqp.queue_type if queue.is_internal else amqp.shared_queue_type
    if kind != "default":
        arguments.setdefault("x-queue-type", kind)
    if arguments.get("x-queue-type") == "quorum":
        if "x-dead-letter-exchange" in arguments:
            arguments |= _SAFE_DEAD_LETTERING
        if broker_major >= _LIMITED_DELIVERIES:
            arguments["x-delivery-limit"] = -1
    return arguments


def worker_queue(worker_type: str) -> str:
    """Return the name of the queue of a worker type."""
    return WORKER_PREFIX + worker_type


def rung(delay: float) -> Queue:
    """Return the rung of the delay ladder for a delay of so many seconds: the longest that is not longer.

    A message is published to the rung's fanout exchange with the routing key of the queue it is for; when
    its time is up the broker dead-letters it to the default exchange, where that key leads to the queue.
    The time to live is the queue's, the same for every message in it: none waits behind a longer one.
    """
    seconds = max((step for step in LADDER if step <= delay), default=LADDER[0])
    arguments = {
        "x-queue-type": "quorum",
        "x-message-ttl": int(seconds * 1000),
        "x-dead-letter-exchange": "",
    }
    return Queue(f"taskqueue_delay_{seconds:g}", arguments, has_exchange=True)


def lease_queue(worker_type: str, timeout: float) -> Queue:
    """Return a new queue for one workitem, which goes back to work after `timeout` seconds in it.

    An expiring queue takes what is in it along, so it lasts for many times as long.
    """
    milliseconds = int(timeout * 1000)
    arguments = {
        "x-message-ttl": milliseconds,
        "x-expires": _LEASE_EXPIRES * milliseconds,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": worker_queue(worker_type),
    }
    return Queue(f"taskqueue_lease_{worker_type}_{new_id()}", arguments)


def is_ours(queue: str) -> bool:
    """Tell whether a name belongs to a queue that feeds taskqueue itself; results never go there."""
    return queue.startswith((TASKQUEUE, WORKER_PREFIX))


def is_text(queue: str) -> bool:
    """Tell whether a name that came in a message is UTF-8, as the names of queues are that we publish to."""
    return queue == queue.encode("utf-8", "replace").decode()


def may_come_back(reason: str) -> bool:
    """Tell whether a queue that could not be declared is there, on a node of a cluster that is down.

    reason -- what the broker said; https://www.rabbitmq.com/docs/clustering#overview-what-is-replicated
    """
    return reason.startswith("NOT_FOUND")


def _anyone_may(_queue: str) -> str:
    return ""


class Declaration:
    """Declares one queue, with the exchange that leads to it.

    Each is looked for first, so that one with other arguments is used as it is, and one that is there needs
    no right to make it; only a missing one is made. A quorum queue that was made is done a moment later:
    RabbitMQ 3.10 and 4.0 answer before they would find it again after a SIGKILL.
    """

    def __init__(
        self,
        loop: EventLoop,
        session: Session,
        queue: Queue,
        *,
        done: Callable[[], None],
        failed: Callable[[str], None],
        may_make: Callable[[str], str] = _anyone_may,
    ) -> None:
        """Begin; exactly one of `done` and `failed` (with the reason) is called, unless the session ends.

        may_make -- tells why a queue of that name must not be made; "" if it may
        """
        self._loop = loop
        self._session = session
        self._queue = queue
        self._done = done
        self._failed = failed
        self._may_make = may_make
        self._is_new = False
        self._log = logging.getLogger(__name__)
        self._find_exchange() if queue.has_exchange else self._find_queue()

    def _ask(
        self,
        request: Callable[[Any, Callable[[Any], None]], Any],
        answered: Callable[[], None],
        **refused: Callable[[], None],
    ) -> None:
        """Ask the broker for something; a refusal that `refused` does not name is a failure."""

        def refuse(code: int, text: str) -> None:
            act = refused.get(_REFUSALS.get(code, ""))
            if act is None:
                self._failed(text)
            else:
                act()

        self._session.errands.run(request, lambda _frame: answered(), refuse)

    # --- the exchange ---

    def _find_exchange(self) -> None:
        self._ask(
            lambda channel, answered: channel.exchange_declare(
                self._queue.name, passive=True, callback=answered
            ),
            self._find_queue,
            missing=self._make_exchange,
        )

    def _make_exchange(self) -> None:
        self._ask(
            lambda channel, answered: channel.exchange_declare(
                self._queue.name, "fanout", durable=True, callback=answered
            ),
            self._find_queue,
        )

    def _bind(self) -> None:
        """Bind the queue; without the right to, whoever made both has bound them."""
        self._ask(
            lambda channel, answered: channel.queue_bind(
                self._queue.name, self._queue.name, callback=answered
            ),
            self._finish,
            forbidden=self._failed_to_bind if self._is_new else self._finish,
        )

    def _failed_to_bind(self) -> None:
        self._failed(f"ACCESS_REFUSED - it cannot be bound to the exchange {self._queue.name}")

    # --- the queue ---

    def _find_queue(self) -> None:
        self._ask(
            lambda channel, answered: channel.queue_declare(
                self._queue.name, passive=True, callback=answered
            ),
            self._compare if self._queue.has_exchange else self._finish,
            missing=self._make_queue,
        )

    def _compare(self) -> None:
        """Look whether a queue that holds messages back does so as it should."""
        self._ask(self._declare, self._bind, other=self._use_as_it_is, forbidden=self._bind)

    def _make_queue(self) -> None:
        refusal = self._may_make(self._queue.name)
        if refusal:
            self._failed(refusal)
            return
        self._is_new = True
        self._ask(self._declare, self._made, other=self._use_as_it_is)

    def _declare(self, channel: Any, answered: Callable[[Any], None]) -> None:
        channel.queue_declare(self._queue.name, durable=True, arguments=self._arguments(), callback=answered)

    def _arguments(self) -> dict[str, Any]:
        return declared_arguments(self._queue, self._session.amqp, self._session.broker_major)

    def _use_as_it_is(self) -> None:
        self._is_new = False
        self._log.warning("queue %s has other arguments; it is used as it is", self._queue.name)
        self._made()

    def _made(self) -> None:
        if self._queue.has_exchange:
            self._bind()
        else:
            self._finish()

    def _finish(self) -> None:
        if not self._is_new:
            self._done()
            return
        self._log.info("declared queue %s", self._queue.name)
        if self._arguments().get("x-queue-type") != "quorum":
            self._done()
            return
        epoch = self._session.errands.epoch
        self._loop.call_later(
            _SETTLED, lambda: self._done() if epoch == self._session.errands.epoch else None
        )


class Provider(SessionListener):
    """Declares queues that messages came back for: each once, however many messages wait for it.

    A window of messages may come back together.
    """

    def __init__(
        self, loop: EventLoop, session: Session, may_make: Callable[[str], str] = _anyone_may
    ) -> None:
        """Declare over `session`; whoever waits when it ends is forgotten.

        may_make -- tells why a queue of that name must not be made; "" if it may
        """
        self._loop = loop
        self._session = session
        self._may_make = may_make
        self._log = logging.getLogger(__name__)
        self._waiting: dict[str, list[tuple[Callable[[], None], Callable[[str], None]]]] = {}
        self._asked: list[Callable[[], None]] = []  # while the session was down
        session.attach(self)

    def provide(self, queue: Queue, *, done: Callable[[], None], failed: Callable[[str], None]) -> None:
        """Declare a queue, now or when the session is up.

        `done` or `failed` (with the reason) is called, unless the session ends.
        """
        if not self._session.is_up:
            self._asked.append(partial(self.provide, queue, done=done, failed=failed))
            return
        waiting = self._waiting.setdefault(queue.name, [])
        waiting.append((done, failed))
        if len(waiting) == 1:
            Declaration(
                self._loop,
                self._session,
                queue,
                done=lambda: self._done(queue.name),
                failed=lambda reason: self._failed(queue.name, reason),
                may_make=self._may_make,
            )

    def session_up(self) -> None:
        """Declare what was asked for meanwhile; the session calls this."""
        asked, self._asked = self._asked, []
        for ask in asked:
            ask()

    def session_down(self) -> None:
        """Forget who waits; the session calls this."""
        self._asked.clear()
        self._waiting.clear()

    def _done(self, queue: str) -> None:
        for done, _ in self._waiting.pop(queue, []):
            done()

    def _failed(self, queue: str, reason: str) -> None:
        self._log.error("queue %s cannot be declared: %s", queue, reason)
        for _, failed in self._waiting.pop(queue, []):
            failed(reason)
