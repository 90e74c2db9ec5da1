"""The figures of a worker type: ends over time, run and wait times; also of two types side by side."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from taskqueue.messages.events import CANCELLED, CONSUMER, FAILED, REJECTED, RETRYING, SUCCEEDED
from taskqueue.messages.states import OVER
from taskqueue.monitor.record import BUCKETS, TypeTimes, Version
from taskqueue.monitor.web import parameters
from taskqueue.monitor.web.pages.charts import Column, Mark, chart_html
from taskqueue.monitor.web.pages.histograms import Histogram
from taskqueue.monitor.web.pages.page import Page
from taskqueue.monitor.web.pages.showing import duration
from taskqueue.monitor.web.pages.types import serves
from taskqueue.monitor.web.parameters import TYPE, Parameter, choice
from taskqueue.monitor.web.view import View

#: Seconds of a range, and of a column of its chart.
RANGES: Final = {"hour": (3600.0, 60.0), "day": (86400.0, 1200.0), "week": (7 * 86400.0, 7200.0)}
_MOST_CHANGES: Final = 20  # of versions, in a panel
EARLIER: Final = {"day": 86400.0, "week": 7 * 86400.0}
_SHOWN: Final = (SUCCEEDED, RETRYING, FAILED, REJECTED, CANCELLED)  # from the bottom to the top of a column
_PARAMETERS: Final = (
    Parameter("type", "The worker type.", TYPE.read),
    Parameter("with", "Another worker type beside it.", TYPE.read),
    choice("range", "The time until now.", tuple(RANGES)),
    choice("earlier", "The same time a day or a week before beside it.", tuple(EARLIER)),
)


class Metrics(Page):
    """Shows the figures of a worker type."""

    async def get(self) -> None:
        """Answer; a field that a form leaves empty is none."""
        given = {name: values for name, values in self.query().items() if values != [""]}
        wanted = parameters.read(_PARAMETERS, given)
        await self.make("metrics.html", "Metrics", lambda view: _values(view, wanted))


def _values(view: View, wanted: Mapping[str, str]) -> Mapping[str, Any]:
    types = view.types()
    busiest = max(types, key=lambda row: sum(row.ends.values()), default=None)
    worker_type = wanted.get("type") or (busiest.worker_type if busiest else "")
    reach = wanted.get("range", "hour")
    now = time.time()
    panels = [_panel(view, worker_type, reach, now)] if worker_type else []
    if worker_type and "with" in wanted:
        panels.append(_panel(view, wanted["with"], reach, now))
    if worker_type and "earlier" in wanted:
        panels.append(_panel(view, worker_type, reach, now - EARLIER[wanted["earlier"]]))
    return {
        "types": [row.worker_type for row in types],
        "wanted": {**wanted, "type": worker_type, "range": reach},
        "ranges": tuple(RANGES),
        "earlier": tuple(EARLIER),
        "panels": panels,
    }


@dataclass(frozen=True, slots=True)
class Panel:
    """The figures of a type and a time."""

    worker_type: str
    since: float
    until: float
    ends: Mapping[str, int]  # by state, also retrying
    columns: Sequence[Column]
    runs: Histogram
    waits: Histogram
    changes: Sequence[Version]  # of the versions of processes that serve the type

    @property
    def highest(self) -> int:
        """The ends of the highest column."""
        return max((column.height for column in self.columns), default=0)

    @property
    def failed_part(self) -> float | None:
        """The part of the ends that did not succeed, from 0 to 1; None without ends."""
        over = sum(count for state, count in self.ends.items() if state in OVER)
        return 1 - self.ends.get(SUCCEEDED, 0) / over if over else None

    def ends_html(self) -> str:
        """Return the chart of ends over time."""
        step = (self.until - self.since) / max(1, len(self.columns))
        marks = [Mark((each.at - self.since) / step, _in_words(each)) for each in self.changes]
        return chart_html(f"Ends of {self.worker_type} over time", self.columns, marks)

    def times_html(self, histogram: Histogram, what: str) -> str:
        """Return the chart of a histogram."""
        bounds = [*(f"up to {duration(bound)}" for bound in BUCKETS), f"over {duration(BUCKETS[-1])}"]
        columns = [
            Column(f"{what} {bound}", {"runs": count})
            for bound, count in zip(bounds, histogram.counts, strict=True)
        ]
        return chart_html(f"{what} of {self.worker_type}", columns)


def _panel(view: View, worker_type: str, reach: str, until: float) -> Panel:
    length, step = RANGES[reach]
    first = (until - length) // step * step
    types = (worker_type,)
    counts = [Counter[str]() for _ in range(int((until - first) // step) + 1)]
    ends: Counter[str] = Counter()
    for told in view.sums_by_time(first, until, int(step), types):
        if told.state in _SHOWN:
            counts[int((told.at - first) // step)][told.state] += told.count
            ends[told.state] += told.count
    columns = [
        Column(_clock(first + place * step, reach), {state: each[state] for state in _SHOWN})
        for place, each in enumerate(counts)
    ]
    changes = [each for each in _changes(view, worker_type) if first <= each.at < until]
    times = _times(view.times_by_type(first, until, types))
    return Panel(worker_type, first, until, ends, columns, *times, changes[-_MOST_CHANGES:])


def _changes(view: View, worker_type: str) -> Iterator[Version]:
    """Yield the versions that differ from those that a host had before, of consumers of a type."""
    known: dict[tuple[str, str], str] = {}
    for each in view.versions():
        if each.kind == CONSUMER and serves(each.group, worker_type):
            if known.get((each.host, each.group), each.version) != each.version:
                yield each
            known[each.host, each.group] = each.version


def _in_words(change: Version) -> str:
    return f"{_clock(change.at, 'day')}: {change.version} on {change.host}, group {change.group}"


def _times(times: Sequence[TypeTimes]) -> tuple[Histogram, Histogram]:
    runs = Histogram.sum(each.run_histogram for each in times)
    return runs, Histogram.sum(each.wait_histogram for each in times)


def _clock(at: float, reach: str) -> str:
    return time.strftime("%H:%M UTC" if reach == "hour" else "%Y-%m-%d %H:%M UTC", time.gmtime(at))
