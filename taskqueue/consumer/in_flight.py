"""The in-flight workitems of a consumer: an assignment for each, and the table that recognises them."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import MalformedProperties
from taskqueue.broker.lease import Lease
from taskqueue.broker.publisher import Publication
from taskqueue.broker.subscription import Delivery
from taskqueue.broker.topology import reply_fault
from taskqueue.config import GroupSettings
from taskqueue.messages import names, results
from taskqueue.messages.forwarding import is_near_delivery_limit, moment, new_id, wait_of
from taskqueue.messages.recording import tenant_and_labels


@dataclass(slots=True, eq=False)
class Assignment:
    """One delivered workitem; its delivery is acknowledged once everything published for it is confirmed."""

    number: int
    id: str  # the workitem's
    group: GroupSettings  # the settings for workitems of this worker type
    delivery: Delivery  # the newest one: after a lost connection the broker redelivers
    properties: Properties
    raw_properties: bytes  # the same, encoded
    unpublished: list[Publication] = field(default_factory=list)  # publications without a confirm yet
    unrecorded: int = 0  # events and receipts without a confirm yet
    is_abandoned: bool = False  # whether its delivery must never be acknowledged
    refusals: int = 0  # how often the broker refused its result
    is_bare: bool = False  # whether only its body is kept: the broker refused it with its properties
    delivered: float = field(default_factory=time.monotonic)  # when the newest delivery came (monotonic)
    lease: Lease | None = None
    possibly_doubled: bool = False  # whether its lease was lost, so that it may run elsewhere, too
    is_long: bool = False  # whether its start was recorded: it takes longer than a second, or came again
    is_cancelled: bool = False  # whether its caller has cancelled it
    wants_notices: bool = False  # whether its caller wants notices
    notice: Publication | None = None  # the latest notice

    @property
    def worker_type(self) -> str:
        """The worker type whose queue delivered it."""
        return self.group.worker_type

    @property
    def body(self) -> bytes:
        """The workitem's body."""
        return self.delivery.body

    @property
    def attempt(self) -> int:
        """The number of this attempt; 1 for the first."""
        return 1 if self.properties.header_table is None else _count(self.properties, names.ATTEMPT, 1)

    @property
    def crashes(self) -> int:
        """The number of workers that it has killed so far."""
        return _count(self.properties, names.CRASHES, 0)

    @property
    def failures(self) -> int:
        """The number of runs so far in which a handler raised."""
        return _count(self.properties, names.FAILURES, 0)

    @property
    def is_near_delivery_limit(self) -> bool:
        """Whether its delivery count is close to the delivery limit of its queue."""
        return self.delivery.redelivered and is_near_delivery_limit(self.properties)

    def wait(self, now: float) -> float | None:
        """Return the seconds until it is due; None if it is due now. Raises Unroutable, see wait_of."""
        return wait_of(self.properties, now)

    @property
    def deadline(self) -> float | None:
        """The time at which it expires, in seconds since 1970; None for never."""
        return moment(self.properties, names.DEADLINE)

    def run(self, worker: str, started: float, ended: float) -> results.Run:
        """Return the record of one run; the times are seconds since 1970."""
        workitem = self.id, self.group.worker_type, self.attempt, self.properties, self.delivery.body
        return results.Run(*workitem, worker, started, ended, self.possibly_doubled)


@dataclass(frozen=True, slots=True)
class Crash:
    """The death of a worker."""

    text: str  # "killed by SIGSEGV"
    peak_memory: int  # bytes


def header_of(properties: Properties, name: str) -> Any:
    """Return the value of a header; None if it is absent, or if the table is unreadable, such as too deep."""
    try:
        return properties.header(name)
    except MalformedProperties:
        return None


def _count(properties: Properties, header: str, least: int) -> int:
    value = header_of(properties, header)
    return min(max(value, least), 2**31) if isinstance(value, int) else least


_Content = tuple[Properties, int, int]

_REMEMBERED: Final = 10_000  # finished workitems whose delivery was lost before its acknowledgement
#: Seconds that they are remembered. The redelivery may go to another consumer, and a new workitem from a
#: producer that reuses its ids must not be taken for the old one.
_REMEMBERED_TIME: Final = 600.0


