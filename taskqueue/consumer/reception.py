"""The reception of deliveries: each is a new workitem, or one that this consumer knows."""

from contextlib import suppress

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import MalformedProperties
from taskqueue.broker.session import Session
from taskqueue.broker.subscription import Delivery
from taskqueue.config import GroupSettings
from taskqueue.consumer.in_flight import Assignment, InFlightTable, is_redelivery
from taskqueue.consumer.intake import Intake, authenticated
from taskqueue.consumer.judge import Judge
from taskqueue.consumer.leases import Leases
from taskqueue.process.logs import Log


class Reception:
    """Opens the assignments of deliveries."""

    def __init__(
        self,
        session: Session,
        in_flight: InFlightTable,
        intake: Intake,
        leases: Leases,
        judge: Judge,
        *,
        log: Log,
    ) -> None:
        """Enter assignments in `in_flight`.

        session -- knows our login at the broker
        """
        self._session, self._in_flight, self._intake = session, in_flight, intake
        self._leases, self._judge, self._log = leases, judge, log

    def open(self, group: GroupSettings, delivery: Delivery) -> Assignment | None:
        """Open an assignment for a delivery; return None if it needs no run of its own."""
        try:
            properties = authenticated(delivery, self._session.amqp.user)
        except MalformedProperties as error:
            self._judge.reject(self._in_flight.enter(group, delivery, Properties()), str(error))
            return None
        if is_redelivery(delivery, properties):
            known = self._in_flight.adopt(delivery, properties)
            if known is not None:
                self._log.info("redelivered while it runs; the run continues", workitem=known.id)
                known.possibly_doubled &= delivery.redelivered  # to another consumer, after a lost lease
                self._leases.adopted(known, properties)
                return None
            if self._in_flight.is_superfluous(delivery, properties):
                self._intake.discard(delivery)
                return None
        return self._in_flight.enter(group, delivery, properties)

    def fail_suspect(self, group: GroupSettings, delivery: Delivery, deaths: int) -> None:
        """Fail a message that consumers died of. Its body stays unread; after one more death, all of it."""
        properties = Properties()
        if deaths == group.max_crashes:
            with suppress(MalformedProperties):
                properties = Properties.decode(delivery.properties)
        reason = f"{deaths} consumers died, or were killed, while they handled it"
        self._judge.unreadable(self._in_flight.enter(group, delivery, properties), "ConsumerCrashed", reason)
