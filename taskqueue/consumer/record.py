"""The consumer's events: the runs of workitems, what they print, and the state of the group."""

import json
import re
import time
from typing import Final

from taskqueue.broker.events import EventPublisher
from taskqueue.broker.loop import EventLoop
from taskqueue.config import GroupSettings
from taskqueue.consumer.in_flight import Assignment, Crash
from taskqueue.consumer.link import WorkerLink
from taskqueue.consumer.workers import Workers
from taskqueue.messages import events
from taskqueue.messages.events import Begun, Cancelled, Ended, Event, LogLine, Progress, Rejected
from taskqueue.messages.recording import recorded_result, tenant_and_labels
from taskqueue.messages.results import Run
from taskqueue.texts import shorten
from taskqueue.worker.frames import Outcome, ProgressFrame

#: Seconds that a workitem runs before its start and its progress are events.
_LONG_RUN: Final = 1.0
_SEARCHED: Final = 128 * 1024  # bytes of a failure; its traceback precedes the quoted workitem
_TRACEBACK: Final = re.compile(rb'"traceback": ?("(?:[^"\\]|\\.){1,100000}")')


class RunRecord:
    """Makes events of what happens to workitems in a consumer, while anybody records them.

    The methods that describe an end return the event, so that its publication joins the others; None if
    nobody records it.
    """

    def __init__(self, publisher: EventPublisher[Assignment], group: GroupSettings) -> None:
        """Make events of a group's workitems, which `publisher` publishes."""
        self.publisher = publisher
        self._group = group
        self._user = group.user or publisher.user

    # --- the ends of runs ---

    def succeeded(self, assignment: Assignment, run: Run, outcome: Outcome) -> Event | None:
        """Describe a success."""
        if not self._is_on():
            return None
        event = self._ended(assignment, run, "succeeded", events.SUCCEEDED)
        result = recorded_result(outcome.body, self._group.record_result)
        kind = outcome.content_type if result is not None else ""
        return event._replace(size=len(outcome.body), content_type=kind, result=result or "")

    def failed(
        self, assignment: Assignment, run: Run, error: str, outcome: Outcome | None = None
    ) -> Event | None:
        """Describe the failure of a workitem; `outcome` is the worker's, if one has described it."""
        if not self._is_on():
            return None
        event = self._ended(assignment, run, "failed", events.FAILED)
        return _with_error(event, error, outcome)

    def retried(self, assignment: Assignment, run: Run, outcome: Outcome, delay: float) -> Event | None:
        """Describe a failed run after which the workitem runs again in `delay` seconds."""
        if not self._is_on():
            return None
        event = self._ended(assignment, run, "failed", events.RETRYING)
        return _with_error(event, outcome.error, outcome)._replace(again_at=time.time() + delay)

    def rejected_by_handler(self, assignment: Assignment, run: Run, outcome: Outcome) -> Event | None:
        """Describe a run whose handler has rejected the workitem."""
        if not self._is_on():
            return None
        event = self._ended(assignment, run, "rejected", events.REJECTED)
        return _with_error(event, outcome.error, outcome)

    def crashed(self, assignment: Assignment, run: Run, crash: Crash, delay: float | None) -> Event | None:
        """Describe a worker's crash; the workitem runs again in `delay` seconds, or fails if it is None."""
        if not self._is_on():
            return None
        state, again = (events.FAILED, None) if delay is None else (events.RETRYING, time.time() + delay)
        event = self._ended(assignment, run, events.CRASHED, state)
        return event._replace(
            error=shorten(crash.text, 2000), peak_memory=max(0, crash.peak_memory), again_at=again
        )

    def cancelled(self, assignment: Assignment, run: Run) -> Event | None:
        """Describe a cancelled workitem."""
        if not self._is_on():
            return None
        tenant, labels = tenant_and_labels(assignment.properties)
        worker, ids = run.worker, (assignment.id, assignment.worker_type)
        started = run.started if worker else None
        return Cancelled(*ids, time.time(), worker, run.attempt, started, tenant, labels)

    def rejected(self, assignment: Assignment, reason: str) -> Event | None:
        """Describe a message that is no workitem."""
        if not self._is_on():
            return None
        tenant, labels = tenant_and_labels(assignment.properties)
        size, text = len(assignment.body), shorten(reason, 2000)
        return Rejected(assignment.id, assignment.worker_type, time.time(), text, size, tenant, labels)

    def _ended(self, assignment: Assignment, run: Run, outcome: str, state: str) -> Ended:
        tenant, labels = tenant_and_labels(assignment.properties)
        return Ended(
            id=assignment.id,
            worker_type=assignment.group.worker_type,
            attempt=run.attempt,
            outcome=outcome,
            state=state,
            ended=run.ended or time.time(),
            started=run.started or None if run.worker else None,
            queued=time.time() - (time.monotonic() - assignment.delivered),
            worker=run.worker,
            user=self._user,
            tenant=tenant,
            labels=labels,
        )

    # --- on the way ---

    def watch(self, loop: EventLoop, workers: Workers) -> None:
        """Tell of each run that has lasted for a second."""
        for link in workers.running_for(_LONG_RUN):
            self._tell_begun(link, link.tasks[0])
        loop.call_later(_LONG_RUN, lambda: self.watch(loop, workers))

    def begun(self, link: WorkerLink, assignment: Assignment) -> None:
        """Tell of a run that begins after the workitem had been delivered before.

        An earlier run of less than a second may have ended with its consumer; so may this one.
        """
        if assignment.delivery.redelivered:
            self._tell_begun(link, assignment)

    def _tell_begun(self, link: WorkerLink, assignment: Assignment) -> None:
        if assignment.is_long or not self._is_on():
            return
        assignment.is_long = True
        tenant, labels = tenant_and_labels(assignment.properties)
        ids, attempt = (assignment.id, assignment.worker_type), assignment.attempt
        event = Begun(*ids, attempt, link.since, link.name, tenant, labels, self._user)
        redelivered = int(assignment.delivery.redelivered)
        timeout = assignment.group.timeout or None
        self.publisher.emit(event._replace(timeout=timeout, redelivered=redelivered))

    def progress(self, assignment: Assignment, progress: ProgressFrame) -> None:
        """Tell the progress of a run that has lasted for a second."""
        if assignment.is_long and self._is_on():
            fraction = min(max(progress.fraction, 0.0), 1.0)
            tenant, _ = tenant_and_labels(assignment.properties)
            self.publisher.emit(Progress(assignment.id, time.time(), fraction, progress.text, tenant))

    def printed(self, assignment: Assignment, worker: str, level: str, text: str) -> None:
        """Tell a line that a handler has printed or logged."""
        if self._is_on():
            tenant, _ = tenant_and_labels(assignment.properties)
            self.publisher.emit(LogLine(assignment.id, time.time(), worker, level, text, tenant))

    def _is_on(self) -> bool:
        if self.publisher.is_on:
            return True
        self.publisher.skip()
        return False


def _with_error(event: Ended, error: str, outcome: Outcome | None) -> Ended:
    trace = _traceback_in(outcome.body) if outcome is not None else ""
    return event._replace(
        error=shorten(error, 2000), traceback=trace, size=len(outcome.body) if outcome else 0
    )


def _traceback_in(body: bytes) -> str:
    """Return the traceback in a failure, which is not decoded: it may quote any body."""
    found = _TRACEBACK.search(body, 0, _SEARCHED)
    try:
        return shorten(json.loads(found[1])) if found else ""
    except ValueError:
        return ""
