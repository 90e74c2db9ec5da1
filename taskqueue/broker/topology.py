"""Every queue that taskqueue knows: its name, its arguments, and how it comes to be."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from taskqueue.broker.loop import EventLoop
from taskqueue.broker.session import Part, Session
from taskqueue.workitem import new_id

if TYPE_CHECKING:
    from taskqueue.config import AmqpSettings

TASKQUEUE: Final = "taskqueue"
REJECTED: Final = "taskqueue_rejected"
FAILED: Final = "taskqueue_failed"
WORKER_PREFIX: Final = "worker_"
#: What the names of internal queues begin with: those that nobody else declares.
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
_NOT_FOUND: Final = 404
_UNEQUAL: Final = 406
_CLOSED_BY_US: Final = (0, 200)  # as the versions of pika have it


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


class Declaration:
    """Declares one queue, on channels that are thrown away: a refusal closes the channel.

    The queue is looked for first, so that one with other arguments is used as it is; only a missing
    one is made. A quorum queue that was made is done a moment later: RabbitMQ 3.10 and 4.0 answer before
    they would find it again after a SIGKILL.
    """

    def __init__(
        self,
        loop: EventLoop,
        session: Session,
        queue: Queue,
        *,
        done: Callable[[], None],
        failed: Callable[[str], None],
    ) -> None:
        """Begin; exactly one of `done` and `failed` (with the reason) is called, unless the session ends."""
        self._loop = loop
        self._session = session
        self._queue = queue
        self._done = done
        self._failed = failed
        self._passive = True
        self._is_new = False
        self._log = logging.getLogger(__name__)
        session.channel(self._declare)

    def _declare(self, channel: Any) -> None:
        guard = self._loop.guard
        channel.add_on_close_callback(guard(self._refused))
        if self._queue.has_exchange:
            channel.exchange_declare(
                self._queue.name,
                "fanout",
                durable=True,
                callback=guard(lambda _frame: self._declare_queue(channel)),
            )
        else:
            self._declare_queue(channel)

    def _declare_queue(self, channel: Any) -> None:
        if not channel.is_open:
            return  # the connection is being closed
        guard = self._loop.guard
        channel.queue_declare(
            self._queue.name,
            passive=self._passive,
            durable=True,
            arguments=self._arguments(),
            callback=guard(lambda _frame: self._declared(channel)),
        )

    def _arguments(self) -> dict[str, Any]:
        return declared_arguments(self._queue, self._session.amqp, self._session.broker_major)

    def _declared(self, channel: Any) -> None:
        if not self._queue.has_exchange:
            self._finish(channel)
        elif self._passive:  # it is there; whoever made it may have died before he bound it
            self._passive = False
            self._declare_queue(channel)
        else:
            self._bind(channel)

    def _bind(self, channel: Any) -> None:
        if not channel.is_open:
            return  # the connection is being closed
        bound = self._loop.guard(lambda _frame: self._finish(channel))
        channel.queue_bind(self._queue.name, self._queue.name, callback=bound)

    def _bind_as_it_is(self, channel: Any) -> None:
        channel.add_on_close_callback(self._loop.guard(self._refused))
        self._bind(channel)

    def _finish(self, channel: Any) -> None:
        if self._is_new:
            self._log.info("declared queue %s", self._queue.name)
        if self._is_new and self._arguments().get("x-queue-type") == "quorum":
            self._loop.call_later(_SETTLED, lambda: self._leave(channel))
        else:
            self._leave(channel)

    def _leave(self, channel: Any) -> None:
        if channel.is_open:
            channel.close()
            self._done()

    def _refused(self, _channel: Any, error: BaseException) -> None:
        code, text = getattr(error, "reply_code", 0), getattr(error, "reply_text", str(error))
        if code in _CLOSED_BY_US or not self._session.is_up:
            return
        if code == _NOT_FOUND and self._passive:
            self._passive, self._is_new = False, True
            self._session.channel(self._declare)
        elif code == _UNEQUAL:
            self._log.warning("queue %s has other arguments; it is used as it is", self._queue.name)
            self._use_as_it_is()
        else:
            self._failed(text)

    def _use_as_it_is(self) -> None:
        if self._queue.has_exchange:
            self._session.channel(self._bind_as_it_is)
        else:
            self._done()


class Provider(Part):
    """Declares queues that messages came back for: each once, however many messages wait for it.

    A window of messages may come back together, and a connection has 2047 channels.
    """

    def __init__(self, loop: EventLoop, session: Session) -> None:
        """Declare over `session`; whoever waits when it ends is forgotten."""
        self._loop = loop
        self._session = session
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
