"""A workitem as its consumer keeps it: from the delivery until its end is confirmed."""

import time
from dataclasses import dataclass, field
from typing import Any

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import MalformedProperties
from taskqueue.broker.lease import Lease
from taskqueue.broker.publisher import Publication
from taskqueue.broker.subscription import Delivery
from taskqueue.config import GroupSettings
from taskqueue.messages import names, results
from taskqueue.messages.forwarding import is_worn, moment, wait_of


@dataclass(slots=True, eq=False)
class Assignment:
    """One delivered workitem; it is acknowledged when all that it came to is confirmed."""

    number: int
    id: str  # the workitem's
    group: GroupSettings  # what holds for workitems of this worker type
    delivery: Delivery  # the newest one: after a lost connection the broker delivers again
    properties: Properties
    raw_properties: bytes  # the same, as AMQP writes them
    unpublished: list[Publication] = field(default_factory=list)  # what must be confirmed yet
    refusals: int = 0  # how often the broker refused a result of it
    is_bare: bool = False  # whether its body alone is to be kept: the broker refused it with its properties
    delivered: float = field(default_factory=time.monotonic)  # when the newest delivery came
    lease: Lease | None = None
    possibly_doubled: bool = False  # whether its lease was lost, so that somebody else may run it, too
    is_cancelled: bool = False  # whether its caller wants no run of it any more
    is_followed: bool = False  # whether its caller wants notices
    notice: Publication | None = None  # the latest one that was sent

    @property
    def worker_type(self) -> str:
        """The worker type whose queue it came from."""
        return self.group.worker_type

    @property
    def body(self) -> bytes:
        """The workitem's body."""
        return self.delivery.body

    @property
    def attempt(self) -> int:
        """Which attempt at the workitem this is; 1 for the first."""
        return 1 if self.properties.header_table is None else _count(self.properties, names.ATTEMPT, 1)

    @property
    def crashes(self) -> int:
        """How many workers died of it before."""
        return _count(self.properties, names.CRASHES, 0)

    @property
    def failures(self) -> int:
        """How often a handler raised on it before."""
        return _count(self.properties, names.FAILURES, 0)

    @property
    def is_worn(self) -> bool:
        """Whether it came back so often that its queue may drop it soon."""
        return self.delivery.redelivered and is_worn(self.properties)

    def wait(self, now: float) -> float | None:
        """Return in how many seconds it is to run; None for at once. Raises Unroutable, see wait_of."""
        return wait_of(self.properties, now)

    @property
    def deadline(self) -> float | None:
        """When it expires, in seconds since 1970; None for never."""
        return moment(self.properties, names.DEADLINE)

    def run(self, worker: str, started: float, ended: float) -> results.Run:
        """Describe a run of it."""
        workitem = self.id, self.group.worker_type, self.attempt, self.properties, self.delivery.body
        return results.Run(*workitem, worker, started, ended, self.possibly_doubled)


@dataclass(frozen=True, slots=True)
class Crash:
    """How a worker died under a workitem."""

    text: str  # "killed by SIGSEGV"
    peak_memory: int  # bytes


def header_of(properties: Properties, name: str) -> Any:
    """Read a header of ours; a producer may have written anything there, tables too deep to be read too."""
    try:
        return properties.header(name)
    except MalformedProperties:
        return None


def _count(properties: Properties, header: str, least: int) -> int:
    value = header_of(properties, header)
    return min(max(value, least), 2**31) if isinstance(value, int) else least
