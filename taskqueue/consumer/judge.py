"""The verdict on a run: a result, another run and when, or the end of all attempts."""

import logging
import random
import time
from typing import Final

from taskqueue.config import GroupSettings
from taskqueue.consumer.assignment import Assignment, Crash
from taskqueue.consumer.notices import Notices
from taskqueue.consumer.settlement import Settlement
from taskqueue.errors import CallCancelled
from taskqueue.messages import results
from taskqueue.process.logs import Log
from taskqueue.worker.frames import Outcome, Verdict

#: How often a handler may ask for another run by raising Retry.
MOST_REQUESTS: Final = 100

_CRASH_DELAY: Final = 1.0  # seconds after the second crash; the first is followed at once


def retry_delay(group: GroupSettings, assignment: Assignment, outcome: Outcome) -> float | None:
    """Return after how many seconds a workitem whose handler raised runs again; None if it does not."""
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
    """Return after how many seconds a workitem whose worker crashed runs again; ever later."""
    return 0.0 if crashes == 1 else min(_CRASH_DELAY * 2 ** min(crashes - 2, 20), group.retry_max_delay)


class Judge:
    """Decides by the group's settings, says so in the log, and has it settled."""

    def __init__(self, settlement: Settlement, notices: Notices, log: Log) -> None:
        """Have assignments settled, and callers told of it."""
        self._settlement = settlement
        self._notices = notices
        self._log = log

    def performed(self, assignment: Assignment, worker: str, outcome: Outcome) -> None:
        """Act on what a worker says became of a workitem."""
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
            log.warning("runs again in %.1f s, attempt %d: %s", delay, assignment.attempt + 1, outcome.error)
            self._notices.retrying(assignment, delay, outcome.error)
            self._settlement.run_later(assignment, run, outcome.error, delay)
        elif outcome.verdict is Verdict.REJECTED:
            log.warning("rejected: %s", outcome.error)
            self._notices.finished(assignment, results.REJECTED)
            self._settlement.reject_with(assignment, run, outcome)
        else:
            log.warning("failed: %s", outcome.error)
            self._notices.finished(assignment, results.FAILED)
            self._settlement.fail_with(assignment, run, outcome)

    def crashed(self, assignment: Assignment, worker: str, since: float, crash: Crash) -> None:
        """Charge the death of a worker, which began at `since`, in seconds since 1970, to its workitem."""
        log = self._log.bind(workitem=assignment.id, worker=worker)
        crashes, run = assignment.crashes + 1, assignment.run(worker, since, time.time())
        if crashes < assignment.group.max_crashes:
            delay = crash_delay(assignment.group, crashes)
            self._notices.retrying(assignment, delay, crash.text)
            log.warning(
                "its worker crashed (%s); crash %d, it runs again in %g s", crash.text, crashes, delay
            )
            self._settlement.run_after_crash(assignment, run, crash, delay)
            return
        log.error("failed: its worker crashed (%s); crash %d, it is given up", crash.text, crashes)
        failure = results.Failure("WorkerCrashed", f"{crash.text}; {crashes} crashes in all")
        self._notices.finished(assignment, results.FAILED)
        self._settlement.crash(assignment, run, crash, failure)

    def give_up(self, assignment: Assignment, error: str, reason: str) -> None:
        """Fail a workitem that no worker is to begin."""
        now, failure = time.time(), results.Failure(error, reason)
        self._log.warning("failed: %s", failure, workitem=assignment.id)
        self._notices.finished(assignment, results.FAILED)
        self._settlement.fail(assignment, assignment.run("", now, now), failure)

    def unreadable(self, assignment: Assignment, error: str, reason: str) -> None:
        """Fail a message that is too dangerous to be looked at."""
        now, failure = time.time(), results.Failure(error, reason)
        self._log.error("failed: %s", failure, workitem=assignment.id)
        self._settlement.fail(assignment, assignment.run("", now, now), failure, is_quoted=False)

    def cancelled(self, assignment: Assignment, worker: str = "") -> None:
        """End a workitem that its caller wants no more, which had no run or none to its end."""
        now, failure = time.time(), results.Failure.of(CallCancelled("its caller has cancelled it"))
        self._log.info("cancelled", workitem=assignment.id)
        self._notices.finished(assignment, results.CANCELLED)
        self._settlement.cancel(assignment, assignment.run(worker, now, now), failure)

    def reject(self, assignment: Assignment, reason: str) -> None:
        """Put aside what is no workitem."""
        self._log.warning("rejected: %s", reason, workitem=assignment.id)
        self._settlement.reject(assignment, reason)
