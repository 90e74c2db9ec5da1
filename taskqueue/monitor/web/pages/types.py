"""The worker types: backlog, rates, times and failures of the last hour."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from taskqueue.messages.events import QUEUED, SCHEDULED
from taskqueue.messages.states import OVER
from taskqueue.monitor.record import EmitterRow, Filter, TypeRow, TypeTimes, unsuccessful
from taskqueue.monitor.web import parameters
from taskqueue.monitor.web.pages import showing
from taskqueue.monitor.web.pages.histograms import Histogram
from taskqueue.monitor.web.pages.page import Page
from taskqueue.monitor.web.pages.workitems import given
from taskqueue.monitor.web.view import View

PATH: Final = "/types"
ROWS: Final = 25
_HOUR: Final = 3600.0
_PARAMETERS: Final = (
    parameters.text("name", "A part of the type's name."),
    parameters.whole("page", "The page.", 1, 10_000),
)


class Types(Page):
    """Shows the worker types."""

    async def get(self) -> None:
        """Answer."""
        wanted = parameters.read(_PARAMETERS, given(self.query()))
        await self.make("types.html", "Types", lambda view: _values(view, wanted))


@dataclass(frozen=True, slots=True)
class TypeLine:
    """A worker type with its figures of the last hour."""

    row: TypeRow
    scheduled: int
    queued: int  # of the hour
    ends: Mapping[str, int]  # by state
    runs: Histogram
    waits: Histogram
    groups: Sequence[EmitterRow]  # consumers whose group has its name

    @property
    def total(self) -> int:
        """The number of ends."""
        return sum(self.ends.values())

    @property
    def bad(self) -> int:
        """Those that failed, were rejected or were lost."""
        return unsuccessful(self.ends)

    @property
    def slots(self) -> int:
        """The workers."""
        return sum(group.slots for group in self.groups)

    @property
    def hosts(self) -> Sequence[str]:
        """The hosts that have workers of it."""
        return sorted({group.emitter.host for group in self.groups})

    @property
    def is_unserved(self) -> bool:
        """Whether work waits, nothing runs, and its queue has no consumer: busy workers may have left it."""
        return bool(self.row.waiting) and not self.row.running and self.row.consumers == 0


def _values(view: View, wanted: Mapping[str, Any]) -> Mapping[str, Any]:
    name, page = wanted.get("name", ""), wanted.get("page", 1)
    rows = [row for row in view.types() if row.worker_type and name.lower() in row.worker_type.lower()]
    rows.sort(key=lambda row: (-row.waiting, row.worker_type))
    shown = rows[(page - 1) * ROWS : page * ROWS]
    following = showing.address(PATH, {**wanted, "page": page + 1}) if len(rows) > page * ROWS else ""
    return {"lines": _lines(view, shown), "name": name, "following": following, "number": len(rows)}


def _lines(view: View, rows: Sequence[TypeRow]) -> list[TypeLine]:
    now = time.time()
    names = [row.worker_type for row in rows]
    ends = {name: Counter[str]() for name in names}
    for each in view.sums_by_type(now - _HOUR, now, names):
        ends[each.worker_type][each.state] += each.count
    times = {each.worker_type: each for each in view.times_by_type(now - _HOUR, now, names)}
    emitters = () if view.rights.is_limited else view.emitters()
    alive = [row for row in emitters if row.emitter.kind == "consumer" and row.is_alive(now)]
    return [_line(view, row, ends[row.worker_type], times.get(row.worker_type), alive) for row in rows]


def _line(
    view: View,
    row: TypeRow,
    ends: Mapping[str, int],
    times: TypeTimes | None,
    consumers: Sequence[EmitterRow],
) -> TypeLine:
    name = row.worker_type
    wanted = Filter(frozenset((SCHEDULED,)), frozenset((name,)))
    return TypeLine(
        row,
        view.count(wanted) if row.waiting else 0,
        ends.get(QUEUED, 0),
        {state: count for state, count in ends.items() if state in OVER},
        Histogram.sum([times.run_histogram] if times else ()),
        Histogram.sum([times.wait_histogram] if times else ()),
        [each for each in consumers if serves(each.emitter.group, name)],
    )


def serves(group: str, worker_type: str) -> bool:
    """Return whether a group has the name of a worker type, or of one of its subgroups."""
    return group == worker_type or group.startswith(f"{worker_type}_")
