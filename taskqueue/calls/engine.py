"""The engine of a client: one connection, the pending calls, and their replies.

The engine has its own thread. Other threads pass actions to it by `do`, `send` and `call`; all methods below
"the thread" run there.
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
from taskqueue.broker.loop import ActionQueue, EventLoop
from taskqueue.broker.outbound import Outbound, OutboundListener
from taskqueue.broker.publisher import Publication, PublishResult
from taskqueue.broker.session import Session, SessionListener
from taskqueue.broker.topology import CANCEL, TASKQUEUE, worker_queue
from taskqueue.calls import chaining, message, submission
from taskqueue.calls.call import Call, Status
from taskqueue.calls.submission import Submission
from taskqueue.config import AmqpSettings
from taskqueue.errors import BrokerRefused, BrokerUnavailable, ReplyLost, TaskqueueError, UnknownTask
from taskqueue.messages import names
from taskqueue.messages.content import JSON
from taskqueue.messages.forwarding import new_id
from taskqueue.messages.options import Options
from taskqueue.messages.results import encode_value
from taskqueue.messages.workitem import submitted

_log = logging.getLogger(__name__)

_LONGEST_DELAY: Final = 2.0  # seconds between two attempts to connect
_CHECK_DELAY: Final = 0.25  # seconds between two checks for calls that stay unconfirmed
_ROOM_DELAY: Final = 0.005  # seconds between two checks for room to send
_CLOSE_TIMEOUT: Final = 5.0  # seconds
_MOST_SENDING: Final = 10_000  # unconfirmed calls, beyond which `send` and `call` wait


@dataclass(slots=True, eq=False)
class Sent:
    """An unconfirmed call."""

    call: Call[Any]
    publication: Publication
    until: float  # monotonic


class Engine(SessionListener, OutboundListener):
    """Sends calls until the broker has confirmed them, and passes each call its reply."""

    def __init__(self, amqp: AmqpSettings, *, direct: bool, broker_timeout: float) -> None:
        """Prepare; `start` connects.

        amqp -- the broker's address
        direct -- whether requests go straight to the queues of their tasks
        broker_timeout -- seconds after which an unconfirmed call fails
        """
        self._amqp = amqp
        self._direct = direct
        self._broker_timeout = broker_timeout
        self._inbox = ActionQueue()
        self._loop = EventLoop()
        self._sending: dict[str, Sent] = {}  # by id, the oldest first
        self._calls: dict[str, Call[Any]] = {}  # by id; calls whose reply is pending
        self._broker_error: TaskqueueError | None = None  # with the broker; None while it is usable
        self.is_over = False  # whether it accepts no more calls
        self._is_check_due = self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="taskqueue client", daemon=True)
        self._session = self._open(amqp)
        on_reply = self.take if self._reply_to == names.DIRECT_REPLY else None
        self._outbound = Outbound(self._loop, self._session, self, on_reply=on_reply)
        self._cancelling = BroadcastExchange(self._loop, self._session, CANCEL)
        self._session.attach(self)

    def _open(self, amqp: AmqpSettings, name: str = "taskqueue client") -> Session:
        return Session(self._loop, amqp, name, on_error=self._on_error, longest_delay=_LONGEST_DELAY)

    # --- for other threads ---

    def start(self) -> None:
        """Start the thread, which connects."""
        self._thread.start()

    def do(self, action: Callable[[], None]) -> None:
        """Perform an action in the engine's thread; actions keep their order."""
        self._inbox.put(action)

    def send(self, call: Call[Any], body: bytes, options: Options, *, notify: bool) -> None:
        """Send a call; wait while 10,000 are unconfirmed. Raises BrokerUnavailable after `broker_timeout`."""
        self._enqueue(call, body, options, notify=notify, persistent=True)

    def call(self, call: Call[Any], body: bytes, options: Options, timeout: float | None) -> None:
        """Send a call and wait until it is done, at most `timeout` seconds. Raises as `send` and `wait` do.

        The request is not persistent, except in a cluster: its direct reply would end with the broker, too.
        The waiting caller gets ReplyLost in both cases.
        """
        until = None if timeout is None else time.monotonic() + timeout
        self._enqueue(call, body, options, notify=False, persistent=self._amqp.is_cluster)
        self.wait(call, None if until is None else until - time.monotonic())

    def _enqueue(
        self, call: Call[Any], body: bytes, options: Options, *, notify: bool, persistent: bool
    ) -> None:
        if options.unique and self._direct:
            raise ValueError("unique: a dispatcher decides that, and this client sends its calls past it")
        self._wait_for_room()
        until = time.monotonic() + self._broker_timeout
        plain = submitted(call.task, call.id, JSON, self._reply_to, notify=notify, persistent=persistent)
        properties = chaining.marked(call, options.marked(plain))
        self.do(lambda: self._send(call, properties, body, until))
        if self.is_over:
            self._inbox.empty()

    def _wait_for_room(self) -> None:
        """Poll for room, because Python's semaphores do not survive every signal handler that raises."""
        until = time.monotonic() + self._broker_timeout
        while len(self._sending) + len(self._inbox) >= _MOST_SENDING:
            if time.monotonic() > until:
                raise self._unavailable()
            time.sleep(_ROOM_DELAY)

    def wait(self, call: Call[Any], timeout: float | None) -> None:
        """Wait until a call is done, at most `timeout` seconds; RuntimeError in the engine's own thread."""
        if self._is_own_thread:
            raise RuntimeError("a callback runs in the thread of its client, and cannot wait for that client")
        call.wait_until_done(timeout)

    @property
    def _is_own_thread(self) -> bool:
        return threading.get_ident() == self._thread.ident

    def cancel(self, call: Call[Any]) -> None:
        """Broadcast the cancellation of a call to all consumers."""
        self.do(lambda: self._cancel(call.id))

    def fetched(self, call: Call[Any]) -> None:
        """Record that the user has fetched the outcome of a call: nothing is kept here."""

    def find(self, id_: str) -> Call[Any] | None:
        """Return a pending call; None if there is none of this id."""
        return self._calls.get(id_)

    def forget(self, call: Call[Any]) -> None:
        """Stop waiting for the reply of a call."""
        self.do(lambda: self._drop(call.id))

    def submit_many(self, worker_type: str, workitems: Iterable[Any], options: Options) -> int:
        """Submit workitems over a separate connection; return their number."""

        def submissions() -> Iterator[Submission]:
            for workitem in workitems:
                kind, body = encode_value(workitem)
                yield Submission(new_id(), worker_type, body, kind, options)

        return submission.submit(self._amqp, submissions())

    def close(self) -> None:
        """Send unsent calls, close the connection and end the thread, in bounded time."""
        self.close_soon()
        if not self._is_own_thread:  # a callback returns first
            self._thread.join(2 * _CLOSE_TIMEOUT)

    def close_soon(self) -> None:
        """Start to close, without waiting; without effect once the engine has ended."""
        if not self.is_over:
            self.do(self._begin_to_close)

    def abandon(self) -> None:
        """Abandon the connections in a forked child, which lacks the engine's thread."""
        self._abandon_sessions()
        self._inbox.close()

    def _abandon_sessions(self) -> None:
        self._session.abandon()

    # --- the thread ---

    def _run(self) -> None:
        self._loop.watch(self._inbox, self._inbox.run_all)
        self._connect()
        try:
            self._loop.run()
        finally:
            self._is_closing = self.is_over = True
            self._abandon_sessions()
            self._loop.close()
            self._inbox.empty()
            self._fail_all(BrokerUnavailable("the client was closed before the reply came"))

    def _connect(self) -> None:
        self._session.open()

    def _begin_to_close(self) -> None:
        self._is_closing = True
        self._loop.call_later(_CLOSE_TIMEOUT, self._loop.stop)
        self._close_if_sent()

    def _close_if_sent(self) -> None:
        if self._is_closing and not self._sending and not self.is_over:
            self._close(self._loop.stop)

    def _close(self, then: Callable[[], None]) -> None:
        self._session.close(then)

    # --- a call's way out ---

    @property
    def _reply_to(self) -> str:
        return names.DIRECT_REPLY

    @property
    def _may_send(self) -> bool:
        """Whether requests may be handed to the outbound path."""
        return True

    def _send(self, call: Call[Any], properties: bytes, body: bytes, until: float) -> None:
        queue = worker_queue(call.task) if self._direct else TASKQUEUE
        publication = Publication(queue, properties, body, declares=not self._direct)
        self._sending[call.id] = Sent(call, publication, until)
        self._calls[call.id] = call
        if self._is_closing:
            self._end(call, BrokerUnavailable("the client is closed"))
        elif isinstance(self._broker_error, BrokerRefused):
            self._end(call, self._broker_error)
        elif self._may_send:
            self._publish(call, publication)
        self._check_later()

    def _publish(self, call: Call[Any], publication: Publication) -> None:
        self._outbound.send(publication, partial(self._published, call))

    def _published(
        self, call: Call[Any], publication: Publication, result: PublishResult, reason: str
    ) -> None:
        if result is PublishResult.CONFIRMED:
            self._sent(call.id)
            if call.status() is Status.SENDING:
                call.move(Status.QUEUED)
        elif result is PublishResult.REFUSED:
            self._end(call, BrokerRefused(f"the broker refused the call: {reason}"))
        elif result is PublishResult.RETURNED:
            self._end(call, UnknownTask(f"no task {call.task!r}: queue {publication.queue} does not exist"))
        else:
            self._end(call, BrokerRefused(f"queue {TASKQUEUE} cannot be declared: {reason}"))

    def _sent(self, id_: str) -> None:
        sent = self._sending.pop(id_, None)
        if sent is not None:
            self._outbound.forget(sent.publication)
            self._close_if_sent()

    # --- replies and notices ---

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
                self._cancel(call.id)  # for a consumer that was not connected at the first broadcast

    def _cancel(self, id_: str) -> None:
        if call := self._calls.get(id_):
            self._cancelling.provide(
                lambda: self._publish_cancel(call),
                lambda reason: _log.warning("call %s cannot be cancelled: %s", id_, reason),
            )

    def _publish_cancel(self, call: Call[Any]) -> None:
        for id_ in chaining.ids_of(call):
            properties = Properties(correlation_id=id_, delivery_mode=1).encode()
            cancel = Publication("", properties, b"", exchange=CANCEL, mandatory=False)
            self._outbound.publisher.publish(cancel)

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

    def outbound_ready(self) -> None:
        """Record that the broker is usable."""
        self._broker_error = None

    def session_down(self) -> None:
        """Fail confirmed calls: their replies were to come over the lost connection."""
        for call in tuple(self._calls.values()):
            if call.id not in self._sending:
                lost = "connection lost while waiting for the reply of call {} of {}"
                self._end(call, ReplyLost(lost.format(call.id, call.task)))

    def _on_error(self, error: BrokerUnavailable | BrokerRefused) -> None:
        self._broker_error = error
        if isinstance(error, BrokerRefused):
            self._fail_all(error)

    def _unavailable(self) -> TaskqueueError:
        limit = f"within {self._broker_timeout:g} s"
        if self._broker_error is not None:
            return BrokerUnavailable(f"the call could not be sent {limit}: {self._broker_error}")
        if self._session.is_blocked:
            return BrokerUnavailable(f"the call could not be sent {limit}: the broker has an alarm")
        return BrokerUnavailable(f"the broker has not confirmed the call {limit}")

    def _check_later(self) -> None:
        if self._sending and not self.is_over and not self._is_check_due:
            self._is_check_due = True
            self._loop.call_later(_CHECK_DELAY, self._check)

    def _check(self) -> None:
        """Fail the calls that the broker has not confirmed in time."""
        self._is_check_due, now = False, time.monotonic()
        for sent in tuple(self._sending.values()):
            if sent.until > now:
                break
            self._outbound.withdraw(sent.publication)
            self._end(sent.call, self._unavailable())
        self._check_later()
