"""Submitting workitems and waiting for their results, over one connection, bounded in memory and time."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from taskqueue.amqp.properties import Properties
from taskqueue.broker.errands import QueueSize, measure
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.outbound import Outbound, OutboundListener
from taskqueue.broker.publisher import Publication, PublishResult
from taskqueue.broker.session import Session
from taskqueue.broker.topology import TASKQUEUE, worker_queue
from taskqueue.config import AmqpSettings
from taskqueue.errors import BrokerRefused, BrokerUnavailable, ResultTimeout
from taskqueue.messages import jsonrpc, names
from taskqueue.messages.options import NONE, Options
from taskqueue.messages.results import FAILED, SUCCEEDED
from taskqueue.messages.workitem import submitted

_WINDOW: Final = 1000  # unconfirmed submissions at a time
_UNSERVED_AFTER: Final = 3.0  # seconds in which a short workitem has its result
_CONFIRM_TIMEOUT: Final = 30.0  # seconds without a confirm or reply while a submission is unconfirmed


class Submission(NamedTuple):
    """A workitem to be submitted."""

    id: str
    worker_type: str
    body: bytes
    content_type: str
    options: Options = NONE


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of a workitem."""

    id: str
    status: str  # succeeded, failed, rejected, cancelled or duplicate
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
    on_unserved: Callable[[str], None] | None = None,
) -> int:
    """Submit workitems; return their number once all are confirmed or, with `on_result`, have their results.

    Args:
        amqp: the broker's address.
        submissions: drawn one by one, as the broker confirms them.
        on_result: called with each result as it comes, in no particular order.
        timeout: seconds for everything together; None for no limit on the results.
        on_unserved: called once with the worker type of the last workitem, if the result of a workitem is
            awaited for some seconds, and no consumer takes work of that type.

    Raises:
        BrokerUnavailable: no connection, or it was lost; workitems confirmed before that stay submitted.
        BrokerRefused: wrong user, password or virtual host, or a message that the broker refuses.
        ResultTimeout: not all results came within `timeout` seconds.
    """
    return _Run(amqp, submissions, on_result, timeout, on_unserved).run()


def is_followed(headers: Mapping[str, Any], body: bytes) -> bool:
    """Return whether a reply says that a workitem is a duplicate of one whose result follows."""
    if headers.get(names.STATUS) != names.DUPLICATE:
        return False
    try:
        said = jsonrpc.decode(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(said, dict) and (said.get("result_follows") is True or "method" in said)


class _Run(OutboundListener):
    """One call of `submit`."""

    def __init__(
        self,
        amqp: AmqpSettings,
        submissions: Iterable[Submission],
        on_result: Callable[[Result], None] | None,
        timeout: float | None,
        on_unserved: Callable[[str], None] | None,
    ) -> None:
        self._loop = EventLoop()
        self._submissions = iter(submissions)
        self._has_more = True
        self._on_result = on_result
        self._timeout = timeout
        self._on_unserved = on_unserved
        self._last: Submission | None = None
        self._submitted = 0
        self._unconfirmed = 0
        self._awaited: set[str] = set()
        self._last_progress = time.monotonic()
        self._session = Session(self._loop, amqp, "taskqueue submit", on_error=self._loop.fail)
        on_reply = self._take_reply if on_result else None
        self._outbound = Outbound(self._loop, self._session, self, on_reply=on_reply)

    def run(self) -> int:
        if self._timeout is not None:
            self._loop.call_later(self._timeout, self._timed_out)
        self._loop.call_later(_UNSERVED_AFTER, self._look_for_consumers)
        self._session.open()
        self._watch_for_silence()
        try:
            self._loop.run()
        finally:
            self._loop.close()
        return self._submitted

    def _feed(self) -> None:
        """Publish submissions while the window has room."""
        while self._has_more and self._unconfirmed < _WINDOW:
            submission = next(self._submissions, None)
            if submission is None:
                self._has_more = False
            else:
                self._publish(submission)
        self._leave_if_done()

    def _publish(self, submission: Submission) -> None:
        id_, worker_type, reply_to = submission.id, submission.worker_type, None
        if self._on_result:
            self._awaited.add(id_)
            reply_to = names.DIRECT_REPLY
        plain = submitted(worker_type, id_, submission.content_type, reply_to)
        properties = submission.options.marked(plain)
        self._last = submission
        self._submitted += 1
        self._unconfirmed += 1
        self._outbound.send(Publication(TASKQUEUE, properties, submission.body), self._published)

    def _published(self, _publication: Publication, result: PublishResult, reason: str) -> None:
        if result is PublishResult.UNDECLARED:
            self._loop.fail(BrokerRefused(f"queue {TASKQUEUE} cannot be declared: {reason}"))
        elif result is PublishResult.REFUSED:
            self._loop.fail(BrokerRefused(f"the broker refused the workitem: {reason}"))
        else:
            self._unconfirmed -= 1

    def outbound_ready(self) -> None:
        """Start to submit."""
        self._feed()

    def outbound_progress(self) -> None:
        """Submit more workitems, as the broker has confirmed some."""
        self._last_progress = time.monotonic()
        self._feed()

    def _take_reply(self, raw: bytes, body: bytes) -> None:
        self._last_progress = time.monotonic()
        properties = Properties.decode(raw)
        headers = properties.headers
        workitem = properties.correlation_id or ""
        if is_followed(headers, body):
            return  # the result comes once the other workitem is over
        if workitem in self._awaited and self._on_result is not None:
            self._awaited.remove(workitem)
            status = str(headers.get(names.STATUS, FAILED))
            self._on_result(Result(workitem, status, properties.content_type or "", body, headers))
        self._leave_if_done()

    def _leave_if_done(self) -> None:
        if not self._has_more and not self._unconfirmed and not self._awaited:
            self._session.close(self._loop.stop)

    def _look_for_consumers(self) -> None:
        tell, last = self._on_unserved, self._last
        if tell is None or last is None or last.options.delay or not (self._awaited and self._session.is_up):
            return

        def measured(size: QueueSize) -> None:
            if not size.consumers:
                tell(last.worker_type)

        measure(self._session, worker_queue(last.worker_type), done=measured, failed=lambda _reason: None)

    # --- failures ---

    def outbound_lost(self) -> None:
        """Fail: the publish results of unconfirmed workitems are unknown."""
        if self._has_more or self._awaited or self._unconfirmed:
            self._loop.fail(
                BrokerUnavailable("the connection to the broker was lost before everything was done")
            )

    def _timed_out(self) -> None:
        limit = f"within {self._timeout:g} s"
        if self._has_more or self._unconfirmed:
            self._loop.fail(ResultTimeout(f"the broker has not confirmed everything {limit}"))
        elif len(self._awaited) == 1:
            self._loop.fail(ResultTimeout(f"no result of {min(self._awaited)} {limit}; it stays submitted"))
        else:
            count = len(self._awaited)
            self._loop.fail(ResultTimeout(f"no result of {count} workitems {limit}; they stay submitted"))

    def _watch_for_silence(self) -> None:
        """Fail after a long time without confirms, such as during an alarm of the broker."""
        if self._unconfirmed and time.monotonic() - self._last_progress > _CONFIRM_TIMEOUT:
            self._loop.fail(BrokerUnavailable(f"no confirm from the broker for {_CONFIRM_TIMEOUT:g} s"))
        self._loop.call_later(1.0, self._watch_for_silence)
