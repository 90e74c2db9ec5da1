"""The overview: what needs attention, ends over time, the backlog and the slowest types."""

import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from taskqueue.messages.events import CANCELLED, FAILED, LOST, QUEUED, REJECTED, RETRYING, SUCCEEDED
from taskqueue.messages.states import OVER
from taskqueue.monitor.record import EmitterRow, TimeSum, TypeRow, TypeSum, unsuccessful
from taskqueue.monitor.web import parameters
from taskqueue.monitor.web.attention import Matter, matters, running_of
from taskqueue.monitor.web.pages import showing
from taskqueue.monitor.web.pages.charts import Column, chart_html
from taskqueue.monitor.web.pages.page import Page
from taskqueue.monitor.web.pages.workitems import PATH as WORKITEMS
from taskqueue.monitor.web.parameters import choice
from taskqueue.monitor.web.view import View

#: Seconds of a range, and of a column of its charts; and the range as a filter of workitems has it.
RANGES: Final = {"hour": (3600, 60, "1h"), "day": (86400, 1200, "24h"), "week": (7 * 86400, 7200, "7d")}
_ENDS: Final = (SUCCEEDED, RETRYING, FAILED, REJECTED, CANCELLED, LOST)
_MOST_TYPES: Final = 15
_SLOWEST: Final = 5
_RANGE: Final = choice("range", "The time until now.", tuple(RANGES))


class Overview(Page):
    """Shows how the work goes."""

    async def get(self) -> None:
        """Answer."""
        reach = reach_of(self.query())
        await self.make("overview.html", "Overview", lambda view: values(view, reach))


def reach_of(query: Mapping[str, Sequence[str]]) -> str:
    """Return the time range of a query. Raises BadRequest."""
    reach: str = parameters.read((_RANGE,), query).get("range", "hour")
    return reach


@dataclass(frozen=True, slots=True)
class Ends:
    """The ends of a type in the range."""

    counts: Mapping[str, int]  # by state
    run_seconds: float

    @property
    def total(self) -> int:
        """The number of ends."""
        return sum(self.counts.values())

    @property
    def bad(self) -> int:
        """Those that failed or were rejected or lost."""
        return unsuccessful(self.counts)

    @property
    def mean(self) -> float | None:
        """The mean run time in seconds; None without ends."""
        return self.run_seconds / self.total if self.total else None


def values(view: View, reach: str) -> Mapping[str, Any]:
    """Return what the template shows."""
    length, step, since = RANGES[reach]
    now = time.time()
    first = int(now - length) // step * step
    types = [row for row in view.types() if row.worker_type]  # rejected messages may have none
    by_type = view.sums_by_type(first, now)
    by_time = view.sums_by_time(first, now, step)
    emitters = () if view.rights.is_limited else [r for r in view.emitters() if r.is_alive(now)]
    ends, totals = _ends(by_type), _totals(by_time)
    places = (int(now) - first) // step + 1
    return {
        "reach": reach,
        "ranges": tuple(RANGES),
        "since": since,
        "first": first,
        "now": now,
        "totals": totals,
        "failed_part": _failed_part(totals),
        "matters": [
            (each, _address(each))
            for each in matters(
                *(types, by_type, view.crashes(first, now), emitters, since),
                running=running_of(view, types),
                now=now,
            )
        ],
        "ends_chart": chart_html("Ends over time", _columns(by_time, _ENDS, first, step, places)),
        "queued_chart": chart_html("Queued over time", _columns(by_time, (QUEUED,), first, step, places)),
        "types": _busiest(types, ends)[:_MOST_TYPES],
        "more": max(0, len(types) - _MOST_TYPES),
        "ends": defaultdict(lambda: Ends({}, 0.0), ends),
        "slowest": sorted(
            ((name, each) for name, each in ends.items() if each.run_seconds),
            key=lambda one: -(one[1].mean or 0),
        )[:_SLOWEST],
        "waiting": sum(row.waiting for row in types),
        "running": sum(row.running for row in types),
        "retrying": sum(row.retrying for row in types),
        "hosts": _hosts(emitters),
    }


def _address(matter: Matter) -> str:
    if matter.query:
        return showing.address(WORKITEMS, matter.query)
    return "/hosts" if matter.worker_type else "/broker"


def _ends(sums: Sequence[TypeSum]) -> dict[str, Ends]:
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    seconds: Counter[str] = Counter()
    for each in sums:
        if each.state in OVER:
            counts[each.worker_type][each.state] += each.count
            seconds[each.worker_type] += each.run_seconds  # type: ignore[assignment]
    return {name: Ends(counts[name], float(seconds[name])) for name in counts}


def _totals(sums: Sequence[TimeSum]) -> Counter[str]:
    totals: Counter[str] = Counter()
    for each in sums:
        totals[each.state] += each.count
    return totals


def _failed_part(totals: Mapping[str, int]) -> float | None:
    """Return the part of the ends that failed, were rejected or lost, from 0 to 1; None without ends."""
    over = sum(totals[state] for state in OVER)
    return unsuccessful(totals) / over if over else None


def _columns(
    sums: Sequence[TimeSum], states: Sequence[str], first: int, step: int, places: int
) -> list[Column]:
    counts = [Counter[str]() for _ in range(places)]
    for each in sums:
        counts[min(places - 1, int(each.at - first) // step)][each.state] += each.count
    times = (time.gmtime(first + place * step) for place in range(places))
    return [
        Column(time.strftime("%Y-%m-%d %H:%M UTC", at), {state: count[state] for state in states})
        for at, count in zip(times, counts, strict=True)
    ]


def _busiest(types: Sequence[TypeRow], ends: Mapping[str, Ends]) -> list[TypeRow]:
    """Return the types with most work now, then with most ends."""

    def rank(row: TypeRow) -> tuple[int, int]:
        done = ends.get(row.worker_type)
        return -(row.waiting + row.running + row.retrying), -(done.total if done else 0)

    return sorted(types, key=rank)


@dataclass(frozen=True, slots=True)
class HostLine:
    """The workers of a host."""

    name: str
    busy: int
    slots: int
    is_blocked: bool


def _hosts(emitters: Sequence[EmitterRow]) -> list[HostLine]:
    rows: defaultdict[str, list[EmitterRow]] = defaultdict(list)
    for row in emitters:
        rows[row.emitter.host].append(row)
    return [
        HostLine(
            name,
            sum(row.busy for row in each if row.emitter.kind == "consumer"),
            sum(row.slots for row in each if row.emitter.kind == "consumer"),
            any(row.is_blocked for row in each),
        )
        for name, each in sorted(rows.items())
    ]
