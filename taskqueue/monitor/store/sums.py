"""Sums of the minutes, by time and by worker type."""

from collections.abc import Iterable, Sequence
from math import ceil
from typing import Any, Final

from taskqueue.messages.events import STATES
from taskqueue.monitor.record import Scope, TimeSum, TypeSum, TypeTimes
from taskqueue.monitor.store.histograms import read
from taskqueue.monitor.store.interface import Source
from taskqueue.monitor.store.spans import SPANS, pieces

_MINUTE: Final = SPANS[0]
_FEW: Final = 50  # worker types, each of which is looked for by the index
_MOST_TIMES: Final = 1500  # that are named in a query


def by_time(live: Source, scope: Scope, step: int) -> list[TimeSum]:
    """Return the counts by time and state; step -- seconds of a time."""
    first = int(scope.since)
    spans = [span for span in SPANS if span == _MINUTE or step % span == first % span == 0]
    table = "all_sum" if scope.types is None else "type_sum"
    source, values = _source(live, scope, table, spans)
    if not source:
        return []
    text = f"SELECT (at - ?) / ?, state, sum(count) FROM {source} GROUP BY 1, 2"  # noqa: S608 -- no input
    rows = live.query(text, (first, step, *values))
    return [TimeSum(float(first + place * step), STATES[state], count) for place, state, count in rows]


def by_type(live: Source, scope: Scope) -> list[TypeSum]:
    """Return the counts and run times by worker type and state."""
    source, values = _source(live, scope, "type_sum", SPANS)
    if not source:
        return []
    text = f"SELECT type, state, sum(count), sum(run) FROM {source} GROUP BY type, state"  # noqa: S608 -- no input
    rows = live.query(text, values)
    return [TypeSum(live.name(type_), STATES[state], count, run) for type_, state, count, run in rows]


def times_by_type(live: Source, scope: Scope) -> list[TypeTimes]:
    """Return the histograms of run and wait times by worker type."""
    source, values = _source(live, scope, "type_sum", SPANS)
    if not source:
        return []
    text = f"SELECT type, sum_counts(runs), sum_counts(waits) FROM {source} GROUP BY type"  # noqa: S608 -- no input
    rows = live.query(text, values)
    return [TypeTimes(live.name(type_), read(runs), read(waits)) for type_, runs, waits in rows]


def _source(live: Source, scope: Scope, table: str, spans: Sequence[int]) -> tuple[str, list[Any]]:
    """Return what is added up, with its values; "" if the time has nothing.

    table -- has the sums of all tenants; of some tenants, minutes are added up
    """
    values: list[Any] = []
    if scope.tenants is not None:
        source, values = "minute WHERE at >= ? AND at < ?", [ceil(scope.since), ceil(scope.until)]
    else:
        since, until = (ceil(time / _MINUTE) * _MINUTE for time in (scope.since, scope.until))
        parts = list(pieces(since, until, spans)) if since < until else []
        is_narrow = scope.types is not None and len(scope.types) <= _FEW
        rows, values = _rows(table, parts, is_narrow=is_narrow)
        source = f"({' UNION ALL '.join(rows)}) AS told WHERE true" if rows else ""
    for column, names in (("type", scope.types), ("tenant", scope.tenants)):
        if names is not None and source:
            known = [number for name in names if (number := live.number(name)) is not None]
            source += f" AND {column} IN ({', '.join('?' * len(known)) or 'NULL'})"
            values += known
    return source, values


def _rows(
    table: str, parts: Iterable[tuple[int, int, int]], *, is_narrow: bool
) -> tuple[list[str], list[Any]]:
    """Return a query for each part of a time, and their values.

    is_narrow -- whether few worker types are wanted: then the times are named, so that the rows of others
        are not read
    """
    queries, values = [], list[Any]()
    for span, begin, end in parts:
        times = range(begin, end, span)
        if is_narrow and len(times) <= _MOST_TIMES:
            condition, named = f"at IN ({', '.join('?' * len(times))})", list(times)
        else:
            condition, named = "at >= ? AND at < ?", [begin, end]
        queries.append(f"SELECT * FROM {table} WHERE span = ? AND {condition}")  # noqa: S608 -- no input
        values += [span, *named]
    return queries, values
