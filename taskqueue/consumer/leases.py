"""Which workitems of a consumer have a lease, because they take longer than the broker waits for them."""

import time
from collections.abc import Callable
from functools import partial
from typing import Final

from taskqueue.amqp.properties import Properties
from taskqueue.broker.lease import Lease
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.publisher import Publisher
from taskqueue.broker.session import Session
from taskqueue.broker.topology import Provider, lease_queue
from taskqueue.config import GroupSettings
from taskqueue.consumer.assignment import Assignment
from taskqueue.consumer.in_flight import InFlightTable
from taskqueue.consumer.intake import Intake
from taskqueue.messages import names
from taskqueue.messages.forwarding import is_worn
from taskqueue.messages.history import again
from taskqueue.process.logs import Log

_RENEWALS: Final = 3  # in a lease's time to live
_LOOKS: Final = 4  # in the time until something has to be done, so that it is done at most so much late


class Leases:
    """Takes, renews and releases the leases of a consumer's long workitems.

    The broker closes the channel of a consumer that has not acknowledged a delivery for 30 minutes
    (https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout). Long before that a workitem is
    written to a lease's queue, and its delivery is acknowledged. As the broker would now deliver one more,
    the subscription has a consumer fewer until the workitem is done with.
    """

    def __init__(
        self,
        loop: EventLoop,
        publishing: Session,
        consuming: Session,
        publisher: Publisher,
        *,
        intake: Intake,
        in_flight: InFlightTable,
        group: GroupSettings,
        on_old: Callable[[Assignment], None],
        on_released: Callable[[], None],
    ) -> None:
        """Begin without leases, and look at what is in hand from now on.

        on_old -- takes an assignment that needs a lease now, or had better be given back
        on_released -- a lease is no more
        """
        self._loop = loop
        self._consuming = consuming
        self._publisher = publisher
        self._provider = Provider(loop, publishing)
        self._intake = intake
        self._in_flight = in_flight
        self._group = group
        self._on_old, self._on_released = on_old, on_released
        self._releasing = 0
        self._log = Log("consumer", group=group.name)
        self._look_later()

    @property
    def is_releasing(self) -> bool:
        """Whether a lease that nobody needs is still there."""
        return self._releasing > 0

    def take(self, assignment: Assignment) -> None:
        """Lease a workitem; its delivery is acknowledged when the broker has the copy."""
        queue = lease_queue(assignment.worker_type, self._group.lease_timeout)
        properties = again(assignment.properties).with_headers({names.LEASE: queue.name})
        lease = Lease(
            self._loop,
            self._consuming,
            self._publisher,
            self._provider,
            queue=queue,
            properties=properties.encode(),
            body=assignment.body,
        )
        assignment.lease = lease
        self._intake.withhold(assignment)
        self._log.info("takes long: it is leased", workitem=assignment.id)
        lease.renew(lambda: self._taken(assignment))

    def _taken(self, assignment: Assignment) -> None:
        if assignment.lease is not None and assignment.lease.is_held:
            self._intake.acknowledge(assignment)

    def before_end(self, assignment: Assignment, then: Callable[[], None]) -> None:
        """Make sure of a workitem's lease, if it has one, before what it came to is published."""
        lease = assignment.lease
        if lease is None:
            then()
        elif lease.is_held:
            lease.renew(lambda: self._renewed(assignment, then))
        else:
            self.release(assignment)
            then()

    def _renewed(self, assignment: Assignment, then: Callable[[], None] | None = None) -> None:
        if assignment.lease is not None and assignment.lease.is_lost:
            assignment.possibly_doubled = True
            self._log.warning("its lease was lost, and others may run it, too", workitem=assignment.id)
            self.release(assignment)  # with the consumer restored it may come back here
        if then is not None:
            then()

    def release(self, assignment: Assignment) -> None:
        """End a workitem's lease, if it has one: it is done with, or was delivered again."""
        lease, assignment.lease = assignment.lease, None
        if lease is not None:
            self._releasing += 1
            lease.release(self._released)
            self._intake.restore(assignment)

    def adopted(self, assignment: Assignment, properties: Properties) -> None:
        """End the lease of a workitem that is delivered again; where that is worn, take a new one."""
        self.release(assignment)
        if is_worn(properties):
            self.take(assignment)

    def _released(self) -> None:
        self._releasing -= 1
        self._on_released()

    def abandon(self, assignment: Assignment) -> None:
        """Leave a workitem to its lease's end, if it has one: then it goes back to work."""
        lease, assignment.lease = assignment.lease, None
        if lease is not None:
            lease.abandon()
            self._intake.restore(assignment)

    def publisher_ready(self) -> None:
        """Go on with renewals after the publisher's connection was lost."""
        for assignment in tuple(self._in_flight):
            if assignment.lease is not None:
                assignment.lease.resume()

    def deliveries_lost(self) -> None:
        """Release what was about to be leased: its delivery comes again."""
        for assignment in tuple(self._in_flight):
            lease = assignment.lease
            if lease is not None and not lease.is_held:
                self.release(assignment)

    # --- the clock ---

    @property
    def _after(self) -> float:
        """Seconds after which a delivery needs a lease; fewer where the broker has shown less patience."""
        patience = self._intake.ack_timeout
        return self._group.lease_after if patience is None else min(self._group.lease_after, patience / 2)

    @property
    def _renewal_delay(self) -> float:
        return self._group.lease_timeout / _RENEWALS

    def _look_later(self) -> None:
        self._loop.call_later(min(self._after, self._renewal_delay) / _LOOKS, self._look)

    def _look(self) -> None:
        now = time.monotonic()
        for assignment in tuple(self._in_flight):
            lease = assignment.lease
            if lease is None:
                if now - assignment.delivered >= self._after and self._intake.is_current(assignment):
                    self._on_old(assignment)
            elif lease.is_held and not lease.is_renewing and now - lease.renewed >= self._renewal_delay:
                lease.renew(partial(self._renewed, assignment))
        self._look_later()
