"""How a workitem ends: what is published for it, until the broker has confirmed all of it."""

import time
from collections.abc import Callable
from functools import partial
from typing import Final

from taskqueue.amqp.properties import Properties
from taskqueue.broker.delays import Delays
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.publisher import Publication, Publisher, PublishResult
from taskqueue.broker.topology import (
    FAILED_QUEUE,
    REJECTED_QUEUE,
    Provider,
    Queue,
    is_ours,
    is_text,
    worker_queue,
)
from taskqueue.config import GroupSettings
from taskqueue.consumer.assignment import Assignment, Crash
from taskqueue.messages import names, results
from taskqueue.messages.content import JSON, is_plain
from taskqueue.messages.forwarding import login_of, rejected
from taskqueue.messages.history import again, dead_letter_properties, next_run, with_history
from taskqueue.messages.results import CANCELLED as STATUS_CANCELLED
from taskqueue.messages.results import FAILED as STATUS_FAILED
from taskqueue.messages.results import REJECTED as STATUS_REJECTED
from taskqueue.messages.results import SUCCEEDED, Failure, Run
from taskqueue.messages.workitem import Workitem
from taskqueue.process.logs import Log
from taskqueue.worker.frames import Outcome

#: Bytes of a body that is quoted in a failure that no worker could describe. It is decoded here, beside the
#: connections, in some milliseconds and 30 times its size of memory at the most.
_LARGEST_QUOTED: Final = 128 * 1024
_MOST_REFUSALS: Final = 3  # of reports on one workitem, until there is none
_DECLARE_AGAIN: Final = 5.0  # seconds after a queue could not be declared


