"""The engine of a client: one connection, the pending calls, and their replies.

The engine has a thread of its own. Other threads hand it actions by `do`, `send` and `call`; everything below
"the thread" runs there.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from taskqueue.amqp.properties import Properties
from taskqueue.broker.broadcast import BroadcastExchange
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.publisher import Publication, Publisher, PublishResult
from taskqueue.broker.session import Session, SessionListener
from taskqueue.broker.topology import CANCEL, TASKQUEUE, Provider, Queue, worker_queue
from taskqueue.calls import message, submission
from taskqueue.calls.actions import ActionQueue
from taskqueue.calls.call import Call, Status
from taskqueue.calls.submission import Submission
from taskqueue.config import AmqpSettings
from taskqueue.errors import BrokerRefused, BrokerUnavailable, ReplyLost, TaskqueueError, UnknownTask
from taskqueue.messages import names
from taskqueue.messages.content import JSON
from taskqueue.messages.forwarding import new_id
from taskqueue.messages.results import encode_value
from taskqueue.messages.workitem import submitted

_log = logging.getLogger(__name__)

_LONGEST_DELAY: Final = 2.0  # seconds between two attempts to connect
_LOOK_DELAY: Final = 0.25  # seconds between two looks for calls that the broker does not confirm
_ROOM_DELAY: Final = 0.005  # seconds between two looks for room to send
_CLOSE_TIMEOUT: Final = 5.0  # seconds
_MOST_SENDING: Final = 10_000  # calls that are made and not confirmed, before whoever makes more has to wait


@dataclass(slots=True, eq=False)
class Sent:
    """A call that the broker has not confirmed yet."""

    call: Call[Any]
    publication: Publication
    until: float  # monotonic


class Engine(SessionListener):
    """Sends calls until the broker has confirmed them, and gives each its reply."""

    def __init__(self, amqp: AmqpSettings, *, direct: bool, broker_timeout: float) -> None:
        """Prepare; `start` connects.

        amqp -- the broker's address
        direct -- whether requests go straight to the queues of their tasks
        broker_timeout -- seconds after which a call fails that the broker has not confirmed
        """
        self._amqp = amqp
        self._direct = direct
        self._broker_timeout = broker_timeout
        self._inbox = ActionQueue()
        self._loop = EventLoop()
        self._sending: dict[str, Sent] = {}  # in the order they were made
        self._calls: dict[str, Call[Any]] = {}  # whose reply is awaited
        self._trouble: TaskqueueError | None = None  # with the broker, as long as there is any
        self._is_looking = self._is_closing = self._has_ended = False
        self._thread = threading.Thread(target=self._run, name="taskqueue client", daemon=True)
        self._session = self._open(amqp)
        self._publisher = self._make_publisher()
        self._provider = Provider(self._loop, self._session)
        self._cancelling = BroadcastExchange(self._loop, self._session, CANCEL)
        self._session.attach(self)

    def _open(self, amqp: AmqpSettings, name: str = "taskqueue client") -> Session:
        return Session(self._loop, amqp, name, on_trouble=self._troubled, longest_delay=_LONGEST_DELAY)

    def _make_publisher(self) -> Publisher:
        return Publisher(
            self._loop,
            self._session,
            on_ready=self._send_again,
            on_lost=lambda: None,
            on_batch=lambda: None,
            on_reply=self.take,
        )

    # --- for other threads ---

    @property
    def is_over(self) -> bool:
        """Whether it takes no more calls."""
        return self._has_ended

    def start(self) -> None:
        """Connect, in a thread of its own."""
        self._thread.start()

    def do(self, action: Callable[[], None]) -> None:
        """Have an action performed in the engine's thread; actions keep their order."""
        self._inbox.put(action)

    def send(self, call: Call[Any], body: bytes, *, notify: bool) -> None:
        """Send a call; wait while very many are unconfirmed. BrokerUnavailable where that takes too long."""
        self._hand_over(call, body, notify=notify, persistent=True)

    def call(self, call: Call[Any], body: bytes, timeout: float | None) -> None:
        """Send a call and return when it is done, or after `timeout` seconds; raise as `send` and `wait` do.

        The request may end with the broker, as its direct reply does: the caller, who waits, gets ReplyLost
        with either.
        """
        until = None if timeout is None else time.monotonic() + timeout
        self._hand_over(call, body, notify=False, persistent=self._amqp.is_cluster)
        self.wait(call, None if until is None else until - time.monotonic())

    def _hand_over(self, call: Call[Any], body: bytes, *, notify: bool, persistent: bool) -> None:
        self._wait_for_room()
        until = time.monotonic() + self._broker_timeout
        self.do(lambda: self._send(call, body, until, notify=notify, persistent=persistent))
        if self._has_ended:
            self._inbox.empty()

    def _wait_for_room(self) -> None:
        """Look again and again: Python's semaphores do not survive every signal's handler that raises."""
        until = time.monotonic() + self._broker_timeout
        while len(self._sending) + len(self._inbox) >= _MOST_SENDING:
            if time.monotonic() > until:
                raise self._unavailable()
            time.sleep(_ROOM_DELAY)

    def wait(self, call: Call[Any], timeout: float | None) -> None:
        """Return when a call is done, or after `timeout` seconds; RuntimeError in the engine's own thread."""
        if self._is_own_thread:
            raise RuntimeError("a callback would wait for the client in whose thread it runs")
        call.wait_at_gate(timeout)

    @property
    def _is_own_thread(self) -> bool:
        return threading.get_ident() == self._thread.ident

    def cancel(self, call: Call[Any]) -> None:
        """Ask all consumers for the end of a call."""
        self.do(lambda: self._cancel(call.id))

    def fetched(self, call: Call[Any]) -> None:
        """Note that the user has what a call came to."""

    def find(self, id_: str) -> Call[Any] | None:
        """Return a call that is out."""
        return self._calls.get(id_)

    def forget(self, call: Call[Any]) -> None:
        """Await the reply of a call no longer."""
        self.do(lambda: self._drop(call.id))

    def submit_many(self, worker_type: str, workitems: Iterable[Any]) -> int:
        """Submit workitems over a connection of their own; return how many."""
        count = 0

        def submissions() -> Iterator[Submission]:
            nonlocal count
            for workitem in workitems:
                kind, body = encode_value(workitem)
                count += 1
                yield Submission(new_id(), worker_type, body, kind)

        submission.submit(self._amqp, submissions())
        return count

    def close(self) -> None:
        """Send what is not sent yet, close the connection, end the thread; in bounded time."""
        self.close_soon()
        if not self._is_own_thread:  # a callback returns first
            self._thread.join(2 * _CLOSE_TIMEOUT)

    def close_soon(self) -> None:
        """Begin to do what `close` does; without effect once it is done."""
        if not self._has_ended:
            self.do(self._begin_to_close)

    def abandon(self) -> None:
        """Let go of everything in a process that was forked from the one whose thread uses it."""
        self._session.abandon()
        self._inbox.close()

    # --- the thread ---

    def _run(self) -> None:
        self._loop.watch(self._inbox, self._inbox.take_in)
        self._connect()
        try:
            self._loop.run()
        finally:
            self._is_closing = self._has_ended = True
            self._session.abandon()
            self._loop.close()
            self._inbox.empty()
            self._fail_all(self._closed())

    def _connect(self) -> None:
        self._session.open()

    def _begin_to_close(self) -> None:
        self._is_closing = True
        self._loop.call_later(_CLOSE_TIMEOUT, self._loop.stop)
        self._leave_if_sent()

    def _leave_if_sent(self) -> None:
        if self._is_closing and not self._sending and not self._has_ended:
            self._close(self._loop.stop)

    def _close(self, then: Callable[[], None]) -> None:
        self._session.close(then)

    # --- a call's way out ---

    @property
    def _reply_to(self) -> str:
        return names.DIRECT_REPLY

    @property
    def _is_ready(self) -> bool:
        """Whether a request may be published: its reply would find us."""
        return self._publisher.is_ready

    def _send(self, call: Call[Any], body: bytes, until: float, *, notify: bool, persistent: bool) -> None:
        queue = worker_queue(call.task) if self._direct else TASKQUEUE
        properties = submitted(call.task, call.id, JSON, self._reply_to, notify=notify, persistent=persistent)
        publication = Publication(queue, properties, body, partial(self._published, call))
        self._sending[call.id] = Sent(call, publication, until)
        self._calls[call.id] = call
        if self._is_closing:
            self._end(call, BrokerUnavailable("the client is closed"))
        elif isinstance(self._trouble, BrokerRefused):
            self._end(call, self._trouble)
        elif self._is_ready:
            self._publish(call, publication)
        self._look_later()

    def _publish(self, _call: Call[Any], publication: Publication) -> None:
        self._publisher.publish(publication)

    def _published(
        self, call: Call[Any], publication: Publication, result: PublishResult, reason: str
    ) -> None:
        if call.id not in self._sending:
            return
        if result is PublishResult.CONFIRMED:
            self._sent(call.id)
            if call.status() is Status.SENDING:
                call.move(Status.QUEUED)
        elif result is PublishResult.REFUSED:
            self._end(call, BrokerRefused(f"the broker refuses the call: {reason}"))
        elif self._direct:
            self._end(call, UnknownTask(f"no task {call.task!r}: there is no queue {publication.queue}"))
        else:
            self._provider.provide(
                Queue(publication.queue),
                done=lambda: self._publisher.publish(publication),
                failed=lambda why: self._end(call, BrokerRefused(f"queue {TASKQUEUE}: {why}")),
            )

    def _sent(self, id_: str) -> None:
        if self._sending.pop(id_, None) is not None:
            self._leave_if_sent()

    def _send_again(self) -> None:
        """Publish what the broker has not confirmed, in the order it was made; some may come twice."""
        self._trouble = None
        if self._is_ready:
            for sent in tuple(self._sending.values()):
                self._publish(sent.call, sent.publication)

    # --- what comes back ---

    def take(self, raw: bytes, body: bytes) -> None:
        """Take a reply or a notice."""
        properties, content = message.decode(raw, body)
        call = self._calls.get(properties.correlation_id or "")
        if call is None:
            return
        found = message.notice(content)
        if found is None:
            message.take_reply(call, properties, content)
            self._drop(call.id)
        else:
            message.take_notice(call, *found)
            if found[0] == "started" and call.is_cancelled:
                self._cancel(call.id)  # by a consumer that was not there when it was asked for

    def _cancel(self, id_: str) -> None:
        if id_ in self._calls:
            self._cancelling.provide(
                lambda: self._publish_cancel(id_),
                lambda reason: _log.warning("call %s cannot be cancelled: %s", id_, reason),
            )

    def _publish_cancel(self, id_: str) -> None:
        properties = Properties(correlation_id=id_, delivery_mode=1).encode()
        self._publisher.publish(
            Publication("", properties, b"", lambda *_: None, exchange=CANCEL, mandatory=False)
        )

    def _drop(self, id_: str) -> None:
        self._calls.pop(id_, None)
        self._sent(id_)

    def _end(self, call: Call[Any], error: TaskqueueError) -> None:
        call.settle(Status.FAILED, error=error)
        self._drop(call.id)

    def _fail_all(self, error: TaskqueueError) -> None:
        for call in tuple(self._calls.values()):
            self._end(call, error)

    # --- the broker comes and goes ---

    def session_down(self) -> None:
        """End what was to be answered over the connection that is lost; the session calls this."""
        for call in tuple(self._calls.values()):
            if call.id not in self._sending:
                lost = "the connection was lost by which the reply of call {} of {} was to come"
                self._end(call, ReplyLost(lost.format(call.id, call.task)))

    def _troubled(self, error: BrokerUnavailable | BrokerRefused) -> None:
        self._trouble = error
        if isinstance(error, BrokerRefused):
            self._fail_all(error)

    def _closed(self) -> TaskqueueError:
        return BrokerUnavailable("the client was closed before the reply came")

    def _unavailable(self) -> TaskqueueError:
        limit = f"within {self._broker_timeout:g} s"
        if self._trouble is not None:
            return BrokerUnavailable(f"the call could not be sent {limit}: {self._trouble}")
        if self._session.is_blocked:
            return BrokerUnavailable(f"the call could not be sent {limit}: the broker has an alarm")
        return BrokerUnavailable(f"the broker has not confirmed the call {limit}")

    def _look_later(self) -> None:
        if self._sending and not self._has_ended and not self._is_looking:
            self._is_looking = True
            self._loop.call_later(_LOOK_DELAY, self._look)

    def _look(self) -> None:
        """End the calls that the broker has not confirmed in time."""
        self._is_looking, now = False, time.monotonic()
        for sent in tuple(self._sending.values()):
            if sent.until > now:
                break
            self._publisher.withdraw(sent.publication)
            self._end(sent.call, self._unavailable())
        self._look_later()
