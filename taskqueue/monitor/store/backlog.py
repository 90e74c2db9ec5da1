"""The worker types: what waits and runs of each, and what ended in the last hour."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any, Final

from taskqueue.broker.topology import WORKER_PREFIX
from taskqueue.messages.events import QUEUED, RETRYING, RUNNING, SCHEDULED, STATES
from taskqueue.monitor.record import Scope, TypeRow
from taskqueue.monitor.report import STALE_AFTER, Report
from taskqueue.monitor.store.interface import Source
from taskqueue.monitor.store.item import CODE, FIRST_OVER
from taskqueue.monitor.store.sums import by_type

_HOUR: Final = 3600.0
_AHEAD: Final = 2 * 86400.0  # seconds; a clock that is ahead by more is set right when it is recorded


def types(live: Source, report: Report | None, now: float) -> list[TypeRow]:
    """Return the worker types that have workitems now, or had ends in the last hour, by name.

    report -- the recorder's, with the sizes of queues; None if none runs
    """
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    numbers: dict[str, Any] = {}
    for number, state, count in live.query("SELECT type, state, count FROM tally WHERE count > 0"):
        numbers[name := live.name(number)] = number
        counts[name][STATES[state]] = count
    ends: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for each in by_type(live, Scope(now - _HOUR, now + _AHEAD)):
        if CODE[each.state] >= FIRST_OVER:
            ends[each.worker_type][each.state] = each.count
    depths, consumers = _sizes(report, now)

    def due(name: str) -> int:
        return _due(live, numbers[name], now) if counts[name][SCHEDULED] else 0

    return [
        TypeRow(
            name,
            counts[name][QUEUED] + counts[name][SCHEDULED],
            counts[name][RUNNING],
            counts[name][RETRYING],
            _oldest(live, numbers[name], now) if counts[name][QUEUED] + counts[name][SCHEDULED] else None,
            ends[name],
            depth := depths.get(name),
            None if depth is None else depth - counts[name][QUEUED] - due(name),
            consumers.get(name),
        )
        for name in sorted({*counts, *ends, *(name for name, depth in depths.items() if depth)})
    ]


def _sizes(report: Report | None, now: float) -> tuple[dict[str, int], dict[str, int]]:
    """Return ready messages and consumers of the queues of worker types; {} if they are not known now."""
    if report is None or report.depths_at is None or now - report.depths_at > STALE_AFTER:
        return {}, {}
    return _by_type(report.depths), _by_type(report.consumers)


def _by_type(numbers: Mapping[str, int]) -> dict[str, int]:
    """Return the numbers of queues by their worker types."""
    return {
        queue.removeprefix(WORKER_PREFIX): number
        for queue, number in numbers.items()
        if queue.startswith(WORKER_PREFIX)
    }


def _oldest(live: Source, number: Any, now: float) -> float | None:
    """Return for how many seconds the oldest workitem of a type has waited; None if none waits."""
    query = (
        "SELECT queued FROM live INDEXED BY live_type WHERE state = ? AND type = ? AND queued IS NOT NULL "
        "ORDER BY seq LIMIT 1"
    )
    times = live.query(query, (CODE[QUEUED], number))
    query = "SELECT min(due) FROM live INDEXED BY live_due WHERE state = 1 AND type = ? AND due <= ?"
    times += [row for row in live.query(query, (number, now)) if row[0] is not None]
    return max(0.0, now - min(time for (time,) in times)) if times else None


def _due(live: Source, number: Any, now: float) -> int:
    """Return how many scheduled workitems of a type are due: the broker has put them into its queue."""
    query = "SELECT count(*) FROM live INDEXED BY live_due WHERE state = 1 AND type = ? AND due <= ?"
    return int(live.query(query, (number, now))[0][0])
