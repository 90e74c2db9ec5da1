"""Settling a workitem: publish its outcome until the broker has confirmed all its messages."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

from taskqueue.amqp.properties import Properties
from taskqueue.broker.chains import following
from taskqueue.broker.claims import end_of
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.outbound import Outbound
from taskqueue.broker.publisher import Publication, PublishResult
from taskqueue.broker.receipts import ReceiptPublisher, is_step, receipt_of
from taskqueue.broker.scheduling import completion_of
from taskqueue.broker.topology import (
    CLAIMS,
    FAILED_QUEUE,
    REJECTED_QUEUE,
    SCHEDULES,
    TASKQUEUE,
    reply_fault,
    worker_queue,
)
from taskqueue.config import GroupSettings
from taskqueue.consumer.in_flight import Assignment, Crash
from taskqueue.consumer.record import RunRecord
from taskqueue.messages import names, results
from taskqueue.messages.content import JSON, is_plain
from taskqueue.messages.events import Event
from taskqueue.messages.forwarding import login_of, rejected
from taskqueue.messages.history import again, dead_letter_properties, next_run, with_history
from taskqueue.messages.results import CANCELLED as STATUS_CANCELLED
from taskqueue.messages.results import FAILED as STATUS_FAILED
from taskqueue.messages.results import REJECTED as STATUS_REJECTED
from taskqueue.messages.results import SUCCEEDED, Failure, Run
from taskqueue.messages.workitem import Workitem
from taskqueue.process.logs import Log
from taskqueue.unique.wire import Result
from taskqueue.worker.frames import Outcome

#: Maximum size in bytes of a body that is quoted in a failure that no worker could describe. It is decoded in
#: this process; that takes some milliseconds and memory of at most 30 times its size.
_LARGEST_QUOTED: Final = 128 * 1024
_MOST_REFUSALS: Final = 3  # refused reports on one workitem, after which none is sent


class Settlement:
    """Publishes outcomes of workitems; an assignment is settled once all its publications are confirmed."""

    def __init__(
        self,
        loop: EventLoop,
        outbound: Outbound,
        group: GroupSettings,
        record: RunRecord,
        *,
        on_settled: Callable[[Assignment], None],
        on_abandoned: Callable[[Assignment], None],
    ) -> None:
        """Publish for one group.

        record -- makes the events of what is published
        on_settled -- takes each assignment whose delivery may be acknowledged
        on_abandoned -- takes each assignment whose delivery must never be acknowledged
        """
        self._outbound = outbound
        self._group = group
        self._record = record
        record.publisher.on_recorded = self._recorded
        self._on_settled, self._on_abandoned = on_settled, on_abandoned
        self._log = Log("consumer", group=group.name)
        self._receipts = ReceiptPublisher(loop, outbound, self._log, self._recorded)

    # --- the ways to end ---

    def succeed(self, assignment: Assignment, run: Run, outcome: Outcome) -> None:
        """Publish a success, or the next workitem of a chain."""
        result = Result(SUCCEEDED, outcome.content_type, outcome.body)
        step = following(assignment.properties, result)
        if isinstance(step, Failure):
            self._log.warning("failed: %s", step, workitem=assignment.id)
            self.fail(assignment, run, step)
            return
        publications = [step] if step else self._reports(assignment, run, *result)
        self._finish(assignment, publications, self._record.succeeded(assignment, run, outcome), result)

    def run_later(self, assignment: Assignment, run: Run, outcome: Outcome, delay: float) -> None:
        """Publish a workitem whose handler raised, with its history; it runs again in `delay` seconds."""
        event = self._record.retried(assignment, run, outcome, delay)
        run = with_history(run, "failed", outcome.error)
        properties = next_run(run, names.FAILURES, assignment.failures + 1, delay)
        self._begin(assignment, [self._to_worker(assignment, properties)], event, delay)

    def run_after_crash(self, assignment: Assignment, run: Run, cause: Crash, delay: float) -> None:
        """Publish a workitem whose worker crashed, with its history; it runs again in `delay` seconds."""
        run = with_history(run, "crashed", cause.text, cause.peak_memory)
        properties = next_run(run, names.CRASHES, assignment.crashes + 1, delay)
        event = self._record.crashed(assignment, run, cause, delay)
        self._begin(assignment, [self._to_worker(assignment, properties)], event, delay or None)

    def postpone(self, assignment: Assignment, wait: float | None) -> None:
        """Send a workitem that is due in `wait` seconds to a delay queue; None: to its queue again."""
        properties = again(assignment.properties)
        self._begin(assignment, [self._to_worker(assignment, properties)], None, wait)

    def fail_with(self, assignment: Assignment, run: Run, outcome: Outcome) -> None:
        """Publish a failure that the worker has described, and keep the dead letter."""
        run = with_history(run, "failed", outcome.error)
        result = Result(STATUS_FAILED, outcome.content_type, outcome.body)
        reports = self._reports(assignment, run, *result)
        event = self._record.failed(assignment, run, outcome.error, outcome)
        publications = [*reports, *self._failed(assignment, run, outcome.error)]
        self._finish(assignment, publications, event, result, outcome.error)

    def reject_with(self, assignment: Assignment, run: Run, outcome: Outcome) -> None:
        """Publish that the handler has rejected a workitem, and keep it in the rejected queue."""
        run = with_history(run, "rejected", outcome.error)
        result = Result(STATUS_REJECTED, outcome.content_type, outcome.body)
        reports = self._reports(assignment, run, *result)
        event = self._record.rejected_by_handler(assignment, run, outcome)
        kept = self._kept(assignment, run, REJECTED_QUEUE, outcome.error)
        self._finish(assignment, [*reports, kept], event, result, outcome.error)

    def crash(self, assignment: Assignment, run: Run, cause: Crash, failure: Failure) -> None:
        """Publish the failure of a workitem after its last crash, and keep the dead letter."""
        event = self._record.crashed(assignment, run, replace(cause, text=str(failure)), None)
        run = with_history(run, "crashed", cause.text, cause.peak_memory)
        self._publish_failure(assignment, run, failure, event)

    def fail(self, assignment: Assignment, run: Run, failure: Failure, *, is_quoted: bool = True) -> None:
        """Publish a failure that no worker could describe, and keep the dead letter.

        is_quoted -- whether the failure quotes the workitem's body, which must be decoded for that
        """
        event = self._record.failed(assignment, run, str(failure))
        self._publish_failure(assignment, run, failure, event, is_quoted=is_quoted)

    def _publish_failure(
        self,
        assignment: Assignment,
        run: Run,
        failure: Failure,
        event: Event | None,
        *,
        is_quoted: bool = True,
    ) -> None:
        body = results.encode_failure(failure, _quotable(run) if is_quoted else None)
        result = Result(STATUS_FAILED, JSON, body)
        reports = self._reports(assignment, run, *result)
        publications = [*reports, *self._failed(assignment, run, str(failure))]
        self._finish(assignment, publications, event, result, str(failure))

    def cancel(self, assignment: Assignment, run: Run, failure: Failure) -> None:
        """Publish that a workitem was cancelled; it is not kept."""
        body = results.encode_failure(failure, _quotable(run))
        result = Result(STATUS_CANCELLED, JSON, body)
        publications = self._reports(assignment, run, *result)
        event = self._record.cancelled(assignment, run)
        self._finish(assignment, publications, event, result, str(failure))

    def reject(self, assignment: Assignment, reason: str) -> None:
        """Keep a message that is no workitem in the rejected queue; publish the rejection to its reply_to."""
        received, now, failure = assignment.properties, time.time(), Failure("Unroutable", reason)
        body = results.encode_failure(failure, None)
        run = assignment.run("", now, now)
        result = Result(STATUS_REJECTED, JSON, body)
        reports = self._reports(assignment, run, *result) if received.reply_to else []
        queue, login = worker_queue(assignment.worker_type), login_of(received)
        properties = rejected(received, reason, queue, login or "")
        publications = [*reports, self._to(assignment, REJECTED_QUEUE, properties.encode())]
        event = self._record.rejected(assignment, reason)
        self._finish(assignment, publications, event, result, str(failure))

    # --- publications ---

    def _reports(
        self, assignment: Assignment, run: Run, status: str, content_type: str, body: bytes
    ) -> list[Publication]:
        queue = self._reply_queue(assignment)
        if queue is None or (content_type == JSON and not body):  # JSON-RPC: a notification has no response
            return []
        if is_step(assignment.properties):  # its result is in its receipt
            return []
        properties = results.encode_result(run, status, content_type, self._group.results_expire)
        return [self._to(assignment, queue, properties, body)]

    def _reply_queue(self, assignment: Assignment) -> str | None:
        """Return the queue for the result: the reply_to, else the group's results queue; None for none."""
        asked = assignment.properties.reply_to
        fault = reply_fault(asked) if asked else ""
        if fault:
            self._log.warning("reply_to %s %s; ignored", asked, fault, workitem=assignment.id)
        elif asked:
            return asked
        return self._group.results_routing_key if self._group.report_results else None

    def _failed(self, assignment: Assignment, run: Run, reason: str) -> list[Publication]:
        return [self._kept(assignment, run, FAILED_QUEUE, reason)] if self._group.keep_failed else []

    def _kept(self, assignment: Assignment, run: Run, queue: str, reason: str) -> Publication:
        source = worker_queue(assignment.worker_type)
        return self._to(assignment, queue, dead_letter_properties(run, reason, source).encode())

    def _to_worker(self, assignment: Assignment, properties: Properties) -> Publication:
        return self._to(assignment, worker_queue(assignment.worker_type), properties.encode())

    def _to(
        self, assignment: Assignment, queue: str, properties: bytes, body: bytes | None = None
    ) -> Publication:
        return Publication(
            queue,
            properties,
            assignment.body if body is None else body,
            # RabbitMQ before 4.2 returns a direct reply although it has delivered it.
            mandatory=not queue.startswith(names.DIRECT_REPLY),
            declares=not self._is_reply(assignment, queue),  # no queue for a producer that has left
        )

    # --- until all publications are confirmed ---

    def _finish(
        self,
        assignment: Assignment,
        publications: list[Publication],
        event: Event | None,
        result: Result,
        error: str = "",
    ) -> None:
        """Publish the end of a workitem; tell its workflow, its schedule and the keeper of its key of it.

        error -- why it did not succeed, in one line
        """
        properties = assignment.properties
        if properties.header_table is not None:
            now = time.time()
            end = end_of(properties, assignment.worker_type, now, result)
            others = filter(None, (end, completion_of(properties)))
            publications = [*others, *publications]  # who has the result finds the key free
            if receipt := receipt_of(properties, result, error, now):
                assignment.unrecorded += 1
                self._receipts.tell(receipt, assignment)
        self._begin(assignment, publications, event)

    def _begin(
        self,
        assignment: Assignment,
        publications: list[Publication],
        event: Event | None,
        wait: float | None = None,
    ) -> None:
        for replaced in assignment.unpublished:
            self._outbound.forget(replaced)
        assignment.unpublished = publications
        self._tell(assignment, event)
        if not publications:
            self._settle_if_confirmed(assignment)
        for publication in publications:
            self._outbound.send(publication, partial(self._published, assignment), wait)

    def _tell(self, assignment: Assignment, event: Event | None) -> None:
        if event is not None:
            assignment.unrecorded += self._record.publisher.emit(event, assignment)

    def _published(
        self, assignment: Assignment, publication: Publication, result: PublishResult, reason: str
    ) -> None:
        if result is PublishResult.CONFIRMED or publication.queue in (SCHEDULES.name, CLAIMS.name):
            self._done(assignment, publication)  # without its queue, no scheduler or keeper waits for the end
        elif result is PublishResult.RETURNED:
            self._redirect(assignment, publication, "does not exist")
        elif result is PublishResult.UNDECLARED and not publication.exchange:
            self._outbound.send_later(publication, partial(self._published, assignment))
        elif publication.closes and self._is_reply(assignment, publication.queue):
            self._redirect(assignment, publication, f"cannot be used: {reason}")
        else:
            self._replace(assignment, publication, reason)

    def _done(self, assignment: Assignment, publication: Publication) -> None:
        assignment.unpublished.remove(publication)
        self._settle_if_confirmed(assignment)

    def _recorded(self, assignment: Assignment) -> None:
        assignment.unrecorded -= 1
        self._settle_if_confirmed(assignment)

    def _settle_if_confirmed(self, assignment: Assignment) -> None:
        if not (assignment.unpublished or assignment.unrecorded or assignment.is_abandoned):
            self._on_settled(assignment)

    def _redirect(self, assignment: Assignment, publication: Publication, why: str) -> None:
        """Publish a result that cannot be sent to its reply_to to the group's results queue."""
        key = self._group.results_routing_key
        self._log.warning(
            "reply_to %s %s; the result goes to %s", publication.queue, why, key, workitem=assignment.id
        )
        redirected = self._to(assignment, key, publication.properties, publication.body)
        assignment.unpublished[assignment.unpublished.index(publication)] = redirected
        self._outbound.send(redirected, partial(self._published, assignment))

    def _is_reply(self, assignment: Assignment, queue: str) -> bool:
        """Return whether a queue is the workitem's reply_to, and not the group's results queue."""
        return queue == assignment.properties.reply_to and queue != self._group.results_routing_key

    def _replace(self, assignment: Assignment, publication: Publication, reason: str) -> None:
        """Publish a substitute for a message that the broker refuses for good."""
        if publication.queue in (worker_queue(assignment.worker_type), TASKQUEUE):
            run = assignment.run("", 0, 0)
            if publication.queue != TASKQUEUE:
                run = run._replace(properties=Properties.decode(publication.properties))
            failure = Failure("RunRefused", f"the broker refuses its next run: {reason}")
            self._log.error("failed: %s", failure, workitem=assignment.id)
            self.fail(assignment, run, failure)
            return
        if assignment.is_bare and publication.queue == FAILED_QUEUE:
            self._abandon(assignment, reason)
            return
        if publication.queue in (FAILED_QUEUE, REJECTED_QUEUE):
            self._log.error(
                "kept in %s without its properties: %s", FAILED_QUEUE, reason, workitem=assignment.id
            )
            smaller = [self._bare(assignment, reason)]
        else:
            self._log.error("failed: the broker refused the result: %s", reason, workitem=assignment.id)
            smaller = self._refused_result(assignment, publication.queue, reason)
        assignment.unpublished += smaller
        self._done(assignment, publication)
        for replacement in smaller:
            self._outbound.send(replacement, partial(self._published, assignment))

    def _bare(self, assignment: Assignment, reason: str) -> Publication:
        assignment.is_bare = True
        bare = Properties(delivery_mode=2, type=assignment.worker_type, message_id=assignment.id)
        headers = {names.REASON: reason, names.QUEUE: worker_queue(assignment.worker_type)}
        return self._to(assignment, FAILED_QUEUE, bare.with_headers(headers).encode())

    def _abandon(self, assignment: Assignment, reason: str) -> None:
        """Leave a workitem unacknowledged if the broker refuses even its body: it stays in its queue."""
        queue = worker_queue(assignment.worker_type)
        text = "cannot be moved to %s; left unacknowledged in %s: %s"
        self._log.error(text, FAILED_QUEUE, queue, reason, workitem=assignment.id)
        for other in assignment.unpublished:
            self._outbound.forget(other)
        assignment.unpublished = []
        assignment.is_abandoned = True
        self._on_abandoned(assignment)

    def _refused_result(self, assignment: Assignment, queue: str, reason: str) -> list[Publication]:
        """Return a failure that states the refusal, and the copy to keep.

        From the second refusal on, the failure does not quote the workitem. After the third refusal, only the
        copy is left.
        """
        run = assignment.run("", 0, 0)
        failure = Failure("ResultRefused", f"the broker refused the result: {reason}")
        properties = results.encode_result(run, STATUS_FAILED, JSON, self._group.results_expire)
        body = results.encode_failure(failure, _quotable(run) if not assignment.refusals else None)
        assignment.refusals += 1
        reports = (
            [self._to(assignment, queue, properties, body)] if assignment.refusals < _MOST_REFUSALS else []
        )
        if any(sent.queue == FAILED_QUEUE for sent in assignment.unpublished) or assignment.refusals > 1:
            return reports
        self._tell(assignment, self._record.failed(assignment, run, str(failure)))
        return [*reports, *self._failed(assignment, run, str(failure))]


def _quotable(run: Run) -> Workitem | None:
    """Return the workitem for a failure to quote; None if decoding it here would take too long."""
    is_cheap = len(run.body) <= _LARGEST_QUOTED and is_plain(run.properties.content_encoding)
    return run.workitem if is_cheap else None
