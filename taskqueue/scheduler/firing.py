"""Firing ticks: each is published as a workitem; after the confirm, its schedule's state is written."""

import hmac
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from taskqueue.amqp.properties import Properties
from taskqueue.broker.outbound import Outbound
from taskqueue.broker.publisher import Publication, PublishResult
from taskqueue.broker.topology import TASKQUEUE
from taskqueue.errors import BadSchedule
from taskqueue.messages import names
from taskqueue.messages.workitem import submitted
from taskqueue.process.logs import Log
from taskqueue.scheduler.agenda import Agenda
from taskqueue.scheduler.register import Register
from taskqueue.scheduler.state import State, latest
from taskqueue.schedules.definition import ALL, SKIP, Definition

#: Seconds that a tick may be late without being missed: another scheduler takes over in that time.
LATE: Final = 60.0
_MOST_MISSED: Final = 10_000  # ticks of one schedule that are fired with `missed = all`
#: Seconds in which a second firing of a tick is recognised. Each tick has a key so long, of a limited number.
_REMEMBERED: Final = 60.0
_MOST_IN_FLIGHT: Final = 1000  # ticks that are published and not yet written
_MOST_LEFT_OUT: Final = 100  # missed ticks of a schedule that are told one by one, the last ones
_MOST_TOLD: Final = 1000  # those of all schedules, since this scheduler leads

#: Takes a schedule, the time of a tick that is left out, and the reason.
LeftOut = Callable[[Definition, float, str], None]


@dataclass(slots=True, eq=False)
class Entry:
    """A schedule that this scheduler fires."""

    name: str
    missed: deque[float] = field(default_factory=deque)  # ticks to be fired before the regular ones
    tick: float = 0.0  # the next one
    is_busy: bool = False  # a tick is published, and its state is not written yet
    over: str = ""  # the id of a workitem that was over before its tick was known as fired


