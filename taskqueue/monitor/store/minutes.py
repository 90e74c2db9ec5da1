"""Counts of what happened in each minute: the tables `minute` and `crash`.

A year of the minutes of 500 busy types would have 39 GB. So after eight days, which pages compare with today,
the rows of an hour are added up in one, which has the time of the hour.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Any, Final

from taskqueue.monitor.record import BUCKETS
from taskqueue.monitor.store import histograms, spans
from taskqueue.monitor.store.database import Database, NameTable

_MINUTE, _HOUR = 60, 3600  # seconds
_KEPT: Final = 8 * 86400 + 3600  # seconds after which minutes are added up
_SUMS: Final = "type, tenant, state, count, run, wait, runs, waits"

#: Of a row of the table `minute`: minute, worker type, tenant and state; then count, seconds and histograms.
Key = tuple[int, Any, Any, int]
Sums = tuple[int, float, float, str, str]
_NOTHING: Final[Sums] = (0, 0.0, 0.0, "", "")


class _Counts:
    __slots__ = ("count", "run", "runs", "wait", "waits")

    def __init__(self) -> None:
        self.count = 0
        self.run = self.wait = 0.0  # seconds
        self.runs: list[int] | None = None
        self.waits: list[int] | None = None

    def add_histograms(self, runs: histograms.Counts, waits: histograms.Counts) -> None:
        if (sum_ := histograms.summed(self.runs, runs)) is not None:
            self.runs = list(sum_)
        if (sum_ := histograms.summed(self.waits, waits)) is not None:
            self.waits = list(sum_)

    def added_to(self, old: Sums) -> Sums:
        count, run, wait, runs, waits = old
        sums = (count + self.count, run + self.run, wait + self.wait)
        return (*sums, histograms.added(runs, self.runs), histograms.added(waits, self.waits))


class Minutes:
    """The counts of a write."""

    def __init__(self) -> None:
        self._counts: dict[tuple[int, str, str, int], _Counts] = {}
        self._crashes: Counter[tuple[int, str, str, str]] = Counter()

    def add(self, at: float, worker_type: str, tenant: str, state: int) -> _Counts:
        """Count a workitem that came to a state at a time; return the counts of that minute."""
        key = (_minute(at), worker_type, tenant, state)
        counts = self._counts.get(key)
        if counts is None:
            counts = self._counts[key] = _Counts()
        counts.count += 1
        return counts

    def add_run(
        self, at: float, worker_type: str, tenant: str, state: int, *, run: float | None, wait: float | None
    ) -> None:
        """Count a run that ended, with the seconds that it took and that it waited; None: unknown."""
        counts = self.add(at, worker_type, tenant, state)
        if run is not None:
            counts.run += run
            if counts.runs is None:
                counts.runs = [0] * histograms.SIZE
            counts.runs[bisect_left(BUCKETS, run)] += 1
        if wait is not None:
            counts.wait += wait
            if counts.waits is None:
                counts.waits = [0] * histograms.SIZE
            counts.waits[bisect_left(BUCKETS, wait)] += 1

    def add_crash(self, at: float, worker_type: str, tenant: str, cause: str) -> None:
        """Count a run that ended with its worker."""
        self._crashes[_minute(at), worker_type, tenant, cause] += 1

    def rows(
        self, names: NameTable, since: int, read: Callable[[set[Key]], Mapping[Key, Sums]]
    ) -> list[tuple[Any, ...]]:
        """Return the rows of the table `minute` that have these counts, too.

        since -- before it, rows are those of hours
        read -- returns those of some rows that the table has, by their keys
        """
        counted = [
            ((_at(minute, since), names.number(worker_type), names.number(tenant), state), counts)
            for (minute, worker_type, tenant, state), counts in self._counts.items()
        ]
        rows = dict(read({key for key, _ in counted}))
        for key, counts in counted:  # several may have one key: those of an hour, or without room for names
            rows[key] = counts.added_to(rows.get(key, _NOTHING))
        return [(*key, *sums) for key, sums in rows.items()]

    def sums(self, names: NameTable, since: int) -> dict[spans.Key, spans.Sums]:
        """Return the sums of all tenants by minute, worker type and state; since -- as `rows` has it."""
        found: dict[spans.Key, spans.Sums] = {}
        for (minute, worker_type, _tenant, state), counts in self._counts.items():
            key = (_at(minute, since), names.number(worker_type), state)
            found.setdefault(key, spans.Sums()).add(counts.count, counts.run, counts.runs, counts.waits)
        return found

    def save_crashes(self, database: Database, names: NameTable, since: int) -> None:
        """Add the crashes to the table `crash`; since -- before it, rows are those of hours."""
        crashes = [
            (_at(at, since), *map(names.number, texts), count)
            for (at, *texts), count in self._crashes.items()
        ]
        database.executemany(
            "INSERT INTO crash VALUES(?, ?, ?, ?, ?) "
            "ON CONFLICT(at, type, tenant, cause) DO UPDATE SET count = crash.count + excluded.count",
            crashes,
        )


def save(minutes: Minutes, database: Database, names: NameTable) -> None:
    """Add the counts of a write to an SQLite database."""
    query = "SELECT count, run, wait, runs, waits FROM minute "
    query += "WHERE at = ? AND type = ? AND tenant = ? AND state = ?"

    def read(keys: set[Key]) -> dict[Key, Sums]:
        found = ((key, database.execute(query, key).fetchone()) for key in keys)
        return {key: sums for key, sums in found if sums is not None}

    since = rolled_until(database)
    rows = minutes.rows(names, since, read)
    database.executemany("INSERT OR REPLACE INTO minute VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    spans.save(database, minutes.sums(names, since))
    minutes.save_crashes(database, names, since)


def _minute(at: float) -> int:
    return int(at // _MINUTE) * _MINUTE


def _at(minute: int, since: int) -> int:
    return minute if minute >= since else _hour(minute)


def _hour(at: float) -> int:
    return int(at // _HOUR) * _HOUR


def rolled_until(database: Database) -> int:
    """Return the time before which all rows are those of hours."""
    rows = database.execute("SELECT value FROM meta WHERE key = 'rolled_until'").fetchall()
    return int(rows[0][0]) if rows else 0


def roll_up(database: Database, now: float) -> None:
    """Add up the minutes of the oldest hour that is old enough; it must be in a transaction.

    The hour of 500 busy types takes a second.
    """
    since, until = rolled_until(database), _hour(now - _KEPT)
    (first,) = database.execute(
        "SELECT min(at) FROM (SELECT min(at) AS at FROM minute WHERE at >= ? "
        "UNION ALL SELECT min(at) FROM crash WHERE at >= ?) AS found",
        (since, since),
    ).fetchone()
    if first is None or first >= until:
        since = max(since, until)
    else:
        _roll_up_hour(database, _hour(first))
        since = _hour(first) + _HOUR
    database.execute(
        "INSERT INTO meta VALUES('rolled_until', ?) ON CONFLICT(key) DO UPDATE SET value = excluded.value",
        (since,),
    )


def _roll_up_hour(database: Database, hour: int) -> None:
    sums: defaultdict[tuple[int, int, int], _Counts] = defaultdict(_Counts)
    span = (hour, hour + _HOUR)
    rows = database.execute(f"SELECT {_SUMS} FROM minute WHERE at >= ? AND at < ?", span)  # noqa: S608 -- no input
    for type_, tenant, state, count, run, wait, runs, waits in rows:
        each = sums[type_, tenant, state]
        each.count, each.run, each.wait = each.count + count, each.run + run, each.wait + wait
        each.add_histograms(histograms.read(runs) or None, histograms.read(waits) or None)
    database.execute("DELETE FROM minute WHERE at >= ? AND at < ?", span)
    database.executemany(
        "INSERT INTO minute VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [(hour, *key, *each.added_to(_NOTHING)) for key, each in sums.items()],
    )
    spans.roll_up(database, hour)
    crashes = database.execute(
        "SELECT ?, type, tenant, cause, sum(count) FROM crash WHERE at >= ? AND at < ? GROUP BY 2, 3, 4",
        (hour, *span),
    ).fetchall()
    database.execute("DELETE FROM crash WHERE at >= ? AND at < ?", span)
    database.executemany("INSERT INTO crash VALUES(?, ?, ?, ?, ?)", crashes)
