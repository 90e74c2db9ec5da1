"""The permits of a consumer: asked for, granted and given back by messages to the gate."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from taskqueue.amqp.properties import Properties
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.outbound import Outbound
from taskqueue.broker.publisher import Publication
from taskqueue.broker.topology import GATE_REPORTS
from taskqueue.errors import BadLimitMessage
from taskqueue.limits.definition import Key
from taskqueue.limits.wire import Asked, Ended, Held, Identity, Reply, Report
from taskqueue.messages.content import JSON
from taskqueue.messages.forwarding import new_id
from taskqueue.messages.names import DIRECT_REPLY
from taskqueue.process.logs import Log

#: Seconds without a reply after which permits are void and their runs are killed. The gate waits for 60
#: seconds of silence (SILENT_CONSUMER in gate/arbiter.py).
SILENT_GATE: Final = 45.0

_REPORT_DELAY: Final = 2.0  # seconds between two whole reports, while there is anything to report
_LOOK_DELAY: Final = 0.25  # seconds between two looks at runs whose start is to be told
_FIRST_LOOK_DELAY: Final = 0.01  # seconds until the first of these looks
#: Seconds within which a worker calls the handler of a workitem that it has taken. The start counts from
#: their end, or from the end of a shorter run, so that no handler begins after its start was counted.
_BEGINNING: Final = 0.25
_PATIENCE: Final = 10.0  # seconds without a gate after which the log says so
_PROPERTIES: Final = Properties(
    content_type=JSON, delivery_mode=1, reply_to=DIRECT_REPLY, expiration="5000"
).encode()

#: Bytes of the permits that are held or asked for. A whole report has all of them, and the gate takes reports
#: of up to four times as many.
_MOST_BYTES: Final = 1024 * 1024
_PERMIT_BYTES: Final = 100  # of a permit in a report, beside its keys

Keys = tuple[Key, ...]


class PermitsListener(Protocol):
    """The owner of permits."""

    def permit_granted(self, number: int, keys: Keys) -> None:
        """A permit that was asked for is granted."""

    def permits_void(self) -> None:
        """Nothing limited may run any more: it is unknown what the gate takes for over."""

    def waiting_for(self, keys: Keys) -> int:
        """Return the number of workitems that wait for permits of these keys."""


@dataclass(slots=True)
class _Permit:
    keys: Keys
    is_taken: Callable[[], bool] | None = None  # whether the worker that could begin has begun
    begun: float | None = None  # when that was seen, see `_now`
    workitem: str = ""

    def look(self, now: float) -> None:
        """See whether its worker has begun. A busy machine may take long for that."""
        if self.begun is None and self.is_taken is not None and self.is_taken():
            self.begun = now


def _age_at_end(permit: _Permit) -> float | None:
    """Return how many seconds ago the start counts of a run that is over; None: no worker could begin it."""
    if permit.is_taken is None:
        return None
    return max(0.0, _now() - permit.begun - _BEGINNING) if permit.begun is not None else 0.0


def _size(keys: Keys) -> int:
    """Return how many bytes a permit has in a report, at most."""
    return _PERMIT_BYTES + sum(6 * len(text) for key in keys for text in key)  # JSON has \u and four digits


def _now() -> float:
    """Return a time in seconds that goes on while the host is suspended (clock_gettime(2))."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Permits:
    """Asks the gate for permits.

    Reports tell what is new; a whole one, every two seconds and to each new leader of the gates, repeats
    everything, so that no message need arrive. The gate counts the silence of this consumer from the arrival
    of a report, this consumer that of the gate from the sending of the last report that has a reply: so it
    is always this one that gives up first.
    """

    listener: PermitsListener  # set by the owner

    def __init__(self, loop: EventLoop, outbound: Outbound, identity: Identity) -> None:
        """Begin without permits.

        outbound -- its direct replies must be passed to `take_reply`
        """
        self._loop, self._outbound, self._identity = loop, outbound, identity
        self._me = new_id()
        self._log = Log("consumer", group=identity.group)
        self._count = 0  # permits that were asked for so far
        self._asked: dict[int, Keys] = {}
        self._held: dict[int, _Permit] = {}
        self._bytes = 0  # of those that are asked for or held, in a report
        self._capacity = 0
        self._term = 0  # of the gate's leader
        self._number = 0  # of the last report
        self._sent: dict[int, float] = {}  # when each report without a reply was sent
        self._heard = 0.0  # when the last report with a reply was sent
        self._asks: dict[Keys, list[int]] = {}  # since the last report
        self._ends: list[Ended] = []
        self._begun: list[int] = []
        self._is_whole_due = True
        self._is_looking = False  # whether `_look` is due
        self._is_sending = False  # whether a report is sent at the end of the round
        self._complained = False
        self._fault = ""  # of the last reply that could not be used
        self._reported = 0.0  # when the last whole report was due
        loop.call_later(_LOOK_DELAY, self._tick)

    @property
    def is_void(self) -> bool:
        """Whether permits are held, and their time is over."""
        return bool(self._held) and _now() - self._heard > SILENT_GATE

    @property
    def may_ask(self) -> bool:
        """Whether one more permit can be asked for."""
        return self._bytes < _MOST_BYTES

    # --- what the owner does ---

    def ask(self, keys: Keys) -> int:
        """Ask for a permit; return its number."""
        self._count += 1
        self._bytes += _size(keys)
        self._asked[self._count] = keys
        self._asks.setdefault(keys, []).append(self._count)
        self._send_soon()
        return self._count

    def set_capacity(self, capacity: int) -> None:
        """Set how many workitems the workers can hold."""
        if capacity != self._capacity:
            self._capacity = capacity
            self._send_soon()

    def tell_waiting(self, keys: Keys) -> None:
        """Tell that another number of workitems waits; not at once."""
        self._asks.setdefault(keys, [])

    def begun(self, number: int, workitem: str, is_taken: Callable[[], bool]) -> None:
        """Take note that a worker can begin a workitem.

        is_taken -- tells whether it has begun; called until it has
        """
        permit = self._held[number]
        if permit.is_taken is None:
            permit.is_taken, permit.workitem = is_taken, workitem
            self._begun.append(number)
            if not self._is_looking:
                self._is_looking = True
                self._loop.call_later(_FIRST_LOOK_DELAY, self._look)

    def _look(self) -> None:
        self._is_looking = False
        now = _now()
        for number in self._begun:
            if number in self._held:
                self._held[number].look(now)

    def end(self, number: int) -> None:
        """Give back a permit, or an ask."""
        permit = self._held.pop(number, None)
        keys = self._asked.pop(number, None) if permit is None else permit.keys
        if keys is None:
            return
        self._bytes -= _size(keys)
        self._ends.append(Ended(number, None if permit is None else _age_at_end(permit)))
        self._send_soon()

    # --- what the gate replies ---

    def take_reply(self, _properties: bytes, body: bytes) -> None:
        """Take a reply of the gate."""
        try:
            reply = Reply.decode(body)
        except BadLimitMessage as error:
            if self._fault != str(error):  # a gate that refuses reports does so every two seconds
                self._fault = str(error)
                self._log.error("%s", error)
            return
        if reply.consumer != self._me or reply.term < self._term:
            return
        if reply.term > self._term:
            self._term = reply.term
            self._report_all_soon()  # it knows of no ask
        self._hear(reply.number)
        if _now() - self._heard <= SILENT_GATE:
            for number in reply.granted:
                self._grant(number)

    def _hear(self, number: int) -> None:
        sent = self._sent.get(number)
        if sent is None:
            return
        self._heard = max(self._heard, sent)
        self._complained = False
        for each in [each for each in self._sent if each <= number]:
            del self._sent[each]

    def _grant(self, number: int) -> None:
        keys = self._asked.pop(number, None)
        if keys is not None:
            self._held[number] = _Permit(keys)
            self.listener.permit_granted(number, keys)

    # --- reports ---

    def outbound_ready(self) -> None:
        """Report everything: over a new connection, replies go elsewhere."""
        self._report_all_soon()

    def _report_all_soon(self) -> None:
        self._is_whole_due = True
        self._send_soon()

    def _send_soon(self) -> None:
        if not self._is_sending:
            self._is_sending = True
            self._loop.at_round_end(self._send)

    def _send(self) -> None:
        self._is_sending = False
        if not self._outbound.is_ready or self._outbound.session.is_blocked:
            return  # a whole report follows
        self._number += 1
        self._sent[self._number] = _now()
        report = self._whole() if self._is_whole_due else self._news()
        self._is_whole_due = False
        self._asks, self._ends = {}, []
        publication = Publication(
            GATE_REPORTS.name, _PROPERTIES, report.encode(), mandatory=False, declares=False, is_signed=True
        )
        self._outbound.publisher.publish(publication)

    def _news(self) -> Report:
        asks = [
            Asked(
                keys, tuple(each for each in numbers if each in self._asked), self.listener.waiting_for(keys)
            )
            for keys, numbers in self._asks.items()
        ]
        held = self._told(number for number in self._begun if number in self._held)
        self._begun = [each.number for each in held if each.age is None]
        return self._report(asks, [each for each in held if each.age is not None])

    def _whole(self) -> Report:
        by_keys: dict[Keys, list[int]] = {}
        for number, keys in self._asked.items():
            by_keys.setdefault(keys, []).append(number)
        asks = [Asked(keys, tuple(each), self.listener.waiting_for(keys)) for keys, each in by_keys.items()]
        return self._report(asks, self._told(self._held), is_whole=True)

    def _report(self, asks: list[Asked], held: list[Held], *, is_whole: bool = False) -> Report:
        about = self._me, self._number, self._identity, self._capacity
        return Report(*about, asks, self._ends, held, is_whole)

    def _told(self, numbers: Iterable[int]) -> list[Held]:
        now, found = _now(), []
        for number in numbers:
            permit = self._held[number]
            permit.look(now)
            age = now - permit.begun - _BEGINNING if permit.begun is not None else -1.0
            found.append(Held(number, permit.keys, age if age >= 0 else None, permit.workitem))
        return found

    # --- the clock ---

    def _tick(self) -> None:
        if self.is_void:
            self._log.error(
                "no gate for %g s: limited workitems are stopped, and run again later", SILENT_GATE
            )
            self.listener.permits_void()
        now, is_in_use = _now(), bool(self._held or self._asked or self._ends or self._sent)
        if is_in_use and now - self._reported >= _REPORT_DELAY:
            self._reported = now
            self._report_all_soon()
        elif self._begun:
            self._send_soon()
        self._complain(now)
        self._loop.call_later(_LOOK_DELAY if is_in_use else _REPORT_DELAY, self._tick)

    def _complain(self, now: float) -> None:
        """Log that workitems wait for a gate, once for each time without one."""
        self._sent = {number: sent for number, sent in self._sent.items() if now - sent < SILENT_GATE}
        oldest = next(iter(self._sent.values()), now)
        if self._asked and now - oldest > _PATIENCE and not self._complained:
            self._complained = True
            self._log.warning("limited workitems wait: no gate answers; does a dispatcher run?")
