"""A day's file: the workitems that came to a state on a day."""

import contextlib
import datetime as dt
import functools
import json
import re
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from taskqueue.messages.events import CANCELLED, FAILED, LOST, REJECTED, SUCCEEDED
from taskqueue.monitor.record import FIRST_LINES, LAST_LINES
from taskqueue.monitor.store.database import Database, NameTable
from taskqueue.monitor.store.item import CODE, Item, Key
from taskqueue.monitor.store.names import Names
from taskqueue.monitor.store.plan import COLUMNS, NAMED, FilePlan, Line, Row, item_of
from taskqueue.monitor.store.schema import DAY, open_for_writing, translated
from taskqueue.monitor.store.sequence import Sequence

#: The final states that have a file of their own each day, so that each is kept for a time of its own.
GROUPS: Final = (SUCCEEDED, FAILED, REJECTED, CANCELLED)
GROUP_OF: Final[Mapping[int, str]] = {
    **{CODE[state]: state for state in GROUPS},
    CODE[LOST]: FAILED,  # few, and of the same interest
}
_NAME: Final = re.compile(rf"(\d{{4}}-\d\d-\d\d)\.({'|'.join(GROUPS)})\.db")
_EPOCH: Final = dt.date(1970, 1, 1)
_DAY: Final = 86400.0
_LAST_DAY: Final = 2932896  # 9999-12-31, in days since 1970

_INSERT: Final = f"INSERT INTO done VALUES({', '.join('?' * (len(COLUMNS) + 1))})"
_BODY, _ERROR, _LABELS = (COLUMNS.index(name) for name in ("head", "error", "labels"))


def file_name(time: float, state: int) -> str:
    """Return the name of the file of a final state for a time in seconds since 1970 (UTC)."""
    return f"{day_of(time)}.{GROUP_OF[state]}.db"


