"""Matters that need attention, in words, each with the filter of its workitems."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from taskqueue.messages.events import FAILED, QUEUED, REJECTED, RUNNING, SCHEDULED, WAITS_FOR_WORKER
from taskqueue.messages.states import OVER
from taskqueue.monitor.record import Crashes, EmitterRow, Filter, TypeRow, TypeSum, Workitem, unsuccessful
from taskqueue.monitor.web.view import View
from taskqueue.monitor.web.wording import duration, number
from taskqueue.texts import one_line, shorten

_HOUR: Final = 3600.0
_FEW: Final = 5  # failures that are no cause for alarm
_PART: Final = 0.1  # of the ends; more failures are
_STALE: Final = 60.0  # seconds that work may wait while nothing runs
_LONG: Final = 60.0  # seconds that a workitem may run, whatever others do
_SHORT: Final = 0.001  # seconds; shorter run times are not told
_MUCH: Final = 20.0  # times the mean run time of its type; what runs longer may hang
_MOST_RUNNING: Final = 1000  # workitems that are looked at
_LONGEST_CAUSE: Final = 200  # characters
_MOST: Final = 12  # lines


class Matter(NamedTuple):
    """Something that needs attention."""

    worker_type: str  # "" if it is about no worker type
    text: str
    query: tuple[tuple[str, str], ...] = ()  # names and values of a filter; empty if it is about none


def matters_of(view: View, now: float) -> list[Matter]:
    """Return what needs attention of what a user sees in the last hour, the worst first."""
    emitters = () if view.rights.is_limited else [row for row in view.emitters() if row.is_alive(now)]
    types = [row for row in view.types() if row.worker_type]
    sums, crashes = view.sums_by_type(now - _HOUR, now), view.crashes(now - _HOUR, now)
    return matters(types, sums, crashes, emitters, "1h", running=running_of(view, types), now=now)


def running_of(view: View, types: Iterable[TypeRow]) -> Sequence[Workitem]:
    """Return workitems that run, for `matters`: at most some, the newest."""
    if not any(row.running for row in types):
        return ()
    return view.page(Filter(states=frozenset((RUNNING,))), None, _MOST_RUNNING).workitems


def matters(
    types: Sequence[TypeRow],
    sums: Sequence[TypeSum],
    crashes: Iterable[Crashes],
    emitters: Sequence[EmitterRow],
    since: str,
    *,
    running: Iterable[Workitem] = (),
    now: float = 0.0,
) -> list[Matter]:
    """Return what needs attention, the worst first; since -- the begin of the time, as a filter has it."""
    found = [
        *_blocked(emitters),
        *_restless(emitters),
        *_crashes(crashes, since),
        *_hanging(running, sums, now),
        *_standing(types),
        *_failures(sums, since),
    ]
    return found[:_MOST]


def _blocked(emitters: Sequence[EmitterRow]) -> Iterator[Matter]:
    blocked = sum(row.is_blocked for row in emitters)
    if blocked:
        who = "1 process waits" if blocked == 1 else f"{blocked} processes wait"
        yield Matter("", f"the broker has an alarm: {who} until it takes messages")


def _restless(emitters: Sequence[EmitterRow]) -> Iterator[Matter]:
    """Yield groups of which no worker stays: each ends before it takes work, or of what it does."""
    for row in emitters:
        if row.crashes > 1 and row.state == WAITS_FOR_WORKER:
            why = one_line(shorten(row.crash, _LONGEST_CAUSE))
            text = f"no worker stays on {one_line(row.emitter.host)}: {number(row.crashes)} have ended"
            yield Matter(row.emitter.group, f"{text}, the last one: {why}")


def _crashes(crashes: Iterable[Crashes], since: str) -> Iterator[Matter]:
    counts: Counter[tuple[str, str]] = Counter()
    for each in crashes:
        counts[each.worker_type, each.cause] += each.count
    for (worker_type, cause), count in counts.most_common(_MOST):
        runs = "a run" if count == 1 else f"{number(count)} runs"
        query = ("type", worker_type), ("error", cause), ("since", since)
        why = one_line(shorten(cause, _LONGEST_CAUSE))
        yield Matter(worker_type, f"{runs} ended with the worker: {why}", query)


def _hanging(running: Iterable[Workitem], sums: Sequence[TypeSum], now: float) -> Iterator[Matter]:
    """Yield types of which a workitem runs for much longer than others did."""
    seconds: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    for each in sums:
        if each.run_seconds:
            seconds[each.worker_type] += each.run_seconds  # type: ignore[assignment]
            ends[each.worker_type] += each.count
    longest: dict[str, float] = {}
    for workitem in running:
        ran = now - workitem.started if workitem.started is not None else 0.0
        longest[workitem.worker_type] = max(ran, longest.get(workitem.worker_type, 0.0))
    for worker_type, ran in sorted(longest.items(), key=lambda item: -item[1]):
        mean = seconds[worker_type] / ends[worker_type] if ends[worker_type] else None
        if mean is not None and ran > max(_LONG, _MUCH * mean):
            usual = duration(mean) if mean >= _SHORT else f"less than {duration(_SHORT)}"
            text = f"a workitem has run for {duration(ran)}; others take {usual}"
            yield Matter(worker_type, text, (("type", worker_type), ("state", RUNNING)))


def _standing(types: Sequence[TypeRow]) -> Iterator[Matter]:
    """Yield types whose work waits while nothing runs."""
    for row in types:
        is_unserved = row.consumers == 0
        if row.waiting and not row.running and (is_unserved or (row.oldest or 0.0) > _STALE):
            wait = f"{number(row.waiting)} wait"
            wait += f", for up to {duration(row.oldest)}" if row.oldest is not None else ""
            why = "no worker serves this type" if is_unserved else "nothing runs"
            query = ("type", row.worker_type), ("state", QUEUED), ("state", SCHEDULED)
            yield Matter(row.worker_type, f"{wait}, and {why}", query)


def _failures(sums: Sequence[TypeSum], since: str) -> Iterator[Matter]:
    ends: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for each in sums:
        if each.state in OVER:
            ends[each.worker_type][each.state] += each.count
    for worker_type, counts in sorted(ends.items(), key=lambda item: -unsuccessful(item[1])):
        bad, total = unsuccessful(counts), counts.total()
        if bad > _FEW and bad > _PART * total:
            query = ("type", worker_type), ("state", FAILED), ("state", REJECTED), ("since", since)
            text = f"{number(bad)} of {number(total)} failed, {100 * bad / total:.0f} %"
            yield Matter(worker_type, text, query)
