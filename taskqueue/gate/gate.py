"""The gate process: it stands by until the broker makes it the leader, and then grants permits."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import MalformedProperties
from taskqueue.broker.publisher import Publication, PublishResult
from taskqueue.broker.standby import StandbyProcess
from taskqueue.broker.subscription import Delivery, Subscription
from taskqueue.broker.topology import GATE_REPORTS
from taskqueue.broker.trust import Trust
from taskqueue.config import AmqpSettings
from taskqueue.errors import BadLimitMessage
from taskqueue.gate.arbiter import Answer, Arbiter
from taskqueue.gate.log import GateLog, LogListener
from taskqueue.limits.definition import Limit
from taskqueue.limits.occupancy import WRONG, Occupancy
from taskqueue.limits.wire import KIND, LIST, REPORT, Identity, Report, decode, encode
from taskqueue.messages.content import JSON
from taskqueue.messages.events import GATE
from taskqueue.messages.names import DIRECT_REPLY
from taskqueue.process import identity
from taskqueue.process.daemon import Signals
from taskqueue.texts import counted

_TICK: Final = 1.0  # seconds between two looks at the silence of consumers
_TIDY: Final = 10  # ticks between two looks at what counts no more
#: Seconds without grants where there is no log, as on a new broker: consumers report every two seconds.
_ROLL_CALL: Final = 3.0
_PREFETCH: Final = 500  # reports
_MOST_UNREAD: Final = 4  # messages on their way through the log; while there are more, changes are collected
_SOON: Final = 0.001  # seconds
_MOST_SHOWN: Final = 200  # keys of a limit that `taskqueue limit list` gets


class Gate(StandbyProcess, LogListener):
    """One gate process. All of them share the log; its single active consumer leads.

    A reply leaves once the log has all that was decided before it. So what a consumer hears is known to the
    next leader, too, and a gate that leads no more cannot make a consumer believe that it does.
    """

    kind = GATE
    blocked = "grants nothing: the broker has an alarm"

    def __init__(
        self,
        amqp: AmqpSettings,
        limits: Sequence[Limit],
        signals: Signals,
        on_state: Callable[[str], None],
    ) -> None:
        """Prepare to `run`.

        Args:
            amqp: the broker's address.
            limits: those of this host's configuration.
            signals: the source of SIGTERM and SIGHUP.
            on_state: takes the gate's state in words.
        """
        super().__init__(amqp, signals, on_state)
        self._limits = {limit.name: limit for limit in limits}
        self._trust = Trust(self._outbound, self._log)
        self._offset = time.time() - time.monotonic()  # a clock that is set must free nothing early
        self._arbiter: Arbiter | None = None  # while it leads
        self._occupancy = Occupancy(self._limits)
        self._grants_from = 0.0  # monotonic
        self._is_deciding = False  # whether `_decide` runs at the end of the round
        self._ticks, self._ticked = 0, time.monotonic()
        self._timer: object = None  # for the time at which a rate allows more
        self._book = GateLog(self._loop, self._session, self._outbound, self)
        self._reports = Subscription(
            self._loop,
            self._session,
            GATE_REPORTS.name,
            _PREFETCH,
            on_delivery=self._take,
            on_lost=lambda: None,
            on_consuming=lambda: None,
            arguments=GATE_REPORTS.arguments,
        )
        self._loop.call_later(_TICK, self._tick)

    def stand_by(self) -> None:
        """Consume the log."""
        self._book.open()

    def active_state(self) -> str:
        """Return how many limits this gate leads."""
        return "" if self._arbiter is None else f"leads {counted(len(self._limits), 'limit')}"

    def _clock(self) -> float:
        """Return seconds since 1970, as they were at the start of this process and counted since."""
        return self._offset + time.monotonic()

    # --- the log ---

    def log_open(self) -> None:
        """Report the state."""
        self.tell_state()

    def log_leads(self, term: int, snapshot: Mapping[str, Any] | None, entries: list[list[Any]]) -> None:
        """Take over the state, and the reports of consumers."""
        self._occupancy = occupancy = Occupancy(self._limits)
        if snapshot is not None:
            occupancy.restore(snapshot)
        unread = sum(not _is_applied(occupancy, change) for change in entries)
        if unread:
            text = (
                "%d changes in the log cannot be read; nothing is granted for %g s, in which consumers report"
            )
            self._log.error(text, unread, _ROLL_CALL)
        occupancy.not_after(self._clock())
        self._arbiter = Arbiter(self._limits, occupancy, term, self._clock, _is_dead)
        is_known = snapshot is not None and not unread
        self._grants_from = 0.0 if is_known else time.monotonic() + _ROLL_CALL
        self._book.write_snapshot(occupancy.snapshot())
        self._reports.resume()
        self.tell_state()

    def log_lost(self) -> None:
        """Grant nothing more."""
        self._arbiter = None
        self._reports.pause()
        self.tell_state()

    # --- messages ---

    def _take(self, delivery: Delivery) -> None:
        self._reports.settle(delivery)  # a report that is lost is followed by another one
        if self._arbiter is None or self._trust.fault(delivery):
            return
        try:
            properties = Properties.decode(delivery.properties)
            reply_to = properties.reply_to or ""
            if not reply_to.startswith(DIRECT_REPLY):
                raise BadLimitMessage("a message without a direct reply-to")
            message = decode(delivery.body)
            if message.get(KIND) == REPORT:
                self._arbiter.take(Report.of_json(message), reply_to)
                self._decide_soon()
            elif message.get(KIND) == LIST:
                found = {"limits": list(self._arbiter.described(_MOST_SHOWN))}
                self._send(reply_to, encode(found), properties.correlation_id)
        except (BadLimitMessage, MalformedProperties) as error:
            self._log.error("a message to the gate is dropped: %s", error)

    def _send(self, reply_to: str, body: bytes, correlation: str | None = None) -> None:
        properties = Properties(content_type=JSON, correlation_id=correlation).encode()
        self._outbound.send(Publication(reply_to, properties, body, mandatory=False), _ignore)

    # --- decisions ---

    def _decide_soon(self) -> None:
        if not self._is_deciding:
            self._is_deciding = True
            self._loop.at_round_end(self._decide)

    def _decide(self) -> None:
        """Grant what there is room for, and write it; the replies wait for that."""
        self._is_deciding = False
        if self._arbiter is None or self._book.unread > _MOST_UNREAD:
            return  # decided when one of these has come back
        answers = self._arbiter.decide(grants=time.monotonic() >= self._grants_from)
        changes = self._occupancy.take_changes()
        if answers or changes:
            self._book.write(changes, partial(self._answer, answers))
        if self._book.is_long:
            self._book.write_snapshot(self._occupancy.snapshot())
        self._plan()

    def _answer(self, answers: Sequence[Answer]) -> None:
        for reply_to, reply in answers:
            self._send(reply_to, reply.encode())
        self._decide_soon()

    def _plan(self) -> None:
        """Decide again when a rate allows more."""
        if self._timer is not None:
            self._loop.cancel(self._timer)
            self._timer = None
        due = self._arbiter.next_due() if self._arbiter is not None else None
        if due is not None:
            self._timer = self._loop.call_later(max(_SOON, due - self._clock()), self._due)

    def _due(self) -> None:
        self._timer = None
        self._decide_soon()

    def _tick(self) -> None:
        """Count the silence of consumers, but no time in which this process itself did not run."""
        now = time.monotonic()
        step, self._ticked = min(now - self._ticked, 2 * _TICK), now
        self._ticks += 1
        if self._arbiter is not None:
            self._arbiter.tick(step)
            if not self._ticks % _TIDY:
                self._arbiter.tidy()
            self._decide_soon()
        self._loop.call_later(_TICK, self._tick)


def _is_dead(consumer: Identity) -> bool:
    return identity.is_dead(consumer.machine, consumer.supervisor)


def _is_applied(occupancy: Occupancy, change: list[Any]) -> bool:
    """Apply a change; return whether a gate can have written it."""
    try:
        occupancy.apply(change)
    except WRONG:
        return False
    return True


def _ignore(_publication: Publication, _result: PublishResult, _reason: str) -> None:
    pass