class InFlightTable:
    """The open assignments of a consumer, and the ids of finished ones that will be redelivered.

    After a lost connection the broker redelivers every unacknowledged message, here or to another consumer.
    An open assignment adopts its redelivery, so that its workitem does not run twice.
    """

    def __init__(self, may_be_redelivered: Callable[[Assignment], bool]) -> None:
        """Begin empty; `may_be_redelivered` says whether the broker may redeliver an assignment."""
        self._may_be_redelivered = may_be_redelivered
        self._count = 0
        self._open: dict[int, Assignment] = {}
        self._by_id: dict[str, Assignment] = {}
        self._finished: dict[str, tuple[_Content, float]] = {}  # and when (monotonic), the oldest first

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Assignment]:
        return iter(self._open.values())

    def find(self, workitem: str, tenant: str | None = None) -> Assignment | None:
        """Return the open assignment of a workitem; None if there is none.

        tenant -- whose it is; None for any
        """
        found = self._by_id.get(workitem)
        if tenant is None or found is None or tenant_and_labels(found.properties)[0] == tenant:
            return found
        same = (each for each in self if each.id == workitem)  # of another tenant, delivered earlier
        return next((each for each in same if tenant_and_labels(each.properties)[0] == tenant), None)

    def enter(self, group: GroupSettings, delivery: Delivery, properties: Properties) -> Assignment:
        """Open an assignment for a delivery; give the workitem an id if it has none.

        group -- the settings for the worker type whose queue delivered it
        """
        raw, workitem = delivery.properties, properties.message_id
        if not workitem:
            workitem = new_id()
            properties = properties.replace(message_id=workitem)
            raw = properties.encode()
        self._count += 1
        assignment = Assignment(self._count, workitem, group, delivery, properties, raw)
        if properties.header_table is not None:
            assignment.wants_notices = wants_notices(properties)
        self._open[assignment.number] = self._by_id[workitem] = assignment
        return assignment

    def adopt(self, delivery: Delivery, properties: Properties) -> Assignment | None:
        """Give a redelivery to the open assignment that lost its delivery; return None if there is none.

        A leased workitem is redelivered if its lease was lost, or if the broker did not receive the
        acknowledgement of the leased delivery.
        """
        known = self._by_id.get(properties.message_id or "")
        if known is None or (known.lease is None and not self._may_be_redelivered(known)):
            return None
        if _content(known.properties, known.body) != _content(properties, delivery.body):
            return None
        known.delivery, known.delivered = delivery, time.monotonic()
        return known

    def is_superfluous(self, delivery: Delivery, properties: Properties) -> bool:
        """Return whether a redelivery needs no run.

        It may be a further copy from a lost lease, or a copy of a workitem that was finished here. A workitem
        that was finished under a lost delivery is recognised once, within 10 minutes.
        """
        workitem = properties.message_id or ""
        known = self._by_id.get(workitem)
        if known is not None and header_of(properties, names.LEASE) is not None:
            return _content(known.properties, known.body) == _content(properties, delivery.body)
        if workitem not in self._finished:
            return False
        content, finished = self._finished[workitem]
        if content != _content(properties, delivery.body) or time.monotonic() - finished > _REMEMBERED_TIME:
            return False
        del self._finished[workitem]
        return True

    def close(self, assignment: Assignment) -> None:
        """Remove a finished assignment; its redelivery, if one is expected, will be recognised once."""
        self.drop(assignment)
        if self._may_be_redelivered(assignment):
            content = _content(assignment.properties, assignment.body)
            self._finished[assignment.id] = content, time.monotonic()
            if len(self._finished) > _REMEMBERED:
                del self._finished[next(iter(self._finished))]

    def drop(self, assignment: Assignment) -> None:
        """Remove an assignment whose workitem will be delivered to another consumer, or here again."""
        self._open.pop(assignment.number, None)
        if self._by_id.get(assignment.id) is assignment:
            del self._by_id[assignment.id]


def wants_notices(asked: Properties) -> bool:
    """Return whether a workitem's properties ask for notices to a usable reply_to."""
    if not asked.reply_to or header_of(asked, names.NOTIFY) is not True:
        return False
    return not reply_fault(asked.reply_to)


def is_redelivery(delivery: Delivery, properties: Properties) -> bool:
    """Return whether a workitem may have been delivered before, by its redelivered flag or lease header."""
    if delivery.redelivered:
        return True
    return properties.header_table is not None and header_of(properties, names.LEASE) is not None


def _content(properties: Properties, body: bytes) -> _Content:
    """Return a key that distinguishes workitems with the same id.

    It leaves out the headers, in which a quorum queue counts deliveries, and properties that a lease cannot
    preserve.
    """
    kept = properties.replace(header_table=None, delivery_mode=None, user_id=None, expiration=None)
    return kept, len(body), hash(body)