class Firing:
    """The ticks of all schedules, while this scheduler leads."""

    def __init__(
        self, register: Register, outbound: Outbound, clock: Callable[[], float], on_left_out: LeftOut
    ) -> None:
        """Fire what `register` has.

        clock -- returns the time in seconds since 1970
        on_left_out -- is told of ticks that are left out
        """
        self._on_left_out = on_left_out
        self._may_tell = _MOST_TOLD  # missed ticks
        self._register, self._outbound, self._clock = register, outbound, clock
        self._entries: dict[str, Entry] = {}
        self._agenda: Agenda[Entry] = Agenda()
        self._in_flight = 0
        self._is_ending = False
        self._log = Log("scheduler")

    def next_due(self) -> float | None:
        """Return when the next tick is fired; None if none is."""
        return self._agenda.next_due() if self._in_flight < _MOST_IN_FLIGHT else None

    @property
    def is_idle(self) -> bool:
        """Whether every published tick is written."""
        return not self._in_flight

    def end(self) -> None:
        """Fire nothing new."""
        self._is_ending = True
        self._agenda.clear()

    def clear(self) -> None:
        """Forget everything: this scheduler leads no more."""
        self._entries.clear()
        self._agenda.clear()
        self._in_flight, self._may_tell = 0, _MOST_TOLD

    def plan(self, name: str) -> None:
        """Find the next tick of a schedule that is new or has changed."""
        entry = self._entries.setdefault(name, Entry(name))
        entry.missed.clear()
        self._agenda.drop(entry)
        state = self._register.find(name)
        if state is None:
            del self._entries[name]
        elif not state.paused and not entry.is_busy:
            self._plan(entry, state)

    def fire_due(self) -> None:
        """Fire what is due."""
        now = self._clock()
        while self._in_flight < _MOST_IN_FLIGHT and (entry := self._agenda.take(now)) is not None:
            state = self._register.find(entry.name)
            if state is not None:
                self._fire(entry, state)

    def over(self, name: str, workitem: str, tick: float, token: str) -> State | None:
        """Note that a workitem is over; return the state to be written, None if nothing changes.

        token -- without that of the workitem nothing does: anybody may guess the id of a tick
        """
        state, entry = self._register.find(name), self._entries.get(name)
        if state is None or entry is None:
            return None
        if not hmac.compare_digest(state.token(workitem).encode(), token.encode()):
            return None
        if state.running == workitem:
            return replace(state, running="")
        definition = state.definition
        is_unwritten = tick > state.last and not definition.overlap and workitem == definition.tick_id(tick)
        if is_unwritten:
            entry.over = workitem  # fired by a scheduler that ended before it could write so
        return None

    def publish(self, state: State, workitem: str, tick: float, then: Callable[[], None]) -> None:
        """Publish a workitem of a schedule; call back once that is confirmed.

        tick -- its time in seconds since 1970
        """
        definition = state.definition
        headers: dict[str, object] = {
            names.SCHEDULE: definition.name,
            names.TICK: tick,
            names.LABELS: definition.labels,
            names.UNIQUE: workitem,  # a leader that ended before it could write has perhaps published it
            names.UNIQUE_FOR: _REMEMBERED,
        }
        if definition.tenant:
            headers[names.TENANT] = definition.tenant
        if not definition.overlap:
            headers[names.COMPLETION] = state.token(workitem)
        raw = submitted(definition.worker_type, workitem, definition.content_type)
        properties = Properties.decode(raw).with_headers(headers).encode()

        def published(_publication: Publication, result: PublishResult, reason: str) -> None:
            if result is not PublishResult.CONFIRMED:
                text = "schedule %s: the broker refuses its workitem, which is left out: %s"
                self._log.error(text, definition.name, reason)
            then()

        self._outbound.send(Publication(TASKQUEUE, properties, definition.body_bytes()), published)

    # --- one tick ---

    def _fire(self, entry: Entry, state: State) -> None:
        tick, definition = entry.tick, state.definition
        entry.is_busy = True
        self._in_flight += 1
        if state.running:
            self._log.info(
                "schedule %s: %s left out, %s is not over", entry.name, _shown(tick), state.running
            )
            self._on_left_out(definition, tick, f"{state.running} is not over")
            self._register.write(state.after_skipping(tick), lambda: self._written(entry))
        elif entry.over == definition.tick_id(tick):
            self._fired(entry, tick)
        else:
            self.publish(state, definition.tick_id(tick), tick, lambda: self._fired(entry, tick))

    def _fired(self, entry: Entry, tick: float) -> None:
        """Write that a tick was fired, into the state as it is now."""
        state = self._register.find(entry.name)
        if state is None:
            self._written(entry)
            return
        after = state.after_firing(tick)
        if entry.over == state.definition.tick_id(tick):
            entry.over, after = "", replace(after, running="")
        self._register.write(after, lambda: self._written(entry))

    def _written(self, entry: Entry) -> None:
        self._in_flight -= 1
        entry.is_busy = False
        state = self._register.find(entry.name)
        if state is not None and not state.paused and self._entries.get(entry.name) is entry:
            self._plan(entry, state)

    # --- the next tick ---

    def _plan(self, entry: Entry, state: State) -> None:
        definition = state.definition
        try:
            timing = definition.timing
        except BadSchedule as error:
            self._log.error("schedule %s cannot be fired by this host: %s", entry.name, error)
            return
        since = state.last
        if not entry.missed:
            until = self._clock() - LATE
            if timing.next_after(since) <= until:
                since = self._find_missed(entry, state, until)
        while entry.missed and entry.missed[0] <= state.last:
            entry.missed.popleft()
        entry.tick = entry.missed.popleft() if entry.missed else timing.next_after(since)
        if entry.tick != float("inf") and not self._is_ending:
            self._agenda.put(entry, definition.fire_at(entry.tick))

    def _find_missed(self, entry: Entry, state: State, until: float) -> float:
        """Collect the ticks that are fired late; return the time until which all others are left out."""
        definition = state.definition
        most = _MOST_MISSED if definition.missed == ALL else 1
        found = latest(definition.timing, state.last, until, most)
        what = "left out" if definition.missed == SKIP else f"fires {len(found)} of them late"
        text = "schedule %s: no scheduler ran when it was due from %s on; %s"
        self._log.warning(text, entry.name, _shown(definition.timing.next_after(state.last)), what)
        if definition.missed != SKIP:
            entry.missed.extend(found)
        self._tell_missed(entry, state, until)
        return until

    def _tell_missed(self, entry: Entry, state: State, until: float) -> None:
        """Tell the last ones of the ticks that are left out because no scheduler ran."""
        definition = state.definition
        for tick in latest(definition.timing, state.last, until, min(_MOST_LEFT_OUT, self._may_tell)):
            if tick not in entry.missed:
                self._may_tell -= 1
                self._on_left_out(definition, tick, "no scheduler ran when it was due")


def _shown(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
