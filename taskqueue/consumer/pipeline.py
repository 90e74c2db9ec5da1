"""A workitem's way through its consumer: receive, admit, assign, perform, settle."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

from taskqueue.broker.loop import EventLoop
from taskqueue.broker.outbound import Outbound
from taskqueue.broker.session import Session
from taskqueue.broker.subscription import Delivery
from taskqueue.config import GroupSettings
from taskqueue.consumer.admission import Admission, BelowLimit, Due, NotCancelled, NotExpired, NotTooLarge
from taskqueue.consumer.callers import Cancellations, Notices
from taskqueue.consumer.control import Reports
from taskqueue.consumer.in_flight import Assignment, Crash, InFlightTable
from taskqueue.consumer.intake import Intake, groups_of
from taskqueue.consumer.judge import Judge
from taskqueue.consumer.leases import Leases
from taskqueue.consumer.limited import pending_queue
from taskqueue.consumer.link import WorkerLink
from taskqueue.consumer.listeners import PipelineListener
from taskqueue.consumer.orders import NotPaused, Orders
from taskqueue.consumer.pending import may_be_given_back
from taskqueue.consumer.permits import Permits
from taskqueue.consumer.prefetch import Prefetch
from taskqueue.consumer.reception import Reception
from taskqueue.consumer.record import RunRecord
from taskqueue.consumer.settlement import Settlement
from taskqueue.consumer.suspects import Suspects, Writer
from taskqueue.consumer.workers import Workers
from taskqueue.process.logs import Log
from taskqueue.worker.frames import Outcome, ProgressFrame, Service


class Pipeline:
    """Takes workitems from their delivery to their acknowledgement.

    1. `receive` takes a delivery: a new workitem, or one that still runs here.
    2. `Admission` settles a workitem at once if it must not go to a worker.
    3. `PendingQueue` gives it to a worker with room (`worker_began`).
    4. The worker performs it (`worker_performed`), or dies of it (`died`).
    5. `Judge` and `Settlement` publish its outcome. Once all publications are confirmed, `_settled`
       acknowledges the delivery.
    """

    def __init__(
        self,
        loop: EventLoop,
        consuming: Session,
        outbound: Outbound,
        *,
        record: RunRecord,
        reports: Reports,
        group: GroupSettings,
        permits: Permits | None,
        handling: Writer,
        suspects: Suspects,
        listener: PipelineListener,
    ) -> None:
        """Begin without workitems.

        consuming -- the session that receives workitems
        outbound -- publishes their outcomes
        permits -- of a group with limits
        record -- makes the events of what happens to workitems
        reports -- sends messages to the supervisor
        handling -- records the message that is being handled
        suspects -- the messages that killed earlier consumers
        """
        self._loop, self._consuming, self._outbound = loop, consuming, outbound
        self._record, self._reports, self._group, self._listener = record, reports, group, listener
        self._handling, self._suspects, self._log = handling, suspects, Log("consumer", group=group.name)
        self.is_draining, self._permits, self.orders = False, permits, Orders()
        self._services: tuple[Service, ...] | None = None  # of the workers; None until one is ready
        self._in_flight, self._notices = InFlightTable(self._may_be_redelivered), Notices(outbound.publisher)
        self._settlement = Settlement(
            loop, outbound, group, record, on_settled=self._settled, on_abandoned=self._abandoned
        )
        self._judge = Judge(self._settlement, self._notices, self._log)
        self._build_inbound()
        self._build_workers()

    def _build_inbound(self) -> None:
        loop, consuming, group = self._loop, self._consuming, self._group
        changed, settled = self._listener.pipeline_changed, self._listener.pipeline_settled
        self.intake = Intake(
            loop,
            consuming,
            group.workers,
            on_delivery=self.receive,
            on_consuming=changed,
            on_lost=self._deliveries_lost,
        )
        self._cancellations = Cancellations(loop, consuming, on_cancel=self._cancel, on_subscribed=changed)
        self._leases = Leases(
            loop,
            consuming,
            self._outbound,
            intake=self.intake,
            in_flight=self._in_flight,
            group=group,
            on_lease_due=self._lease_or_give_back,
            on_released=settled,
        )
        session = self._outbound.session
        self._reception = Reception(
            session, self._in_flight, self.intake, self._leases, self._judge, log=self._log
        )
        self._admission = Admission(
            (
                NotCancelled(self._cancellations, self._judge),
                NotTooLarge(self._judge),
                NotExpired(self._judge),
                Due(self._judge, self._settlement),
                BelowLimit(self._settlement),
                NotPaused(self.orders, self._give_back),
            )
        )

    def _build_workers(self) -> None:
        loop, group = self._loop, self._group
        self.workers = Workers(loop, self._reports, self._log, group, self)
        self._record.watch(loop, self.workers)
        self.prefetch = Prefetch(
            loop, group.max_prefetch, group.workers, sample=self._sample_workers, on_change=self._set_prefetch
        )
        self._pending, self._limited = pending_queue(
            loop,
            self.workers,
            self.prefetch,
            self._handling,
            group=group,
            permits=self._permits,
            is_held=lambda: self.intake.is_listening,
            reclaim=self._reclaim,
            on_congested=self._congested,
        )

    @property
    def is_done(self) -> bool:
        """Whether no workitem is in flight and no lease is being released."""
        return not self._in_flight and not self._leases.is_releasing

    @property
    def may_receive(self) -> bool:
        """Whether cancellations are received: a caller may cancel as soon as it has a notice of the start."""
        return self._cancellations.is_subscribed

    @property
    def is_congested(self) -> bool:
        """Whether nothing more should be received until a worker has room."""
        return self._pending.is_congested

    @property
    def waits(self) -> str:
        """The number of workitems that wait for each limit, in words; "" for none."""
        return self._limited.waits if self._limited is not None else ""

    @property
    def waiting(self) -> int:
        """The number of workitems that wait for a worker."""
        return len(self._pending)

    # --- receive ---

    def receive(self, group: GroupSettings, delivery: Delivery) -> None:
        """Take a delivery; meanwhile, it is recorded as being handled."""
        self._handling.begin(delivery.properties, delivery.body)
        deaths = self._suspects.deaths(delivery.properties, delivery.body)
        if deaths >= group.max_crashes:
            self._reception.fail_suspect(group, delivery, deaths)
        else:
            assignment = self._reception.open(group, delivery)
            if assignment is not None and self._admission.admits(assignment):
                self._pending.enter(assignment)
                self.prefetch.delivered(len(assignment.body))
        self._handling.end()

    # --- assign ---

    def worker_ready(self, services: tuple[Service, ...]) -> None:
        """Serve the worker types of the first worker: no workitem can have corrupted it yet."""
        if self._services is None:
            self._services = services
            self.intake.serve(groups_of(self._group, services))
            self._listener.pipeline_serves(services)
        elif services != self._services:
            self._log.warning("the tasks of a new worker differ from those of the first; restart the pool")
        self._listener.pipeline_changed()
        if self.is_draining:
            self.workers.end_idle()

    def assign(self) -> None:
        """Give waiting workitems to the workers that have room, once all lanes have sent theirs."""
        self._pending.assign()

    def _reclaim(self) -> None:
        """Take back what no worker has begun, so that the newest order counts."""
        self.take_back(self.workers.take_back(0))

    # --- perform ---

    def worker_began(self, link: WorkerLink, assignment: Assignment) -> None:
        """Notify the caller; if the workitem is cancelled, have the worker killed."""
        if self._limited is not None:
            self._limited.begun(assignment, link)
        self._notices.started(assignment, link.name)
        self._record.begun(link, assignment)
        if assignment.is_cancelled:  # it had been given to the worker ahead
            self.workers.dismiss(assignment)

    def worker_progressed(self, assignment: Assignment, progress: ProgressFrame) -> None:
        """Pass a worker's progress on to the caller."""
        self._notices.progress(assignment, progress.fraction, progress.text)
        self._record.progress(assignment, progress)

    def worker_printed(self, link: WorkerLink, assignment: Assignment, level: str, line: str) -> None:
        """Record a line that a handler has printed or logged."""
        self._record.printed(assignment, link.name, level, line)

    def worker_performed(self, link: WorkerLink, assignment: Assignment, outcome: Outcome) -> None:
        """Settle a workitem by its worker's outcome."""
        if self._limited is not None:
            self._limited.over(assignment)
        self._handling.begin(assignment.delivery.properties, assignment.delivery.body)
        self.prefetch.performed(outcome.ended - outcome.started)
        if assignment.lease is None:
            self._judge.performed(assignment, link.name, outcome)
        else:
            self._leases.before_end(assignment, lambda: self._judge.performed(assignment, link.name, outcome))
        self._handling.end()
        if self._pending.is_congested:
            self._listener.pipeline_changed()
        else:
            self._pending.assign_soon()
        if self.is_draining:
            self.workers.end_idle()

    def died(self, pid: int, crash: Crash) -> None:
        """Charge a worker's death to the workitem that it was performing; its others go to other workers."""
        link = self.workers.remove(pid)
        if link is None:
            return
        if self._limited is not None:
            self._limited.all_over(link.tasks)
        if link.had_begun and (not link.is_dismissed or link.tasks[0].is_cancelled):
            crash = replace(crash, text=f"{crash.text}: {link.kill_reason}") if link.kill_reason else crash
            assignment = link.tasks.popleft()
            self._leases.before_end(assignment, partial(self._crashed, assignment, link, crash))
        self.take_back(link.tasks)
        if self.is_draining:
            self.give_back_waiting()

    def _crashed(self, assignment: Assignment, link: WorkerLink, crash: Crash) -> None:
        self._handling.begin(assignment.delivery.properties, assignment.delivery.body)
        if not self._owns(assignment):
            self._drop(assignment)
            text = f"worker crashed ({crash.text}); the broker redelivers the workitem"
            self._log.warning("%s", text, workitem=assignment.id, worker=link.name)
        elif assignment.is_cancelled:
            self._judge.cancelled(assignment, link.name, link.since)
        else:
            self._judge.crashed(assignment, link.name, link.since, crash)
        self._handling.end()

    def take_back(self, assignments: Iterable[Assignment]) -> None:
        """Return assignments that a worker was given, but did not begin, to the pending queue."""
        assignments = tuple(assignments)
        if self._limited is not None:
            self._limited.all_over(assignments)
        for assignment in reversed(assignments):
            if not self._owns(assignment):
                self._drop(assignment)
            elif assignment.is_cancelled:
                self._judge.cancelled(assignment)
            else:
                self._pending.enter_first(assignment)

    def _cancel(self, workitem: str, tenant: str | None) -> bool:
        """End a cancelled workitem; return whether it is in flight here."""
        assignment = self._in_flight.find(workitem, tenant)
        if assignment is None:
            return False
        if self._pending.remove(assignment):
            self._judge.cancelled(assignment)
        else:
            assignment.is_cancelled = True
            if not self.workers.dismiss(assignment):
                self._reclaim()
                self._pending.assign()
        return True

    # --- settle ---

    def _settled(self, assignment: Assignment) -> None:
        """Acknowledge the delivery of a workitem: the broker has confirmed everything published for it."""
        self._in_flight.close(assignment)
        self.intake.source(assignment).settle(assignment.delivery)
        if key := self._suspects.clear(assignment.delivery.properties, assignment.delivery.body):
            self._reports.send("cleared", key=key)
        self._leases.release(assignment)
        self._listener.pipeline_settled()

    def _abandoned(self, assignment: Assignment) -> None:
        """Leave a delivery unacknowledged: the broker refuses everything that is published for it."""
        self._drop(assignment)
        self.intake.source(assignment).abandon(assignment.delivery)
        self._listener.pipeline_settled()

    # --- the number of workers ---

    def resize(self, workers: int) -> None:
        """Receive workitems for another number of workers."""
        self.workers.wanted = workers
        self.intake.resize(workers)
        self.prefetch.resize(workers)

    # --- give back ---

    def drain(self) -> None:
        """Stop receiving, give back workitems that no worker has begun, and let the workers finish."""
        self.is_draining = True
        self.intake.pause()
        self.give_back_waiting()
        self.workers.end_idle()

    def give_back_waiting(self, unwanted: Callable[[Assignment], bool] = lambda _: True) -> None:
        """Give back workitems that no worker has begun, or those of them that are unwanted."""
        self._reclaim()
        for assignment in self._pending.take_out(unwanted):
            self._give_back(assignment)

    def _sample_workers(self) -> tuple[float, bool]:
        """Take back workitems that wait behind a long one; return the values for `sample` of Prefetch."""
        self.intake.balance()
        self.take_back(self.workers.take_back())
        self._pending.assign()
        busy_for = self.workers.busy_for()
        if busy_for and self.intake.is_surplus(len(self._pending), self.workers.ready):
            self._give_back_surplus()
        return busy_for, self.workers.is_ahead or bool(self._pending)

    def _set_prefetch(self) -> None:
        self.intake.set_prefetch(self.prefetch.value)
        if self.prefetch.value == 1 and not self.intake.has_lanes:
            self._pending.assign()  # workitems that can begin now stay
            self._give_back_surplus()

    def _congested(self) -> None:
        """Give back waiting workitems if several queues deliver more than begins soon."""
        self._pending.is_congested = self.intake.is_plenty
        if self._pending.is_congested:
            self._listener.pipeline_changed()
            self._give_back_surplus()

    def _give_back_surplus(self) -> None:
        for assignment in self._pending.take_out(may_be_given_back):
            self._give_back(assignment)

    def _give_back(self, assignment: Assignment) -> None:
        self._drop(assignment)
        self.intake.source(assignment).give_back(assignment.delivery)

    def _drop(self, assignment: Assignment) -> None:
        """Leave a workitem to the consumer that receives it next."""
        self._in_flight.drop(assignment)
        self._leases.abandon(assignment)

    def _lease_or_give_back(self, assignment: Assignment) -> None:
        """Give back a waiting workitem, or lease another one, before the broker's acknowledgement timeout."""
        if self._pending.remove(assignment):
            self._give_back(assignment)
        else:
            self._leases.take(assignment)

    def _owns(self, assignment: Assignment) -> bool:
        """Return whether this consumer still owns a workitem; if not, the broker redelivers it."""
        is_leased = assignment.lease is not None and assignment.lease.is_held
        return is_leased or self.intake.source(assignment).is_current(assignment.delivery)

    def _may_be_redelivered(self, assignment: Assignment) -> bool:
        """Return whether the broker may redeliver a workitem: its channel or its lease is lost."""
        is_lease_lost = assignment.lease is None and assignment.delivery.is_acknowledged
        return is_lease_lost or self.intake.source(assignment).is_lost(assignment.delivery)

    # --- lost and restored connections ---

    def _deliveries_lost(self) -> None:
        """Drop workitems that no worker has begun: the broker redelivers them, here or elsewhere."""
        self._leases.deliveries_lost()
        self._reclaim()
        for assignment in self._pending.take_out(lambda each: not self._owns(each)):
            self._drop(assignment)
        self._pending.assign()

    def outbound_ready(self) -> None:
        """Resume the renewal of leases, and tell the gate what runs."""
        self._leases.outbound_ready()
        if self._permits is not None:
            self._permits.outbound_ready()
