"""The verdict on a run: a result, another run, or the end of all attempts."""

import logging
import time

from taskqueue.consumer import retries
from taskqueue.consumer.assignment import Assignment, Crash
from taskqueue.consumer.notices import Notices
from taskqueue.consumer.settlement import Settlement
from taskqueue.errors import CallCancelled
from taskqueue.messages import results
from taskqueue.process.logs import Log
from taskqueue.worker.frames import Outcome, Verdict


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
        delay = retries.retry_delay(assignment.group, assignment, outcome)
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
            delay = retries.crash_delay(assignment.group, crashes)
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
        self._log.error("rejected: %s", reason)
        self._settlement.reject(assignment, reason)
