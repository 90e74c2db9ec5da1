"""The overview: what needs attention, the last hour, hosts, and the backlog."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from rich.text import Text

from taskqueue.cli import finding
from taskqueue.cli.screens import lines
from taskqueue.cli.screens.lines import Column, Row
from taskqueue.cli.screens.screen import Screen, Seen, Want
from taskqueue.cli.screens.types import ORDERS, Types, processes_of, style_of, types_of
from taskqueue.cli.status import span
from taskqueue.messages.events import CONSUMER, FAILED, QUEUED, SUCCEEDED
from taskqueue.monitor.client import Reader
from taskqueue.monitor.record import unsuccessful

_MINUTE: Final = 60.0
_MINUTES: Final = 60
_MOST_MATTERS: Final = 4
_SUM_WIDTH: Final = 8  # cells of a sum beside its bars
_NAME_WIDTH: Final = 10


class Overview(Screen):
    """The screen that shows the state of all work."""

    title, key, delay = "Overview", "o", 1.0
    columns = (
        Column("type", 12, grows=True),
        Column("waiting", 8, is_number=True),
        Column("oldest", 7, 1, is_number=True),
        Column("running", 8, is_number=True),
        Column("retrying", 8, 3, is_number=True),
        Column("succeeded", 9, 2, is_number=True),
        Column("failed", 7, is_number=True),
    )
    orders, empty, unknown = Types.orders, Types.empty, Types.unknown

    def __init__(self) -> None:
        self._types = Types()

    def read(self, reader: Reader, want: Want) -> Seen:
        """Read the types, the processes and the last hour."""
        if want.opened is not None:
            return self._types.read(reader, want)
        types, processes, hour = types_of(reader), processes_of(reader), reader.ask("overview")
        totals = [sum(each[name] for each in types) for name in ("waiting", "running", "retrying")]
        ordered = sorted(types, key=ORDERS[want.order or self.orders[0]])
        return Seen(
            "{} waiting, {} running, {} retrying".format(*totals)
            + f"; types by {want.order or self.orders[0]}",
            [_row(each) for each in ordered],
            above=lambda width: [
                *_matters(hour["attention"], width),
                *_hour(hour["sums"], width),
                *_hosts(processes, width),
            ],
        )


def _row(each: Mapping[str, Any]) -> Row:
    cells = (
        each["worker_type"],
        str(each["waiting"]),
        "" if each["oldest"] is None else span(each["oldest"]),
        "no one!" if finding.is_unserved(each) else str(each["running"]),
        str(each["retrying"] or ""),
        str(each["ends"].get(SUCCEEDED, "")),
        str(unsuccessful(each["ends"]) or ""),
    )
    return Row(each["worker_type"], cells, style_of(each))


def _matters(matters: Sequence[Mapping[str, str]], width: int) -> Iterator[Text]:
    for each in matters[:_MOST_MATTERS]:
        name = f"{each['type']}: " if each["type"] else ""
        yield Text(lines.cut(f"! {name}{each['text']}", width), "bold red")
    if len(matters) > _MOST_MATTERS:
        yield Text(lines.cut(f"! and {len(matters) - _MOST_MATTERS} more", width), "bold red")
    if not matters:
        yield Text("Nothing needs attention.", "green")


def _hour(sums: Sequence[Mapping[str, Any]], width: int) -> Iterator[Text]:
    """Yield the counts of the last hour as bars, a minute each; only the newest ones where room is short."""
    shown = max(1, min(_MINUTES, width - _NAME_WIDTH - _SUM_WIDTH))
    counts: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for each in sums:
        counts[each["state"]][int(each["at"] // _MINUTE)] += each["count"]
    newest = (minute for each in counts.values() for minute in each)
    last = max([int(time.time() // _MINUTE), *newest])
    for state in (QUEUED, SUCCEEDED, FAILED):
        bars = [counts[state][minute] for minute in range(last - shown + 1, last + 1)]
        total = lines.aligned(str(counts[state].total()), _SUM_WIDTH, is_number=True)
        yield Text(lines.aligned(state, _NAME_WIDTH) + lines.spark(bars) + total)


def _hosts(processes: Sequence[Mapping[str, Any]], width: int) -> Iterator[Text]:
    busy: Counter[str] = Counter()
    slots: Counter[str] = Counter()
    blocked: set[str] = set()
    for each in processes:
        host = each["emitter"]["host"]
        is_consumer = each["emitter"]["kind"] == CONSUMER
        busy[host] += each["busy"] if is_consumer else 0
        slots[host] += each["slots"] if is_consumer else 0
        if each["is_blocked"]:
            blocked.add(host)
    shown = sorted({host for host in slots if slots[host]} | blocked)
    told = (f"{host} {busy[host]} of {slots[host]}{' (alarm)' * (host in blocked)}" for host in shown)
    text = ", ".join(told) or "no pool was heard of in the last minute"
    yield Text(lines.cut(f"Busy workers: {text}", width))
