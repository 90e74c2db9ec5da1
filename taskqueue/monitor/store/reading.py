"""The record as it is read, by a process that cannot write it."""

import base64
import binascii
import heapq
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from math import ceil
from pathlib import Path
from typing import Any, Final, Self

from taskqueue.messages.events import CANCELLED, LOST, QUEUED, RUNNING, SCHEDULED, STATES, Emitter
from taskqueue.messages.states import DUPLICATE, DUPLICATE_OF
from taskqueue.monitor.record import (
    SILENT_AFTER,
    Action,
    Crashes,
    Details,
    EmitterRow,
    Filter,
    Gap,
    Letter,
    LogEntry,
    Minute,
    Page,
    Run,
    Scope,
    TimeSum,
    TypeRow,
    TypeSum,
    TypeTimes,
    Version,
    Workitem,
)
from taskqueue.monitor.report import Report, read_report
from taskqueue.monitor.store import backlog, histograms
from taskqueue.monitor.store.day_file import day_of
from taskqueue.monitor.store.interface import Source, Sources
from taskqueue.monitor.store.item import Item
from taskqueue.monitor.store.plan import COLUMNS, Row
from taskqueue.monitor.store.query import Query, codes_of
from taskqueue.monitor.store.schema import translated
from taskqueue.monitor.store.sequence import time_of
from taskqueue.monitor.store.sources import Files
from taskqueue.monitor.store.sums import by_time, by_type, times_by_type

_NEWEST: Final = 2**63 - 1
_HOUR: Final = 3600.0
_AHEAD: Final = 2 * 86400.0  # seconds; a clock that is ahead by more is set right when it is recorded
_TRIES, _PAUSE = 50, 0.01  # seconds; while a workitem is on its way from one file to another
_EMITTER: Final = "host, kind, grp, pid, started"
_STATE: Final = (
    "last_seen, state, slots, busy, rss, cpu, is_blocked, lost, missed, state_at, unix_user, version, "
    "prefetch, crashes, crash, workers"
)

_LETTER: Final = ("id", "type", "state", "ended", "error")
_HEAD, _MORE = COLUMNS.index("head"), COLUMNS.index("more")

_Found = tuple[int, Source, list[Any]]  # sequence number, file and columns of a workitem
Sees = Callable[[str, str], bool]  # whether the reader may see a worker type's workitems of a tenant


def _sees_all(_worker_type: str, _tenant: str) -> bool:
    return True


