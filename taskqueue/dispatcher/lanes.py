"""The lanes of worker types, as a dispatcher chooses among them."""

import time
from collections.abc import Mapping
from functools import partial
from typing import Final

from taskqueue.amqp.properties import Properties
from taskqueue.broker.errands import QueueSize, measure
from taskqueue.broker.session import Session
from taskqueue.broker.topology import lane_queue, worker_queue
from taskqueue.messages.lanes import lanes_of, priority_of, tenant_of

_MEASURE_DELAY: Final = 1.0  # seconds between two counts of the messages in a type's lanes
_ANSWER_TIMEOUT: Final = 30.0  # seconds after which an unanswered count is made again
_MISSING_DELAY: Final = 5.0  # seconds without a lane of a type after one of its lanes was missing
_MOST_TYPES: Final = 10_000  # whose lanes are known
_CROWDED: Final = 20  # messages in a lane, mostly of other tenants, for which a tenant leaves it
_OWN_SHARE: Final = 4  # a crowded lane is a tenant's own if it has a fourth of the messages or more


class Lanes:
    """Chooses the queue of a workitem: one of the two lanes of its tenant, or the queue of its worker type.

    A tenant stays in its first lane unless that is full of other tenants' workitems: one that submits very
    many fills one lane, and nobody has to wait for it who has another. This process knows the lanes'
    lengths, as they were a second ago, and who has filled them most; that may be wrong, but any lane is
    correct. Consumers declare the lanes; where one is missing, its type has none for some seconds.
    """

    def __init__(self, lanes: Mapping[str, int], session: Session) -> None:
        """Begin with lanes that are unmeasured.

        lanes -- their number by worker type, 0 for none; under "DEFAULT" for all other types
        session -- counts the messages in them
        """
        self._numbers = lanes
        self._default = lanes.get("DEFAULT", 0)
        self._session = session
        self._types: dict[str, _Type] = {}

    def queue(self, worker_type: str, properties: Properties, wait: float | None) -> str:
        """Return the queue for a workitem. A delayed one must outlive its lane, so it uses none.

        wait -- seconds until it is due; None: now
        """
        number = self._numbers.get(worker_type, self._default)
        if not number or wait is not None:
            return worker_queue(worker_type)
        known = self._types.get(worker_type)
        now = time.monotonic()
        if known is None:
            if len(self._types) == _MOST_TYPES:
                self._types.clear()
            known = self._types[worker_type] = _Type(number, now)
        if now < known.missing_until:
            return worker_queue(worker_type)
        self._measure(worker_type, known, now)
        return lane_queue(worker_type, known.choose(priority_of(properties), tenant_of(properties)))

    def missing(self, worker_type: str) -> None:
        """Use no lane of a type for some seconds: one does not exist."""
        if worker_type in self._types:
            self._types[worker_type].missing_until = time.monotonic() + _MISSING_DELAY

    def _measure(self, worker_type: str, known: "_Type", now: float) -> None:
        """Count the messages in the lanes of a type that is in use, at most once a second."""
        until = _ANSWER_TIMEOUT if known.unanswered else _MEASURE_DELAY
        if now - known.measured < until or not self._session.is_up:
            return
        known.measured, known.unanswered = now, len(known.depths)
        for number in range(len(known.depths)):
            measure(
                self._session,
                lane_queue(worker_type, number),
                done=partial(known.found, number),
                failed=lambda _reason: None,
            )


class _Type:
    """The lanes of one worker type: their lengths, and which tenant has filled each of them most."""

    def __init__(self, number: int, now: float) -> None:
        self.measured = now  # when they were (monotonic)
        self.unanswered = 0
        self.missing_until = 0.0  # monotonic
        self.depths = [0] * number  # messages: when it was measured, and those published since
        self._owners = [""] * number  # by majority vote (Boyer and Moore), which needs no list of tenants
        self._votes = [0] * number

    def found(self, lane: int, size: QueueSize) -> None:
        """Take the length of a lane."""
        self.unanswered -= 1
        self.depths[lane] = size.messages
        self._votes[lane] = min(self._votes[lane], size.messages)

    def choose(self, priority: int, tenant: str) -> int:
        """Return the lane for one more workitem of a tenant, and count it there."""
        first, second = lanes_of(priority, tenant, len(self.depths))
        lane = first
        if self._is_crowded(first, tenant):
            lane = second if self.depths[second] < self.depths[first] else first
        self.depths[lane] += 1
        if self._owners[lane] == tenant:
            self._votes[lane] += 1
        elif self._votes[lane]:
            self._votes[lane] -= 1
        else:
            self._owners[lane], self._votes[lane] = tenant, 1
        return lane

    def _is_crowded(self, lane: int, tenant: str) -> bool:
        """Return whether a lane is long, and mostly not by this tenant."""
        depth = self.depths[lane]
        is_own = self._owners[lane] == tenant and self._votes[lane] * _OWN_SHARE >= depth
        return depth >= _CROWDED and not is_own