class Settlement:
    """Publishes what workitems come to; an assignment is settled when all of that is confirmed."""

    def __init__(
        self,
        loop: EventLoop,
        publisher: Publisher,
        provider: Provider,
        delays: Delays,
        group: GroupSettings,
        *,
        on_settled: Callable[[Assignment], None],
        on_left: Callable[[Assignment], None],
    ) -> None:
        """Publish for one group.

        on_settled -- hears of each assignment whose delivery may be acknowledged
        on_left -- hears of each whose delivery never may
        """
        self._loop = loop
        self._publisher = publisher
        self._provider = provider
        self._delays = delays
        self._group = group
        self._on_settled, self._on_left = on_settled, on_left
        self._open: dict[Assignment, None] = {}  # those with something unpublished
        self._lost: list[tuple[Assignment, Publication]] = []
        self._epoch = 0  # counts the connections
        self._log = Log("consumer", group=group.name)

    # --- the ways to end ---

    def succeed(self, assignment: Assignment, run: Run, outcome: Outcome) -> None:
        """Report a result."""
        self._begin(assignment, self._reports(assignment, run, SUCCEEDED, outcome.content_type, outcome.body))

    def run_later(self, assignment: Assignment, run: Run, error: str, delay: float) -> None:
        """Have a workitem whose handler raised run again in `delay` seconds; its history travels along."""
        run = with_history(run, "failed", error)
        properties = next_run(run, names.FAILURES, assignment.failures + 1, delay)
        self._begin(assignment, [self._to_worker(assignment, properties)], delay)

    def run_after_crash(self, assignment: Assignment, run: Run, cause: Crash, delay: float) -> None:
        """Have a workitem whose worker crashed run again in `delay` seconds; its history travels along."""
        run = with_history(run, "crashed", cause.text, cause.peak_memory)
        properties = next_run(run, names.CRASHES, assignment.crashes + 1, delay)
        self._begin(assignment, [self._to_worker(assignment, properties)], delay or None)

    def postpone(self, assignment: Assignment, wait: float | None) -> None:
        """Send a workitem that is due in `wait` seconds up the delay ladder; None: into its queue anew."""
        properties = again(assignment.properties)
        self._begin(assignment, [self._to_worker(assignment, properties)], wait)

    def fail_with(self, assignment: Assignment, run: Run, outcome: Outcome) -> None:
        """Report a failure that the worker has described, and keep the workitem."""
        run = with_history(run, "failed", outcome.error)
        reports = self._reports(assignment, run, STATUS_FAILED, outcome.content_type, outcome.body)
        self._begin(assignment, [*reports, *self._failed(assignment, run, outcome.error)])

    def reject_with(self, assignment: Assignment, run: Run, outcome: Outcome) -> None:
        """Report that the handler wants no more of a workitem, and put it aside."""
        run = with_history(run, "rejected", outcome.error)
        reports = self._reports(assignment, run, STATUS_REJECTED, outcome.content_type, outcome.body)
        self._begin(assignment, [*reports, self._kept(assignment, run, REJECTED_QUEUE, outcome.error)])

    def crash(self, assignment: Assignment, run: Run, cause: Crash, failure: Failure) -> None:
        """Report that a workitem is given up after its last crash, and keep it."""
        run = with_history(run, "crashed", cause.text, cause.peak_memory)
        self.fail(assignment, run, failure)

    def fail(self, assignment: Assignment, run: Run, failure: Failure, *, is_quoted: bool = True) -> None:
        """Report a failure that no worker could describe, and keep the workitem.

        is_quoted -- whether the report quotes the workitem's body, which has to be decoded for that
        """
        body = results.encode_failure(failure, _quotable(run) if is_quoted else None)
        reports = self._reports(assignment, run, STATUS_FAILED, JSON, body)
        self._begin(assignment, [*reports, *self._failed(assignment, run, str(failure))])

    def cancel(self, assignment: Assignment, run: Run, failure: Failure) -> None:
        """Report that nobody wants a workitem any more; it is not kept."""
        body = results.encode_failure(failure, _quotable(run))
        self._begin(assignment, self._reports(assignment, run, STATUS_CANCELLED, JSON, body))

    def reject(self, assignment: Assignment, reason: str) -> None:
        """Keep a message that is no workitem, and tell whoever asked for a reply."""
        came, now = assignment.properties, time.time()
        body = results.encode_failure(Failure("Unroutable", reason), None)
        run = assignment.run("", now, now)
        reports = self._reports(assignment, run, STATUS_REJECTED, JSON, body) if came.reply_to else []
        queue, login = worker_queue(assignment.worker_type), login_of(came)
        properties = rejected(came, reason, queue, login or "")
        self._begin(assignment, [*reports, self._to(assignment, REJECTED_QUEUE, properties.encode())])

    def connection_lost(self) -> None:
        """Note what is unconfirmed: the broker may have it or not."""
        self._epoch += 1
        self._lost = [(assignment, sent) for assignment in self._open for sent in assignment.unpublished]

    def publish_again(self) -> None:
        """Publish what was unconfirmed when the connection was lost."""
        lost, self._lost = self._lost, []
        for assignment, publication in lost:
            if publication in assignment.unpublished:
                self._publisher.publish(publication)

    # --- what is published ---

    def _reports(
        self, assignment: Assignment, run: Run, status: str, content_type: str, body: bytes
    ) -> list[Publication]:
        queue = self._reply_queue(assignment)
        if queue is None or (content_type == JSON and not body):  # JSON-RPC: a notification has no response
            return []
        properties = results.encode_result(run, status, content_type, self._group.results_expire)
        return [self._to(assignment, queue, properties, body)]

    def _reply_queue(self, assignment: Assignment) -> str | None:
        """Return where the result goes: to who asked, else where the group's results go, if anywhere."""
        asked = assignment.properties.reply_to
        if asked and is_ours(asked):
            self._log.warning("reply_to %s would be a loop; ignored", asked, workitem=assignment.id)
        elif asked and not is_text(asked):
            self._log.warning("reply_to %s is not UTF-8; ignored", asked, workitem=assignment.id)
        elif asked:
            return asked
        return self._group.results_routing_key if self._group.report_results else None

    def _failed(self, assignment: Assignment, run: Run, reason: str) -> list[Publication]:
        return [self._kept(assignment, run, FAILED_QUEUE, reason)] if self._group.keep_failed else []

    def _kept(self, assignment: Assignment, run: Run, queue: str, reason: str) -> Publication:
        came_from = worker_queue(assignment.worker_type)
        return self._to(assignment, queue, dead_letter_properties(run, reason, came_from).encode())

    def _to_worker(self, assignment: Assignment, properties: Properties) -> Publication:
        return self._to(assignment, worker_queue(assignment.worker_type), properties.encode())

    def _to(
        self, assignment: Assignment, queue: str, properties: bytes, body: bytes | None = None
    ) -> Publication:
        return Publication(
            queue,
            properties,
            assignment.body if body is None else body,
            partial(self._published, assignment),
            # RabbitMQ before 4.2 returns what it has delivered to a direct reply's consumer.
            mandatory=not queue.startswith(names.DIRECT_REPLY),
        )

    # --- until all of it is confirmed ---

    def _begin(
        self, assignment: Assignment, publications: list[Publication], wait: float | None = None
    ) -> None:
        assignment.unpublished = publications
        if not publications:
            self._on_settled(assignment)
            return
        self._open[assignment] = None
        for publication in publications:
            if wait is None:
                self._publisher.publish(publication)
            else:
                self._delays.publish(publication, wait)

    def _published(
        self, assignment: Assignment, publication: Publication, result: PublishResult, reason: str
    ) -> None:
        if publication not in assignment.unpublished:
            return  # replaced, or settled after a reconnect
        if result is PublishResult.CONFIRMED:
            self._done(assignment, publication)
        elif publication.exchange and result is PublishResult.RETURNED:
            self._delays.publish_again(publication)
        elif result is PublishResult.RETURNED:
            self._provide_queue(assignment, publication)
        elif publication.closes and self._is_reply(assignment, publication):
            self._redirect(assignment, publication, f"cannot be used: {reason}")
        else:
            self._replace(assignment, publication, reason)

    def _done(self, assignment: Assignment, publication: Publication) -> None:
        assignment.unpublished.remove(publication)
        if not assignment.unpublished:
            del self._open[assignment]
            self._on_settled(assignment)

    def _redirect(self, assignment: Assignment, publication: Publication, why: str) -> None:
        """Send to where the group's results go what cannot go to who asked for it."""
        key = self._group.results_routing_key
        self._log.warning(
            "reply_to %s %s; the result goes to %s", publication.queue, why, key, workitem=assignment.id
        )
        redirected = self._to(assignment, key, publication.properties, publication.body)
        assignment.unpublished[assignment.unpublished.index(publication)] = redirected
        self._publisher.publish(redirected)

    def _is_reply(self, assignment: Assignment, publication: Publication) -> bool:
        """Tell whether a publication goes to who asked for it, who is no queue of the group's."""
        asked = assignment.properties.reply_to
        return publication.queue == asked and asked != self._group.results_routing_key

    def _provide_queue(self, assignment: Assignment, publication: Publication) -> None:
        """Make the missing queue and publish again; whoever asked for a reply and left gets no queue."""
        if self._is_reply(assignment, publication):
            self._redirect(assignment, publication, "is gone")
            return
        self._provider.provide(
            Queue(publication.queue),
            done=lambda: self._publisher.publish(publication),
            failed=lambda _reason: self._publish_later(publication),
        )

    def _publish_later(self, publication: Publication) -> None:
        epoch = self._epoch
        self._loop.call_later(_DECLARE_AGAIN, lambda: self._publish_in(epoch, publication))

    def _publish_in(self, epoch: int, publication: Publication) -> None:
        if epoch == self._epoch:
            self._publisher.publish(publication)

    def _replace(self, assignment: Assignment, publication: Publication, reason: str) -> None:
        """Publish something else instead of a message that the broker never takes."""
        if publication.queue == worker_queue(assignment.worker_type):
            run = assignment.run("", 0, 0)._replace(properties=Properties.decode(publication.properties))
            failure = Failure("RunRefused", f"the broker refuses its next run: {reason}")
            self._log.error("failed: %s", failure, workitem=assignment.id)
            self.fail(assignment, run, failure)
            return
        if assignment.is_bare and publication.queue == FAILED_QUEUE:
            self._leave(assignment, reason)
            return
        if publication.queue in (FAILED_QUEUE, REJECTED_QUEUE):
            self._log.error("kept without its properties: %s", reason, workitem=assignment.id)
            smaller = [self._bare(assignment, reason)]
        else:
            self._log.error("failed: the broker refuses the result: %s", reason, workitem=assignment.id)
            smaller = self._refused_result(assignment, publication.queue, reason)
        assignment.unpublished += smaller
        self._done(assignment, publication)
        for replacement in smaller:
            self._publisher.publish(replacement)

    def _bare(self, assignment: Assignment, reason: str) -> Publication:
        assignment.is_bare = True
        bare = Properties(delivery_mode=2, type=assignment.worker_type, message_id=assignment.id)
        headers = {names.REASON: reason, names.QUEUE: worker_queue(assignment.worker_type)}
        return self._to(assignment, FAILED_QUEUE, bare.with_headers(headers).encode())

    def _leave(self, assignment: Assignment, reason: str) -> None:
        """Leave alone what not even its body can be kept of: the broker keeps it where it is."""
        self._log.error("cannot be kept, and stays unacknowledged: %s", reason, workitem=assignment.id)
        del self._open[assignment]
        assignment.unpublished = []
        self._on_left(assignment)

    def _refused_result(self, assignment: Assignment, queue: str, reason: str) -> list[Publication]:
        """Return a failure that says so, at the second refusal without the workitem, and the copy to keep.

        After the third refusal there is only the copy.
        """
        run = assignment.run("", 0, 0)
        failure = Failure("ResultRefused", f"the broker refuses the result: {reason}")
        properties = results.encode_result(run, STATUS_FAILED, JSON, self._group.results_expire)
        body = results.encode_failure(failure, _quotable(run) if not assignment.refusals else None)
        assignment.refusals += 1
        reports = (
            [self._to(assignment, queue, properties, body)] if assignment.refusals < _MOST_REFUSALS else []
        )
        if any(sent.queue == FAILED_QUEUE for sent in assignment.unpublished) or assignment.refusals > 1:
            return reports
        return [*reports, *self._failed(assignment, run, str(failure))]


def _quotable(run: Run) -> Workitem | None:
    """Return the workitem that a failure shall quote; None if decoding it here would take too long."""
    is_cheap = len(run.body) <= _LARGEST_QUOTED and is_plain(run.properties.content_encoding)
    return run.workitem if is_cheap else None
