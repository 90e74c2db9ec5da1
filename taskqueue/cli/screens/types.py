"""Worker types: backlog, rates, times and failures of the last hour."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from rich.text import Text

from taskqueue.cli import finding
from taskqueue.cli.screens import lines
from taskqueue.cli.screens.lines import Column, Row
from taskqueue.cli.screens.screen import Screen, Seen, Want
from taskqueue.cli.status import living, span
from taskqueue.messages.events import CONSUMER, QUEUED
from taskqueue.messages.states import OVER
from taskqueue.monitor.client import Reader
from taskqueue.monitor.record import unsuccessful
from taskqueue.monitor.web.pages.histograms import Histogram
from taskqueue.monitor.web.rights import NoRight
from taskqueue.monitor.web.wording import duration

_MINUTES_DELAY: Final = 10.0  # seconds between two looks at the minutes of a type

#: The orders of worker types, and what is compared.
ORDERS: Final[Mapping[str, Callable[[Mapping[str, Any]], Any]]] = {
    "waiting": lambda each: (-each["waiting"], each["worker_type"]),
    "running": lambda each: (-each["running"], each["worker_type"]),
    "failed": lambda each: (-unsuccessful(each["ends"]), each["worker_type"]),
    "name": lambda each: each["worker_type"],
}


class Types(Screen):
    """The worker types."""

    title, key, delay = "Types", "t", 1.0
    columns = (
        Column("type", 12, grows=True),
        Column("waiting", 7, is_number=True),
        Column("oldest", 6, 1, is_number=True),
        Column("running", 8, is_number=True),
        Column("retrying", 8, 4, is_number=True),
        Column("in/h", 6, 3, is_number=True),
        Column("out/h", 6, 3, is_number=True),
        Column("failed", 6, is_number=True),
        Column("run p95", 8, 2, is_number=True),
        Column("wait p95", 8, 5, is_number=True),
    )
    orders = tuple(ORDERS)
    empty = "No workitem was seen."
    unknown = "what was queued before is unknown"

    def __init__(self) -> None:
        self._hours: dict[str, _Hour] = {}

    def read(self, reader: Reader, want: Want) -> Seen:
        """Read the types, and the last hour of those that are visible."""
        types, processes = types_of(reader), processes_of(reader)
        shown = {*want.visible, want.opened} & {each["worker_type"] for each in types}
        hours = {name: self._hour(reader, name) for name in shown if name is not None}
        ordered = sorted(types, key=ORDERS[want.order or self.orders[0]])
        rows = [self._row(each, processes, hours.get(each["worker_type"])) for each in ordered]
        opened = next((each for each in types if each["worker_type"] == want.opened), None)
        return Seen(
            f"{len(rows)} worker types, by {want.order or self.orders[0]}; ends of the last hour",
            rows,
            details=lambda width: list(_details(opened, processes, hours, width)) if opened else (),
        )

    def _hour(self, reader: Reader, name: str) -> "_Hour":
        known = self._hours.get(name)
        if known is None or time.monotonic() - known.at > _MINUTES_DELAY:
            known = self._hours[name] = _Hour(reader.ask("minutes", {"type": [name]})["minutes"])
        return known

    def _row(
        self, each: Mapping[str, Any], processes: Sequence[Mapping[str, Any]], hour: "_Hour | None"
    ) -> Row:
        slots = sum(group["slots"] for group in groups_of(each, processes))
        runs = f"{each['running']} of {slots}" if slots else str(each["running"])
        cells = (
            each["worker_type"],
            str(each["waiting"]),
            "" if each["oldest"] is None else span(each["oldest"]),
            "no one!" if finding.is_unserved(each) else runs,
            str(each["retrying"] or ""),
            str(hour.queued) if hour else "",
            str(sum(each["ends"].values())),
            str(unsuccessful(each["ends"]) or ""),
            short(hour.runs.percentile(0.95)) if hour else "",
            short(hour.waits.percentile(0.95)) if hour else "",
        )
        return Row(each["worker_type"], cells, style_of(each))


class _Hour:
    """The last hour of a worker type."""

    def __init__(self, minutes: Sequence[Mapping[str, Any]]) -> None:
        self.at = time.monotonic()
        self.ends: Counter[str] = Counter()
        for minute in minutes:
            self.ends[minute["state"]] += minute["count"]
        self.queued = self.ends[QUEUED]
        self.runs = Histogram.sum(minute["run_histogram"] for minute in minutes)
        self.waits = Histogram.sum(minute["wait_histogram"] for minute in minutes)


def types_of(reader: Reader) -> list[Mapping[str, Any]]:
    """Return the worker types; a rejected message may have none."""
    return [each for each in reader.ask("types")["types"] if each["worker_type"]]


def processes_of(reader: Reader) -> list[Mapping[str, Any]]:
    """Return the processes that live; none for a user who sees only some tenants or types."""
    try:
        return living(reader.ask("processes")["processes"])
    except NoRight:
        return []


def groups_of(each: Mapping[str, Any], processes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the consumers of a type: a group is named by its worker type, or by the type and a subgroup."""
    name = each["worker_type"]
    consumers = [one for one in processes if one["emitter"]["kind"] == CONSUMER]
    return [one for one in consumers if f"{one['emitter']['group']}_".startswith(f"{name}_")]


def style_of(each: Mapping[str, Any]) -> str:
    """Return the style of a worker type's row: of one that nobody serves, or that fails."""
    if finding.is_unserved(each):
        return "red"
    return "yellow" if each["ends"].get("failed") else ""


def short(seconds: float | None) -> str:
    """Return a duration in its largest unit; "" if it is unknown."""
    if seconds is None:
        return ""
    return span(seconds) if seconds >= 10.0 else f"{seconds:.3g} s"


def _details(
    each: Mapping[str, Any],
    processes: Sequence[Mapping[str, Any]],
    hours: Mapping[str, _Hour],
    width: int,
) -> Iterator[Text]:
    oldest = "" if each["oldest"] is None else duration(each["oldest"])
    depth = "" if each["depth"] is None else f"{each['depth']} ready messages ({each['difference']:+})"
    is_counted = each["consumers"] is not None
    told = {
        "type": each["worker_type"],
        "waiting": f"{each['waiting']}" + (f", the oldest for {oldest}" if oldest else ""),
        "running": str(each["running"]),
        "retrying": str(each["retrying"]),
        "queue": depth,
        "consumers": f"{each['consumers']}" if is_counted else "",
        "": "No worker serves this type." if finding.is_unserved(each) else "",
    }
    yield from lines.pairs(told, width)
    hour = hours.get(each["worker_type"])
    if hour:
        yield Text()
        yield Text("The last hour", "bold")
        ends = {state: str(count) for state, count in sorted(hour.ends.items()) if state in OVER}
        yield from lines.pairs({"queued": str(hour.queued)} | ends, width)
        yield from lines.pairs({"run time": _percentiles(hour.runs), "wait": _percentiles(hour.waits)}, width)
    for group in groups_of(each, processes):
        yield Text()
        name = f"{group['emitter']['group']} on {group['emitter']['host']}, process {group['emitter']['pid']}"
        busy = f"{group['busy']} of {group['slots']} workers are busy"
        yield from lines.pairs({"group": name, "state": group["state"], "workers": busy}, width)


def _percentiles(times: Histogram) -> str:
    found = [(part, times.percentile(part / 100)) for part in (50, 95, 99)]
    return ", ".join(f"p{part} {short(seconds)}" for part, seconds in found if seconds is not None)