class Record:
    """The record of a directory, read-only and for one thread.

    Its methods raise RecordUnavailable if it cannot be read now, and RecordDamaged.
    """

    def __init__(self, directory: Path, url: str | None = None) -> None:
        """Name the directory; files are opened when they are read.

        url -- of the PostgreSQL database that has the record; None: the directory has it
        """
        self._sources: Sources = _sources(directory, url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all files."""
        self._sources.close()

    def interrupt(self) -> None:
        """Have the statement that runs fail with RecordUnavailable; any thread may call this."""
        self._sources.interrupt()

    def names(self) -> frozenset[str]:
        """Return all names of the record: worker types, and hosts, workers, tenants and the like."""
        return self._sources.refresh().names()

    # --- workitems ---

    def find(self, id_: str, sees: Sees = _sees_all) -> Details | None:
        """Return what is known of the newest workitem of an id that the reader sees; None: there is none."""
        for _ in range(_TRIES):
            sources = self._sources.refresh()
            mark = sources.mark()
            items = [item for item in sources.items(id_) if sees(*_owner(item))]
            if items or sources.is_absent(id_, mark):
                break
            time.sleep(_PAUSE)
        if not items:
            return None
        now, newest = time.time(), items[0]
        own = [item for item in items if _owner(item) == _owner(newest)]
        runs = sorted((Run(*run) for item in own for run in item.runs), key=lambda run: run.ended)
        return Details(
            _workitem(newest, _seen(sources.live, now), now),
            tuple(runs),
            newest.progress,
            newest.content_type,
            _decoded(newest.result) if newest.result else None,
            tuple(newest.redelivered),
            tuple(newest.retried),
        )

    def page(
        self, wanted: Filter, cursor: str | None = None, limit: int = 50, *, has_heads: bool = True
    ) -> Page:
        """Return the newest workitems that match a filter, at most `limit` of them.

        cursor -- `next` of the page before; ValueError if it is none
        has_heads -- whether the workitems have their heads
        """
        before = _NEWEST if cursor is None else _read_cursor(cursor)
        sources = self._sources.refresh()
        now = time.time()
        seen = _seen(sources.live, now)
        rows = list(islice(self._rows(sources, wanted, before, limit + 1, now), limit + 1))
        shown = tuple(
            _workitem(source.item(_brief(row, has_heads=has_heads)), seen, now)
            for _, source, row in rows[:limit]
        )
        return Page(shown, str(rows[limit - 1][0]) if len(rows) > limit else None)

    def letters(self, wanted: Filter, limit: int) -> list[Letter]:
        """Return the newest workitems that are over and match a filter, at most `limit` of them.

        It reads less than `page` does: errors of thousands are grouped.
        """
        sources = self._sources.refresh()
        rows = self._rows_over(sources, wanted, _NEWEST, limit, time.time(), columns=_LETTER)
        return [
            Letter(id_, source.name(type_), STATES[state], ended, error or "")
            for _, source, (id_, type_, state, ended, error) in islice(rows, limit)
        ]

    def _rows(
        self, sources: Sources, wanted: Filter, before: int, limit: int, now: float
    ) -> Iterator[_Found]:
        """Yield rows, newest first: of each file, at most `limit`."""
        live = _read(sources.live, sources.live.queries(wanted, now), before, limit)
        over = self._rows_over(sources, wanted, before, limit, now)
        return heapq.merge(live, over, key=lambda found: found[0], reverse=True)

    def _rows_over(
        self,
        sources: Sources,
        wanted: Filter,
        before: int,
        limit: int,
        now: float,
        *,
        columns: Sequence[str] = COLUMNS,
    ) -> Iterator[_Found]:
        for day in _days(sources, wanted, before):
            files = [
                _read(source, source.queries(wanted, now), before, limit, columns)
                for source in sources.of_day(day, _codes(wanted))
            ]
            yield from heapq.merge(*files, key=lambda found: found[0], reverse=True)

    def count(self, wanted: Filter, limit: int | None = None) -> int:
        """Return the number of workitems that match a filter; no more than `limit`, if it is given."""
        sources = self._sources.refresh()
        most = _NEWEST if limit is None else limit
        count, now = 0, time.time()
        over = (source for day in _days(sources, wanted) for source in sources.of_day(day, _codes(wanted)))
        for source in chain([sources.live], over):
            for query in source.queries(wanted, now):
                count += int(source.query(*query.count(most - count))[0][0])
                if count >= most:
                    return count
        return count

    def logs(self, id_: str, after: int = -1, limit: int = 1000, sees: Sees = _sees_all) -> list[LogEntry]:
        """Return lines of output of the workitem that `find` returns; of none, of nobody's with the id.

        after -- the number of the last line that is known
        limit -- the most lines
        """
        sources = self._sources.refresh()
        owners = [owner for owner in map(_owner, sources.items(id_)) if sees(*owner)]
        owner = owners[0] if owners else ("", "")
        is_shared = len({each for each in owners if each[1] == owner[1]}) > 1
        rows = sources.lines(id_, owner, after, limit, is_shared=is_shared)
        return [LogEntry(*row) for row in sorted(rows)[:limit]]

    # --- overviews ---

    def types(self) -> list[TypeRow]:
        """Return the worker types that have workitems now, or had ends in the last hour, by name."""
        return backlog.types(self._sources.refresh().live, self.report(), time.time())

    def report(self) -> Report | None:
        """Return what the recorder last told of itself and of the queues; None if none runs."""
        with translated(self._sources.directory):
            return read_report(self._sources.directory)

    def emitters(self) -> list[EmitterRow]:
        """Return the processes that emit events, the last seen first."""
        query = f"SELECT {_EMITTER}, {_STATE} FROM emitter ORDER BY last_seen DESC, no"  # noqa: S608 -- no input
        return [_emitter_row(*row) for row in self._sources.refresh().live.query(query)]

    def versions(self) -> list[Version]:
        """Return which versions ran from when on, by host, kind and group of processes; the oldest first."""
        query = "SELECT at, host, kind, grp, version FROM software ORDER BY no"
        return [Version(*row) for row in self._sources.refresh().live.query(query)]

    def sums_by_time(self, scope: Scope, step: int) -> list[TimeSum]:
        """Return the counts of a time by state; step -- seconds of each part of the time."""
        return by_time(self._sources.refresh().live, scope, step)

    def sums_by_type(self, scope: Scope) -> list[TypeSum]:
        """Return the counts of a time by worker type and state."""
        return by_type(self._sources.refresh().live, scope)

    def times_by_type(self, scope: Scope) -> list[TypeTimes]:
        """Return the histograms of run and wait times of a time, by worker type."""
        return times_by_type(self._sources.refresh().live, scope)

    def minutes(self, since: float, until: float, *worker_types: str) -> list[Minute]:
        """Return the counts of the minutes that begin in a time, by time; of some types, if any is given."""
        live = self._sources.refresh().live
        query = "SELECT * FROM minute WHERE at >= ? AND at < ?"
        values: list[Any] = [ceil(since), ceil(until)]
        if worker_types:
            query = f"{query} AND type IN ({', '.join('?' * len(worker_types))})"
            values = [*values, *(live.number(name) for name in worker_types)]
        return [
            Minute(
                *(float(at), live.name(type_), live.name(tenant), STATES[state], count, run, wait),
                histograms.read(runs),
                histograms.read(waits),
            )
            for at, type_, tenant, state, count, run, wait, runs, waits in live.query(
                f"{query} ORDER BY at", values
            )
        ]

    def crashes(self, since: float, until: float) -> list[Crashes]:
        """Return the crashes of the minutes that begin in a time, by time."""
        live = self._sources.refresh().live
        rows = live.query(
            "SELECT * FROM crash WHERE at >= ? AND at < ? ORDER BY at", (ceil(since), ceil(until))
        )
        return [
            Crashes(float(at), live.name(type_), live.name(tenant), live.name(cause), count)
            for at, type_, tenant, cause, count in rows
        ]

    def gaps(self) -> list[Gap]:
        """Return what the reader missed, the newest first."""
        columns = f"at, {_EMITTER}, end - first"
        query = f"SELECT {columns} FROM gap JOIN emitter ON emitter.no = gap.emitter ORDER BY gap.no DESC"  # noqa: S608 -- no input
        rows = self._sources.refresh().live.query(query)
        return [Gap(at, Emitter(*emitter), missed) for at, *emitter, missed in rows]

    def actions(self, limit: int = 100) -> list[Action]:
        """Return the newest actions of the audit."""
        query = "SELECT at, user, action, filter, count FROM action ORDER BY no DESC LIMIT ?"
        return [Action(*row) for row in self._sources.refresh().live.query(query, (limit,))]

    def began_at(self) -> float | None:
        """Return the time from which on the record has all ends; None if nothing was recorded yet."""
        return self._sources.refresh().began_at()


def _sources(directory: Path, url: str | None) -> Sources:
    if url is None:
        return Files(directory)
    from taskqueue.monitor.store.postgresql.sources import Tables  # noqa: PLC0415 -- not everybody has psycopg

    return Tables(directory, url)


def _read_cursor(cursor: str) -> int:
    number = int(cursor[:20]) if cursor.isascii() and cursor.isdigit() else _NEWEST + 1
    if number > _NEWEST:
        raise ValueError(f"expected the cursor of a page, found {cursor[:40]!r}")
    return number


# --- files ---


def _days(sources: Sources, wanted: Filter, before: int = _NEWEST) -> Iterator[str]:
    """Yield the days that may have what a filter wants."""
    newest = day_of(min(time_of(before), time_of(_NEWEST) if wanted.until is None else wanted.until))
    oldest = day_of(wanted.since or 0.0)
    return (day for day in sources.days if oldest <= day <= newest)


def _codes(wanted: Filter) -> frozenset[int]:
    return frozenset(codes_of(wanted))


def _read(
    source: Source, queries: Iterable[Query], before: int, limit: int, columns: Sequence[str] = COLUMNS
) -> list[_Found]:
    """Return columns of the newest rows of a file, newest first."""
    found = [
        (row[0], source, list(row[1:]))
        for query in queries
        for row in source.query(*query.rows(before, limit, columns))
    ]
    return sorted(found, key=lambda each: each[0], reverse=True)


def _owner(item: Item) -> tuple[str, str]:
    """Return what tells apart workitems of one id that the store has not joined: producers choose ids."""
    return item.type, item.tenant


# --- rows ---


def _brief(row: Row, *, has_heads: bool) -> Row:
    """Return a workitem's columns without what a page does not show: reading the JSON of `more` is slow."""
    more = row[_MORE]
    if more and '"timeout"' not in more and '"omitted"' not in more:
        row[_MORE] = None
    if not has_heads:
        row[_HEAD] = None
    return row


def _emitter_row(host: str, kind: str, group: str, pid: int, started: float, *own: Any) -> EmitterRow:
    seen, state, slots, busy, rss, cpu, is_blocked, *rest = own
    emitter = Emitter(host, kind, group, pid, started)
    return EmitterRow(emitter, seen, state, slots, busy, rss, cpu, bool(is_blocked), *rest)


def _seen(live: Source, now: float) -> set[int]:
    """Return the numbers of the emitters that are not silent."""
    query = "SELECT no FROM emitter WHERE last_seen >= ?"
    return {number for (number,) in live.query(query, (now - SILENT_AFTER,))}


def _workitem(item: Item, seen: set[int], now: float) -> Workitem:
    """Return a workitem as it is shown, with the numbers of the emitters that are not silent."""
    state = STATES[item.state]
    if state == SCHEDULED and item.due is not None and item.due <= now:
        state = QUEUED
    elif state == RUNNING and item.emitter not in seen:
        state = LOST
    elif state == CANCELLED and item.error.startswith(DUPLICATE_OF):
        state = DUPLICATE
    return Workitem(
        *(item.id, item.type, state, item.tenant, tuple(item.labels.split()), item.queued, item.due),
        *(item.started, item.ended, item.again_at, item.attempts, item.host, item.worker),
        *(item.size, item.result_size, item.error, item.head, item.user, item.timeout),
        tuple(item.omitted.split()),
    )


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except binascii.Error:
        return b""
