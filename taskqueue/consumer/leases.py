"""The leases of a consumer's workitems that run longer than the broker's acknowledgement timeout."""

import time
from collections.abc import Callable
from functools import partial
from typing import Final

from taskqueue.amqp.properties import Properties
from taskqueue.broker.lease import Lease
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.outbound import Outbound
from taskqueue.broker.session import Session
from taskqueue.broker.topology import lease_queue
from taskqueue.config import GroupSettings
from taskqueue.consumer.in_flight import Assignment, InFlightTable
from taskqueue.consumer.intake import Intake
from taskqueue.messages import names
from taskqueue.messages.forwarding import is_near_delivery_limit
from taskqueue.messages.history import again
from taskqueue.process.logs import Log

_RENEWALS: Final = 3  # renewals in a lease's time to live
_CHECKS: Final = 4  # checks within the shorter delay, so that no action is late by more than a quarter of it


class Leases:
    """Takes, renews and releases the leases of a consumer's long workitems.

    The broker closes the channel of a consumer that has not acknowledged a delivery for 30 minutes
    (https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout). Long before that, the workitem is
    published to a lease queue, and its delivery is acknowledged. The acknowledgement would let the broker
    deliver one more workitem, so the subscription has one consumer fewer until the leased workitem ends.
    """

    def __init__(
        self,
        loop: EventLoop,
        consuming: Session,
        outbound: Outbound,
        *,
        intake: Intake,
        in_flight: InFlightTable,
        group: GroupSettings,
        on_lease_due: Callable[[Assignment], None],
        on_released: Callable[[], None],
    ) -> None:
        """Begin without leases, and check the age of in-flight workitems from now on.

        on_lease_due -- takes an assignment that must be leased or given back before the broker's timeout
        on_released -- a lease has been released
        """
        self._loop = loop
        self._consuming = consuming
        self._outbound = outbound
        self._intake = intake
        self._in_flight = in_flight
        self._group = group
        self._on_lease_due, self._on_released = on_lease_due, on_released
        self._releasing = 0
        self._log = Log("consumer", group=group.name)
        self._check_later()

    @property
    def is_releasing(self) -> bool:
        """Whether the release of a lease is still under way."""
        return self._releasing > 0

    def take(self, assignment: Assignment) -> None:
        """Lease a workitem; its delivery is acknowledged once the broker has confirmed the copy."""
        queue = lease_queue(assignment.worker_type, self._group.lease_timeout)
        properties = again(assignment.properties).with_headers({names.LEASE: queue.name})
        lease = Lease(
            self._loop,
            self._consuming,
            self._outbound,
            queue=queue,
            properties=properties.encode(),
            body=assignment.body,
        )
        assignment.lease = lease
        self._intake.withhold(assignment)
        self._log.info("lease taken for the running workitem", workitem=assignment.id)
        lease.renew(lambda: self._taken(assignment))

    def _taken(self, assignment: Assignment) -> None:
        if assignment.lease is not None and assignment.lease.is_held:
            self._intake.source(assignment).acknowledge(assignment.delivery)

    def before_end(self, assignment: Assignment, then: Callable[[], None]) -> None:
        """Renew a workitem's lease, if it has one, before its outcome is published."""
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
            self._log.warning(
                "lease lost; another consumer may run the workitem as well", workitem=assignment.id
            )
            self.release(assignment)  # this restores a consumer, so that the workitem may be delivered here
        if then is not None:
            then()

    def release(self, assignment: Assignment) -> None:
        """Release the lease of a workitem that has ended or was redelivered, if it has one."""
        lease, assignment.lease = assignment.lease, None
        if lease is not None:
            self._releasing += 1
            lease.release(self._released)
            self._intake.restore(assignment)

    def adopted(self, assignment: Assignment, properties: Properties) -> None:
        """Release the lease of a redelivered workitem; near the delivery limit, take a new one."""
        self.release(assignment)
        if is_near_delivery_limit(properties):
            self.take(assignment)

    def _released(self) -> None:
        self._releasing -= 1
        self._on_released()

    def abandon(self, assignment: Assignment) -> None:
        """Let a workitem's lease expire, if it has one: the broker then returns it to its queue."""
        lease, assignment.lease = assignment.lease, None
        if lease is not None:
            lease.abandon()
            self._intake.restore(assignment)

    def outbound_ready(self) -> None:
        """Resume renewals after the publisher's connection was lost."""
        for assignment in tuple(self._in_flight):
            if assignment.lease is not None:
                assignment.lease.resume()

    def deliveries_lost(self) -> None:
        """Release leases that are not held yet: the broker redelivers their workitems."""
        for assignment in tuple(self._in_flight):
            lease = assignment.lease
            if lease is not None and not lease.is_held:
                self.release(assignment)

    # --- the clock ---

    @property
    def _after(self) -> float:
        """Seconds until a delivery needs a lease; at most half of the broker's acknowledgement timeout."""
        ack_timeout = self._intake.ack_timeout
        return (
            self._group.lease_after if ack_timeout is None else min(self._group.lease_after, ack_timeout / 2)
        )

    @property
    def _renewal_delay(self) -> float:
        return self._group.lease_timeout / _RENEWALS

    def _check_later(self) -> None:
        self._loop.call_later(min(self._after, self._renewal_delay) / _CHECKS, self._check)

    def _check(self) -> None:
        now = time.monotonic()
        for assignment in tuple(self._in_flight):
            lease = assignment.lease
            if lease is None:
                if now - assignment.delivered >= self._after and self._intake.source(assignment).is_current(
                    assignment.delivery
                ):
                    self._on_lease_due(assignment)
            elif lease.is_held and not lease.is_renewing and now - lease.renewed >= self._renewal_delay:
                lease.renew(partial(self._renewed, assignment))
        self._check_later()
