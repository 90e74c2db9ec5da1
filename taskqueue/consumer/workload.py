"""All that a consumer has in hand: each workitem from its delivery until its end is confirmed."""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Final

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import MalformedProperties
from taskqueue.broker.delays import Delays
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.publisher import Publisher
from taskqueue.broker.session import Session
from taskqueue.broker.subscription import Delivery
from taskqueue.broker.topology import Provider
from taskqueue.config import GroupSettings
from taskqueue.consumer.assignment import Assignment, Crash
from taskqueue.consumer.cancellations import Cancellations
from taskqueue.consumer.in_flight import InFlightTable, has_come_before
from taskqueue.consumer.intake import Intake, groups_of
from taskqueue.consumer.judge import Judge
from taskqueue.consumer.leases import Leases
from taskqueue.consumer.link import WorkerLink
from taskqueue.consumer.notices import Notices
from taskqueue.consumer.pending import PendingQueue, may_be_given_back
from taskqueue.consumer.prefetch import Prefetch
from taskqueue.consumer.settlement import Settlement
from taskqueue.consumer.suspects import Suspects, Writer
from taskqueue.consumer.workers import Workers
from taskqueue.errors import Unroutable
from taskqueue.messages.forwarding import attributed
from taskqueue.process.logs import Log
from taskqueue.worker.frames import LARGEST_BODY, Outcome, ProgressFrame, Service

_EARLY: Final = 0.05  # seconds; nearer than that to when it is due, a workitem runs