def day_of(time: float) -> str:
    """Return the day of a time in seconds since 1970 (UTC) as 2026-11-29."""
    return day_name(int(time // _DAY))


@functools.lru_cache(maxsize=100)  # nearly all events are of today
def day_name(day: int) -> str:
    """Return a day, in days since 1970, as 2026-11-29."""
    day = min(max(day, 0), _LAST_DAY)
    return str(_EPOCH + dt.timedelta(days=day))


def day_start(day: int) -> float:
    """Return when a day, in days since 1970, begins, in seconds since 1970."""
    return day * _DAY


def parse_name(name: str) -> tuple[str, str] | None:
    """Return the day and the group of a file's name; None if it is no day's file."""
    match = _NAME.fullmatch(name)
    return (match[1], match[2]) if match else None


def group_of(name: str) -> str:
    """Return the group of a file of this name."""
    return name.split(".")[1]


def end_of(name: str) -> float:
    """Return when the day of a file of this name ends, in seconds since 1970."""
    return ((dt.date.fromisoformat(name.split(".", maxsplit=1)[0]) - _EPOCH).days + 1) * _DAY


class DayFile:
    """A day's file that is written."""

    def __init__(self, path: Path) -> None:
        """Open or create the file. Raises RecordUnavailable and RecordDamaged."""
        self.path = path
        with translated(path):
            self._database = open_for_writing(path, DAY)
            try:
                self._names = Names(self._database)
                (newest,) = self._database.execute("SELECT coalesce(max(seq), 0) FROM done").fetchone()
            except BaseException:
                self._database.close()
                raise
        self._sequence = Sequence(GROUPS.index(group_of(path.name)), newest, self._has)

    def close(self) -> None:
        """Close the file and leave all of it in one piece, for readers that may not write."""
        with translated(self.path):
            with contextlib.suppress(sqlite3.OperationalError):  # on a full disk, its log stays beside it
                self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._database.close()

    def find(self, ids: Iterable[str]) -> list[Item]:
        """Return those workitems that the file has."""
        columns = ", ".join(COLUMNS)
        query = f"SELECT seq, {columns} FROM done WHERE id IN (SELECT value FROM json_each(?))"  # noqa: S608 -- no input
        with translated(self.path):
            rows = self._database.execute(query, (json.dumps(list(ids)),)).fetchall()
        return [self._item(seq, row) for seq, *row in rows]

    def lines_of(self, key: Key) -> set[tuple[float, str]]:
        """Return time and text of the lines of output that the file has of a workitem."""
        with translated(self.path):
            return {(line[2], line[5]) for line in lines_of(self._database, self._names, key)}

    def _item(self, seq: int, row: Row) -> Item:
        for column in NAMED:
            row[column] = self._names.text(row[column])
        item = item_of(row)
        item.place, item.seq = self.path.name, seq
        return item

    def apply(self, record: str, number: int, plan: FilePlan) -> None:
        """Do what a plan says, all of it or nothing, unless it is done.

        record, number -- name the plan
        Raises RecordUnavailable and RecordDamaged.
        """
        with translated(self.path):
            self._database.execute("BEGIN IMMEDIATE")
            try:
                if not self._has_applied(record, number):
                    self._apply(plan)
                    self._set_applied(record, number)
                self._database.execute("COMMIT")
            except BaseException:
                self._roll_back()
                raise
        self._sequence.settle()

    def _roll_back(self) -> None:
        if self._database.in_transaction:  # SQLite itself may have rolled back, as on a full disk
            self._database.execute("ROLLBACK")
        self._names.reload()
        self._sequence.settle()

    def _has_applied(self, record: str, number: int) -> bool:
        meta = dict(self._database.execute("SELECT key, value FROM meta"))
        return meta.get("record") == record and bool(meta["applied"] >= number)

    def _set_applied(self, record: str, number: int) -> None:
        values = [("record", record), ("applied", number)]
        self._database.executemany("INSERT OR REPLACE INTO meta VALUES(?, ?)", values)

    def _apply(self, plan: FilePlan) -> None:
        for seq in plan.deletes:
            self._delete(seq)
        self._insert([(self._sequence.take(time), row) for time, row in plan.inserts])
        add_lines(self._database, self._names, plan.lines, plan.trims)

    def _delete(self, seq: int) -> None:
        query = "SELECT head, error, labels FROM done WHERE seq = ?"
        for head, error, labels in self._database.execute(query, (seq,)).fetchall():
            for table, text in (("bodies", head), ("errors", error)):
                if text:  # a table without contents is told what it forgets
                    forget = f"INSERT INTO {table}({table}, rowid, text) VALUES('delete', ?, ?)"
                    self._database.execute(forget, (seq, text))
            gone = [(label, seq) for label in (labels or "").split()]
            self._database.executemany("DELETE FROM label WHERE label = ? AND seq = ?", gone)
        self._database.execute("DELETE FROM done WHERE seq = ?", (seq,))

    def _insert(self, rows: list[tuple[int, Row]]) -> None:
        execute, number = self._database.executemany, self._names.number
        bodies = [(seq, row[_BODY]) for seq, row in rows if row[_BODY]]
        errors = [(seq, row[_ERROR]) for seq, row in rows if row[_ERROR]]
        labels = [(label, seq) for seq, row in rows if row[_LABELS] for label in set(row[_LABELS].split())]
        for _, row in rows:
            for column in NAMED:
                row[column] = number(row[column])
        execute(_INSERT, [(seq, *row) for seq, row in rows])
        execute("INSERT INTO label VALUES(?, ?)", labels)
        execute("INSERT INTO bodies(rowid, text) VALUES(?, ?)", bodies)
        execute("INSERT INTO errors(rowid, text) VALUES(?, ?)", errors)

    def _has(self, seq: int) -> bool:
        return self._database.execute("SELECT 1 FROM done WHERE seq = ?", (seq,)).fetchone() is not None


def add_lines(
    database: Database,
    names: NameTable,
    lines: Iterable[Line],
    trims: Iterable[tuple[Key, int]],
    table: str = "log",
) -> None:
    """Add lines of output to a table, and delete those in the middle of too many.

    trims -- how many lines a workitem has had
    """
    rows = [(*line, names.number(tenant)) for *line, tenant in lines]
    database.executemany(
        f"INSERT INTO {table} VALUES(?, ?, ?, ?, ?, ?, ?) ON CONFLICT(id, tenant, number) DO UPDATE SET "
        "at = excluded.at, worker = excluded.worker, level = excluded.level, text = excluded.text",
        rows,
    )
    gone = [
        (id_, names.number(tenant), FIRST_LINES, count - LAST_LINES)
        for (tenant, id_), count in trims
        if count > FIRST_LINES + LAST_LINES
    ]
    trim = f"DELETE FROM {table} WHERE id = ? AND tenant = ? AND number >= ? AND number < ?"  # noqa: S608 -- no input
    database.executemany(trim, gone)


def lines_of(database: Database, names: NameTable, key: Key, table: str = "log") -> list[Line]:
    """Return the lines of output that a table has of a workitem."""
    tenant, id_ = key
    query = f"SELECT * FROM {table} WHERE id = ? AND tenant = ?"  # noqa: S608 -- no input
    rows = database.execute(query, (id_, names.number(tenant)))
    return [(*row[:-1], tenant) for row in rows]
