"""The events of one write: they change workitems in memory, then live.db and a plan for the days' files."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from taskqueue.messages.events import (
    CANCELLED,
    CRASHED,
    FINAL,
    QUEUED,
    REJECTED,
    RETRYING,
    Begun,
    Cancelled,
    Ended,
    LogLine,
    ProcessState,
    Progress,
    Rejected,
    Retried,
    Routed,
)
from taskqueue.messages.relatives import Gone, Other
from taskqueue.monitor.record import LONGEST_LINE
from taskqueue.monitor.store.causes import crash_cause
from taskqueue.monitor.store.database import NameTable
from taskqueue.monitor.store.day_file import file_name
from taskqueue.monitor.store.emitters import Known
from taskqueue.monitor.store.item import CODE, FIRST_OVER, Item, Key
from taskqueue.monitor.store.live import Live
from taskqueue.monitor.store.minutes import Minutes
from taskqueue.monitor.store.plan import FilePlan, Line, Plan, is_kept, row_of

#: Where an event has its time and its tenant; all of these have the id of a workitem first.
_PLACES: Final[Mapping[type[Any], tuple[int, int]]] = {
    kind: (kind._fields.index("ended" if kind is Ended else "at"), kind._fields.index("tenant"))
    for kind in (Routed, Ended, Rejected, Cancelled, Retried, Begun, Progress, LogLine)
}
_DAY: Final = 86400.0

#: Return the workitems with some ids that were over on a day, in days since 1970, or on a neighbour of it.
FindOver = Callable[[int, set[str]], Iterable[Item]]
#: Return time and text of the lines that a day's file, by name, has of a workitem.
LinesOf = Callable[[str, Key], set[tuple[float, str]]]


class Round:
    """The events of one write."""

    def __init__(self, live: Live, names: NameTable, now: float) -> None:
        """Collect events; `now` is the time on the clock of this host."""
        self.minutes = Minutes()
        self.relatives: list[tuple[str, Other | Gone]] = []  # events of other processes, with their host
        self._live = live
        self._names = names
        self._latest = now + _DAY  # later times are those of a wrong clock
        self._events: list[tuple[Any, Key, str, int]] = []  # with the emitter's host and number
        self._keys: defaultdict[int, set[Key]] = defaultdict(set)  # by the day of the event
        self._items: dict[Key, Item] = {}
        self._lines: defaultdict[Key, list[LogLine]] = defaultdict(list)

    def add(self, events: Iterable[Any], host: str, emitter: Known) -> bool:
        """Add the events of a batch; return whether its emitter has begun to take work."""
        begins, kept, latest = False, self._names.kept, self._latest
        begin = end = 0.0  # of the day whose keys are `keys`
        keys: set[Key] = set()
        for event in events:
            kind = type(event)
            if kind in _PLACES:
                time_at, tenant_at = _PLACES[kind]
                key = kept(event[tenant_at]), event[0]
                if not begin <= event[time_at] < end:
                    day = int(min(event[time_at], latest) // _DAY)
                    begin, end, keys = day * _DAY, (day + 1) * _DAY, self._keys[day]
                keys.add(key)
                if kind is Retried and event.failed is not None:  # its row is in the file of that day
                    self._keys[int(min(max(0.0, event.failed), latest) // _DAY)].add(key)
                self._events.append((event, key, host, emitter.no))
            elif kind is ProcessState:
                begins |= emitter.take(event)
            else:
                self.relatives.append((host, event))
        return begins

    def apply(self, find_over: FindOver) -> None:
        """Find the workitems that the events concern, and apply the events to them in order."""
        self._find(find_over)
        apply: dict[type[Any], Callable[[Any, Key, str, int], None]] = {
            Routed: self._routed,
            Ended: self._ended,
            Rejected: self._rejected,
            Cancelled: self._cancelled,
            Retried: self._retried,
            Begun: self._begun,
            Progress: self._progressed,
            LogLine: self._logged,
        }
        for event, key, host, emitter in self._events:
            apply[type(event)](event, key, host, emitter)

    def _find(self, find_over: FindOver) -> None:
        for day, told in self._keys.items():
            missing = told - self._items.keys()
            self._items |= self._live.find({id_ for _, id_ in missing})
            missing -= self._items.keys()
            for item in find_over(day, {id_ for _, id_ in missing}):
                known = self._items.get(item.key)
                if known is None or (known.place is not None and (known.ended or 0.0) < (item.ended or 0.0)):
                    self._items[item.key] = item

    def _item(self, key: Key) -> Item:
        item = self._items.get(key)
        if item is None:
            item = self._items[key] = Item(*key)
        return item

    # --- events ---

    def _routed(self, event: Routed, key: Key, _host: str, _emitter: int) -> None:
        item = self._item(key)
        item.routed_by(event)
        self._count(item, QUEUED, event.at)

    def _retried(self, event: Retried, key: Key, _host: str, _emitter: int) -> None:
        item = self._items.get(key)
        if item is not None:
            item.retried_by(event)

    def _begun(self, event: Begun, key: Key, host: str, emitter: int) -> None:
        self._item(key).begun(event, host, emitter)

    def _ended(self, event: Ended, key: Key, host: str, emitter: int) -> None:
        if event.state != RETRYING and event.state not in FINAL:
            return  # a state of a later version
        item = self._item(key)
        item.ended_by(event, host, emitter)
        run = wait = None
        if event.started is not None:
            run = max(0.0, event.ended - event.started)
            if event.attempt <= 1 and item.queued is not None:
                wait = max(0.0, event.started - max(item.queued, item.due or 0.0))
        at, state = min(event.ended, self._latest), CODE[event.state]
        self.minutes.add_run(at, item.type, item.tenant, state, run=run, wait=wait)
        if event.outcome == CRASHED:
            self.minutes.add_crash(at, item.type, item.tenant, crash_cause(event.error))

    def _rejected(self, event: Rejected, key: Key, host: str, _emitter: int) -> None:
        item = self._item(key)
        item.rejected(event, host)
        self._count(item, REJECTED, event.at)

    def _cancelled(self, event: Cancelled, key: Key, host: str, emitter: int) -> None:
        item = self._item(key)
        item.cancelled(event, host, emitter)
        self._count(item, CANCELLED, event.at)

    def _progressed(self, event: Progress, key: Key, _host: str, _emitter: int) -> None:
        item = self._items.get(key)
        if item is not None:
            item.progressed(event)

    def _logged(self, event: LogLine, key: Key, _host: str, _emitter: int) -> None:
        self._lines[key].append(event)

    def _count(self, item: Item, state: str, at: float) -> None:
        self.minutes.add(min(at, self._latest), item.type, item.tenant, CODE[state])

    # --- what they come to ---

    def finish(self, lines_of: LinesOf) -> Plan:
        """Write what is not over into live.db; return a plan for the files of days."""
        plan: Plan = defaultdict(FilePlan)
        for key, lines in self._lines.items():
            self._log(key, self._unknown(key, lines, lines_of), plan)
        changed = [item for item in self._items.values() if item.is_changed]
        over = [item for item in changed if item.state >= FIRST_OVER]
        for item in changed:
            if item.place is not None:
                plan[item.place].deletes.append(item.seq)
        for item in over:
            time = min(item.ended or 0.0, self._latest)
            each = plan[file_name(time, item.state)]
            if count := self._live.lines_of(item.key):
                item.lines = max(item.lines, count)
                each.lines += self._live.take_lines(item.key, item.lines)
            each.inserts.append((time, row_of(item)))
        self._live.remove(over)
        self._live.put(item for item in changed if item.state < FIRST_OVER)
        self._live.save_tally()
        return plan

    def _unknown(self, key: Key, events: list[LogLine], lines_of: LinesOf) -> list[LogLine]:
        """Return the lines that a day's file does not have: it has them if the record is read again."""
        item = self._items.get(key)
        if item is None or item.place is None or not item.lines:
            return events
        known = lines_of(item.place, key)
        return [event for event in events if (event.at, event.text[:LONGEST_LINE]) not in known]

    def _log(self, key: Key, events: list[LogLine], plan: Plan) -> None:
        if not events:
            return
        item = self._items.get(key)
        first = max(self._live.lines_of(key), item.lines if item else 0)
        count = first + len(events)
        lines: list[Line] = [
            (event.id, number, event.at, event.worker, event.level, event.text[:LONGEST_LINE], key[0])
            for number, event in enumerate(events, first)
            if is_kept(number, count)
        ]
        if item is not None:
            item.lines, item.is_changed = count, True
        if item is not None and item.state >= FIRST_OVER:
            each = plan[file_name(min(item.ended or 0.0, self._latest), item.state)]
            each.lines += lines
            each.trims.append((key, count))
        else:
            self._live.add_lines(key, lines, count)
