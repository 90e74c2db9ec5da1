"""Submitting workitems, and waiting for what they come to: one connection, bounded in memory and time."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from taskqueue.amqp.properties import Properties
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.publisher import Publication, Publisher, PublishResult
from taskqueue.broker.session import Session
from taskqueue.broker.topology import TASKQUEUE, Declaration, Queue
from taskqueue.config import AmqpSettings
from taskqueue.errors import BrokerRefused, BrokerUnavailable, ResultTimeout, TaskqueueError
from taskqueue.messages import names
from taskqueue.messages.results import FAILED, SUCCEEDED
from taskqueue.messages.workitem import submitted

_WINDOW: Final = 1000  # submissions that may be unconfirmed at a time
_CONFIRM_TIMEOUT: Final = 30.0  # seconds without a word from the broker, while something is unconfirmed


class Submission(NamedTuple):
    """A workitem to be submitted."""

    id: str
    worker_type: str
    body: bytes
    content_type: str
    delay: float = 0.0  # seconds before which it shall not run


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of a workitem."""

    id: str
    status: str  # succeeded, failed or rejected
    content_type: str
    body: bytes
    headers: dict[str, Any]

    @property
    def succeeded(self) -> bool:
        """Whether the handler returned this result."""
        return self.status == SUCCEEDED


def submit(
    amqp: AmqpSettings,
    submissions: Iterable[Submission],
    *,
    on_result: Callable[[Result], None] | None = None,
    timeout: float | None = None,
) -> None:
    """Submit workitems; return when all are confirmed or, with `on_result`, when all results are there.

    Args:
        amqp: the broker's address.
        submissions: taken one by one, as the broker confirms them.
        on_result: called with each result as it comes, in no order.
        timeout: seconds for everything together; None for no limit on the results.

    Raises:
        BrokerUnavailable: no connection, or it was lost; what was confirmed until then stays submitted.
        BrokerRefused: wrong user, password or virtual host, or a message the broker does not take.
        ResultTimeout: the time is up before all results came.
    """
    _Run(amqp, submissions, on_result, timeout).run()


class _Run:
    """One call of `submit`."""

    def __init__(
        self,
        amqp: AmqpSettings,
        submissions: Iterable[Submission],
        on_result: Callable[[Result], None] | None,
        timeout: float | None,
    ) -> None:
        self._loop = EventLoop()
        self._submissions = iter(submissions)
        self._has_more = True
        self._on_result = on_result
        self._timeout = timeout
        self._unconfirmed = 0
        self._awaited: set[str] = set()
        self._last_word = time.monotonic()
        self._error: TaskqueueError | None = None
        self._session = Session(self._loop, amqp, "taskqueue submit", on_trouble=self._fail)
        self._publisher = Publisher(
            self._loop,
            self._session,
            on_ready=self._feed,
            on_lost=self._lost,
            on_batch=self._progress,
            on_reply=self._take_reply if on_result else None,
        )

    def run(self) -> None:
        if self._timeout is not None:
            self._loop.call_later(self._timeout, self._time_is_up)
        self._session.open()
        self._watch_for_silence()
        try:
            self._loop.run()
        finally:
            self._loop.close()
        if self._error is not None:
            raise self._error

    def _feed(self) -> None:
        """Publish as many more as the window takes."""
        while self._has_more and self._unconfirmed < _WINDOW:
            submission = next(self._submissions, None)
            if submission is None:
                self._has_more = False
            else:
                self._publish(submission)
        self._leave_if_done()

    def _publish(self, submission: Submission) -> None:
        id_, worker_type, body, content_type, delay = submission
        reply_to = names.DIRECT_REPLY if self._on_result else None
        properties = submitted(worker_type, id_, content_type, reply_to)
        if delay:
            due = {names.DUE: time.time() + delay, names.WAIT: delay}
            properties = Properties.decode(properties).with_headers(due).encode()
        if self._on_result:
            self._awaited.add(id_)
        self._unconfirmed += 1
        self._publisher.publish(Publication(TASKQUEUE, properties, body, self._published))

    def _published(self, publication: Publication, result: PublishResult, reason: str) -> None:
        if result is PublishResult.RETURNED:
            Declaration(
                self._loop,
                self._session,
                Queue(TASKQUEUE),
                done=lambda: self._publisher.publish(publication),
                failed=lambda why: self._fail(BrokerRefused(f"queue {TASKQUEUE} cannot be declared: {why}")),
            )
        elif result is PublishResult.REFUSED:
            self._fail(BrokerRefused(f"the broker refuses the workitem: {reason}"))
        else:
            self._unconfirmed -= 1

    def _progress(self) -> None:
        self._last_word = time.monotonic()
        self._feed()

    def _take_reply(self, raw: bytes, body: bytes) -> None:
        self._last_word = time.monotonic()
        properties = Properties.decode(raw)
        headers = properties.headers
        workitem = properties.correlation_id or ""
        if workitem in self._awaited and self._on_result is not None:
            self._awaited.remove(workitem)
            status = str(headers.get(names.STATUS, FAILED))
            self._on_result(Result(workitem, status, properties.content_type or "", body, headers))
        self._leave_if_done()

    def _leave_if_done(self) -> None:
        if not self._has_more and not self._unconfirmed and not self._awaited:
            self._session.close(self._loop.stop)

    # --- what can go wrong ---

    def _fail(self, error: TaskqueueError) -> None:
        self._error = self._error or error
        self._loop.stop()

    def _lost(self) -> None:
        if self._has_more or self._awaited or self._unconfirmed:
            self._fail(BrokerUnavailable("the connection to the broker was lost before all was done"))

    def _time_is_up(self) -> None:
        limit = f"within {self._timeout:g} s"
        if self._has_more or self._unconfirmed:
            self._fail(ResultTimeout(f"the broker has not confirmed everything {limit}"))
        elif len(self._awaited) == 1:
            self._fail(ResultTimeout(f"no result of {min(self._awaited)} {limit}; it stays submitted"))
        else:
            count = len(self._awaited)
            self._fail(ResultTimeout(f"no result of {count} workitems {limit}; they stay submitted"))

    def _watch_for_silence(self) -> None:
        """Never wait for ever for a broker that does not confirm, as one under an alarm does."""
        if self._unconfirmed and time.monotonic() - self._last_word > _CONFIRM_TIMEOUT:
            self._fail(BrokerUnavailable(f"the broker has confirmed nothing for {_CONFIRM_TIMEOUT:g} s"))
        self._loop.call_later(1.0, self._watch_for_silence)
