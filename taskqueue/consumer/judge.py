"""The verdict on a run: a result, another run after a delay, or a final failure."""

import logging
import random
import time
from typing import Final

from taskqueue.config import GroupSettings
from taskqueue.consumer.callers import Notices
from taskqueue.consumer.in_flight import Assignment, Crash
from taskqueue.consumer.settlement import Settlement
from taskqueue.errors import CallCancelled
from taskqueue.messages import results
from taskqueue.process.logs import Log
from taskqueue.texts import counted
from taskqueue.worker.frames import Outcome, Verdict

#: Maximum number of further runs that a handler may ask for by raising Retry.
MOST_REQUESTS: Final = 100

_CRASH_DELAY: Final = 1.0  # seconds after the second crash; after the first, the workitem runs at once


def retry_delay(group: GroupSettings, assignment: Assignment, outcome: Outcome) -> float | None:
    """Return the seconds until a workitem whose handler raised runs again; None if it does not."""
    failures = assignment.failures + 1
    most = max(group.retries, MOST_REQUESTS) if outcome.verdict is Verdict.RETRY else group.retries
    if outcome.verdict is Verdict.REJECTED or failures > most:
        return None
    if outcome.delay >= 0:
        return outcome.delay
    delay = group.retry_delay * group.retry_backoff ** min(failures - 1, 100)
    jitter = random.uniform(-group.retry_jitter, group.retry_jitter)  # noqa: S311 -- keeps no secret
    return min(delay, group.retry_max_delay) * (1 + jitter)


def crash_delay(group: GroupSettings, crashes: int) -> float:
    """Return the seconds until a workitem whose worker crashed runs again; the delay grows with `crashes`."""
    return 0.0 if crashes == 1 else min(_CRASH_DELAY * 2 ** min(crashes - 2, 20), group.retry_max_delay)


class Judge:
    """Decides by the group's settings, logs the verdict, notifies the caller and settles the workitem."""

    def __init__(self, settlement: Settlement, notices: Notices, log: Log) -> None:
        self._settlement = settlement
        self._notices = notices
        self._log = log

    def performed(self, assignment: Assignment, worker: str, outcome: Outcome) -> None:
        """Act on a worker's outcome of a workitem."""
        run = assignment.run(worker, outcome.started, outcome.ended)
        if outcome.verdict is Verdict.SUCCEEDED:
            if self._log.isEnabledFor(logging.DEBUG):
                self._log.debug("succeeded", workitem=assignment.id, worker=worker)
            self._notices.finished(assignment, results.SUCCEEDED)
            self._settlement.succeed(assignment, run, outcome)
            return
        log = self._log.bind(workitem=assignment.id, worker=worker)
        delay = retry_delay(assignment.group, assignment, outcome)
        if delay is not None:
            log.warning("retry in %.1f s, attempt %d: %s", delay, assignment.attempt + 1, outcome.error)
            self._notices.retrying(assignment, delay, outcome.error)
            self._settlement.run_later(assignment, run, outcome, delay)
        elif outcome.verdict is Verdict.REJECTED:
            log.warning("rejected: %s", outcome.error)
            self._notices.finished(assignment, results.REJECTED)
            self._settlement.reject_with(assignment, run, outcome)
        else:
            log.warning("failed: %s", outcome.error)
            self._notices.finished(assignment, results.FAILED)
            self._settlement.fail_with(assignment, run, outcome)

    def crashed(self, assignment: Assignment, worker: str, since: float, crash: Crash) -> None:
        """Charge a worker's death to the workitem that it began at `since` (seconds since 1970)."""
        log = self._log.bind(workitem=assignment.id, worker=worker)
        crashes, run = assignment.crashes + 1, assignment.run(worker, since, time.time())
        if crashes < assignment.group.max_crashes:
            delay = crash_delay(assignment.group, crashes)
            self._notices.retrying(assignment, delay, crash.text)
            log.warning("worker crashed (%s); crash %d, retry in %g s", crash.text, crashes, delay)
            self._settlement.run_after_crash(assignment, run, crash, delay)
            return
        log.error("failed: worker crashed (%s); crash %d, no further retry", crash.text, crashes)
        failure = results.Failure(
            "WorkerCrashed", f"{crash.text}; {counted(crashes, 'crash', 'crashes')} in all"
        )
        self._notices.finished(assignment, results.FAILED)
        self._settlement.crash(assignment, run, crash, failure)

    def give_up(self, assignment: Assignment, error: str, reason: str) -> None:
        """Fail a workitem before any worker has begun it."""
        now, failure = time.time(), results.Failure(error, reason)
        self._log.warning("failed: %s", failure, workitem=assignment.id)
        self._notices.finished(assignment, results.FAILED)
        self._settlement.fail(assignment, assignment.run("", now, now), failure)

    def expired(self, assignment: Assignment) -> None:
        """Fail a workitem that has expired before any worker has begun it."""
        self.give_up(assignment, "WorkitemExpired", "expired before a worker was free")

    def unreadable(self, assignment: Assignment, error: str, reason: str) -> None:
        """Fail a message that is too dangerous to be decoded."""
        now, failure = time.time(), results.Failure(error, reason)
        self._log.error("failed: %s", failure, workitem=assignment.id)
        self._settlement.fail(assignment, assignment.run("", now, now), failure, is_quoted=False)

    def cancelled(self, assignment: Assignment, worker: str = "", since: float | None = None) -> None:
        """End a cancelled workitem that has not run, or not to its end.

        worker, since -- the worker that has begun it, and when (seconds since 1970)
        """
        now, failure = time.time(), results.Failure.of(CallCancelled("cancelled by its caller"))
        self._log.info("cancelled", workitem=assignment.id)
        self._notices.finished(assignment, results.CANCELLED)
        self._settlement.cancel(assignment, assignment.run(worker, since or now, now), failure)

    def reject(self, assignment: Assignment, reason: str) -> None:
        """Move a message that is no valid workitem to the rejected queue."""
        self._log.warning("rejected: %s", reason, workitem=assignment.id)
        self._settlement.reject(assignment, reason)