class Workload:
    """Takes workitems in, has them performed, and has what they come to settled."""

    def __init__(
        self,
        loop: EventLoop,
        publishing: Session,
        consuming: Session,
        publisher: Publisher,
        *,
        workers: Workers,
        group: GroupSettings,
        handling: Writer,
        suspects: Suspects,
        on_acquitted: Callable[[str], None],
        on_change: Callable[[], None],
        on_settled: Callable[[], None],
    ) -> None:
        """Begin with nothing in hand.

        workers -- perform it
        handling -- takes what is handled at each moment
        suspects -- the messages that earlier consumers died of
        on_acquitted -- the end of one of them, known by its key, is confirmed
        on_change -- whether more should be taken in has to be thought over
        on_settled -- something in hand may have come to its end
        """
        self._publishing = publishing
        self._workers = workers
        self._group = group
        self._handling = handling
        self._suspects, self._on_acquitted = suspects, on_acquitted
        self._on_change = on_change
        self._on_settled = on_settled
        self._log = Log("consumer", group=group.name)
        self._services: tuple[Service, ...] | None = None  # what the workers serve, once one has said it
        self._in_flight = InFlightTable(self._comes_again)
        self._prefetch = Prefetch(
            loop, group.max_prefetch, group.workers, look=self._look_ahead, on_change=self._set_prefetch
        )
        self._pending = PendingQueue(loop, workers, self._prefetch, handling, self._crowded)
        self._notices = Notices(publisher)
        self._cancellations = Cancellations(loop, consuming, on_cancel=self._cancel, on_heeding=on_change)
        provider = Provider(loop, publishing)
        delays = Delays(loop, publishing, publisher, provider)
        self._settlement = Settlement(
            loop, publisher, provider, delays, group, on_settled=self._settled, on_left=self._left
        )
        self._judge = Judge(self._settlement, self._notices, self._log)
        self.intake = Intake(
            loop,
            consuming,
            group.workers,
            on_delivery=self._handle,
            on_consuming=on_change,
            on_lost=self._deliveries_lost,
        )
        self._leases = Leases(
            loop,
            publishing,
            consuming,
            publisher,
            intake=self.intake,
            in_flight=self._in_flight,
            group=group,
            on_old=self._grown_old,
            on_released=on_settled,
        )

    @property
    def is_done(self) -> bool:
        """Whether nothing is in hand."""
        return not self._in_flight and not self._leases.is_releasing

    @property
    def may_begin(self) -> bool:
        """Whether workitems may be taken in: who hears that one has begun may cancel it."""
        return self._cancellations.are_heeded

    @property
    def is_crowded(self) -> bool:
        """Whether nothing more should be taken in until a worker has room."""
        return self._pending.is_crowded

    @property
    def is_waiting(self) -> bool:
        """Whether anything is in hand that no worker has been given."""
        return bool(self._pending)

    def serve(self, services: tuple[Service, ...]) -> None:
        """Serve what the first worker serves: it has seen no workitem yet that could have corrupted it."""
        if self._services is None:
            self._services = services
            self.intake.serve(groups_of(self._group, services))
        elif services != self._services:
            self._log.warning("a worker serves other tasks than the first one did; restart the pool")

    # --- from the broker to a worker ---

    def _handle(self, group: GroupSettings, delivery: Delivery) -> None:
        """Take a delivery in, and write down meanwhile that it is this one."""
        self._handling.begin(delivery.properties, delivery.body)
        deaths = self._suspects.deaths(delivery.properties, delivery.body)
        if deaths >= group.max_crashes:
            self._put_aside(group, delivery, deaths)
        else:
            self._take(group, delivery)
        self._handling.end()

    def _put_aside(self, group: GroupSettings, delivery: Delivery, deaths: int) -> None:
        """Fail a message that consumers died of; its body is not looked at, at last not its properties."""
        properties = Properties()
        if deaths == group.max_crashes:
            with suppress(MalformedProperties):
                properties = Properties.decode(delivery.properties)
        reason = f"{deaths} consumers died, or were killed, while they handled it"
        self._judge.unreadable(self._in_flight.enter(group, delivery, properties), "ConsumerCrashed", reason)

    def _take(self, group: GroupSettings, delivery: Delivery) -> None:
        """Take a delivery in: a new workitem, or one that we know from a connection that was lost."""
        try:
            properties = self._read(delivery)
        except MalformedProperties as error:
            self._judge.reject(self._in_flight.enter(group, delivery, Properties()), str(error))
            return
        if not has_come_before(delivery, properties):
            self._enter(self._in_flight.enter(group, delivery, properties))
            return
        known = self._in_flight.adopt(delivery, properties)
        if known is not None:
            self._log.info("goes on: delivered again while it is in work", workitem=known.id)
            known.possibly_doubled &= delivery.redelivered  # to somebody else, if its lease was lost
            self._leases.adopted(known, properties)
        elif self._in_flight.is_superfluous(delivery, properties):
            self.intake.discard(group, delivery)
        else:
            self._enter(self._in_flight.enter(group, delivery, properties))

    def _read(self, delivery: Delivery) -> Properties:
        """Return a delivery's properties, with the publisher's name only if that is vouched for."""
        came = Properties.decode(delivery.properties)
        if came.user_id is None and came.header_table is None:
            return came  # as nearly always
        properties = attributed(came, self._publishing.amqp.user)
        if properties is not came:
            delivery.properties = properties.encode()
        return properties

    def _enter(self, assignment: Assignment) -> None:
        size = len(assignment.body)
        if self._cancellations.takes(assignment.id):
            self._judge.cancelled(assignment)
        elif size > LARGEST_BODY:
            reason = f"{size} bytes; a worker takes at most {LARGEST_BODY}"
            self._judge.give_up(assignment, "WorkitemUnreadable", reason)
        elif assignment.properties.header_table is None or self._is_timely(assignment):
            self._pending.enter(assignment)
            self._prefetch.came(size)

    def _is_timely(self, assignment: Assignment) -> bool:
        """Tell whether a workitem is to run now; else see to what becomes of it."""
        now, deadline = time.time(), assignment.deadline
        try:
            wait = assignment.wait(now)
        except Unroutable as error:
            self._judge.reject(assignment, str(error))
            return False
        if deadline is not None and deadline < now:
            reason = "its expiration passed before a worker was free"
            self._judge.give_up(assignment, "WorkitemExpired", reason)
            return False
        is_early = wait is not None and wait > _EARLY
        if is_early or assignment.is_worn:
            self._settlement.postpone(assignment, wait if is_early else None)
            return False
        return True

    def assign(self) -> None:
        """Give what waits to the workers that have room."""
        self._pending.assign()

    def begun(self, link: WorkerLink, assignment: Assignment) -> None:
        """Note that a worker begins with a workitem."""
        self._notices.started(assignment, link.name)
        if assignment.is_cancelled:  # it had been given to the worker ahead
            self._workers.dismiss(assignment)

    def _cancel(self, workitem: str) -> bool:
        """End a workitem that nobody wants any more; tell whether it is in hand here."""
        assignment = self._in_flight.find(workitem)
        if assignment is None:
            return False
        if self._pending.remove(assignment):
            self._judge.cancelled(assignment)
        else:
            assignment.is_cancelled = True
            if not self._workers.dismiss(assignment):
                self._wait_again(self._workers.take_back(0))
                self._pending.assign()
        return True

    # --- from a worker to the broker ---

    def progress(self, assignment: Assignment, progress: ProgressFrame) -> None:
        """Pass on what a worker says about how far it is."""
        self._notices.progress(assignment, progress.fraction, progress.text)

    def performed(self, link: WorkerLink, assignment: Assignment, outcome: Outcome) -> None:
        """Settle what a worker says that a workitem came to."""
        self._handling.begin(assignment.delivery.properties, assignment.delivery.body)
        self._prefetch.took(outcome.ended - outcome.started)
        if assignment.lease is None:
            self._judge.performed(assignment, link.name, outcome)
        else:
            self._leases.before_end(assignment, lambda: self._judge.performed(assignment, link.name, outcome))
        self._handling.end()
        if self._pending.is_crowded:
            self._on_change()
        else:
            self._pending.assign_soon()

    def died(self, link: WorkerLink, crash: Crash) -> None:
        """Charge a worker's death to the workitem it was performing; the others go to other workers."""
        if link.had_begun and (not link.is_dismissed or link.tasks[0].is_cancelled):
            crash = replace(crash, text=f"{crash.text}: {link.sentence}") if link.sentence else crash
            assignment = link.tasks.popleft()
            self._leases.before_end(assignment, partial(self._crashed, assignment, link, crash))
        self._wait_again(link.tasks)

    def _wait_again(self, assignments: Iterable[Assignment]) -> None:
        """Let those that a worker was given, and did not begin, wait for another."""
        for assignment in reversed(tuple(assignments)):
            if not self._answers_for(assignment):
                self._drop(assignment)
            elif assignment.is_cancelled:
                self._judge.cancelled(assignment)
            else:
                self._pending.enter_first(assignment)

    def _crashed(self, assignment: Assignment, link: WorkerLink, crash: Crash) -> None:
        self._handling.begin(assignment.delivery.properties, assignment.delivery.body)
        if not self._answers_for(assignment):
            self._drop(assignment)
            text = "its worker crashed (%s); the broker delivers it again"
            self._log.warning(text, crash.text, workitem=assignment.id, worker=link.name)
        elif assignment.is_cancelled:
            self._judge.cancelled(assignment, link.name)
        else:
            self._judge.crashed(assignment, link.name, link.since, crash)
        self._handling.end()

    def _settled(self, assignment: Assignment) -> None:
        """The broker has confirmed all that a workitem came to: its delivery may be acknowledged."""
        self._in_flight.close(assignment)
        self.intake.settle(assignment)
        if key := self._suspects.acquit(assignment.delivery.properties, assignment.delivery.body):
            self._on_acquitted(key)
        if assignment.lease is not None:
            self._leases.release(assignment)
        self._on_settled()

    def _left(self, assignment: Assignment) -> None:
        """The broker takes nothing that a workitem came to: it stays where it is."""
        self._drop(assignment)
        self.intake.leave(assignment)
        self._on_settled()

    # --- to others ---

    def give_back_waiting(self) -> None:
        """Give back what no worker has begun."""
        self._wait_again(self._workers.take_back(0))
        for assignment in self._pending.take_out():
            self._give_back(assignment)

    def _look_ahead(self) -> tuple[float, bool]:
        """Have nothing wait behind a long workitem; see Prefetch."""
        self._wait_again(self._workers.take_back())
        self._pending.assign()
        busy_for = self._workers.busy_for()
        if busy_for and self._prefetch.value == 1 and self._has_surplus:
            self._leave_to_others()
        return busy_for, self._workers.is_ahead or bool(self._pending)

    @property
    def _has_surplus(self) -> bool:
        """Whether more waits than workers that are being replaced: given back, that would come again."""
        return len(self._pending) + self._workers.ready > self._group.workers * len(self.intake)

    def _set_prefetch(self) -> None:
        self.intake.set_prefetch(self._prefetch.value)
        if self._prefetch.value == 1:
            self._pending.assign()  # what can be begun now stays
            self._leave_to_others()

    def _crowded(self) -> None:
        """Leave to others what waits: one queue alone delivers no more than is begun soon."""
        self._pending.is_crowded = len(self.intake) > 1
        if not self._pending.is_crowded:
            return
        self._on_change()
        self._leave_to_others()

    def _leave_to_others(self) -> None:
        for assignment in self._pending.take_out(may_be_given_back):
            self._give_back(assignment)

    def _give_back(self, assignment: Assignment) -> None:
        self._drop(assignment)
        self.intake.give_back(assignment)

    def _drop(self, assignment: Assignment) -> None:
        """Leave a workitem to whom the broker gives it next."""
        self._in_flight.drop(assignment)
        self._leases.abandon(assignment)

    def _grown_old(self, assignment: Assignment) -> None:
        """Act before the broker's patience ends: what waits for a worker may find one elsewhere."""
        if self._pending.remove(assignment):
            self._give_back(assignment)
        else:
            self._leases.take(assignment)

    def _answers_for(self, assignment: Assignment) -> bool:
        """Tell whether the broker still counts on us for a workitem; else it delivers it again."""
        is_leased = assignment.lease is not None and assignment.lease.is_held
        return is_leased or self.intake.is_current(assignment)

    def _comes_again(self, assignment: Assignment) -> bool:
        """Tell whether the broker may deliver a workitem once more: its channel or its lease is lost."""
        is_lease_lost = assignment.lease is None and assignment.delivery.is_acknowledged
        return is_lease_lost or self.intake.is_lost(assignment)

    # --- connections come and go ---

    def _deliveries_lost(self) -> None:
        """Forget what no worker has begun: the broker delivers it again, here or elsewhere."""
        self._leases.deliveries_lost()
        self._wait_again(self._workers.take_back(0))
        for assignment in self._pending.take_out(lambda each: not self._answers_for(each)):
            self._drop(assignment)
        self._pending.assign()

    def publisher_ready(self) -> None:
        """Publish what is not confirmed."""
        self._settlement.publish_again()
        self._leases.publisher_ready()

    def publisher_lost(self) -> None:
        """Note what is unconfirmed."""
        self._settlement.connection_lost()
