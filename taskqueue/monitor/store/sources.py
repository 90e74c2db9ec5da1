"""The files of a record that is read: each is opened once, and closed when it is gone."""

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Self

from taskqueue.errors import RecordDamaged, RecordUnavailable
from taskqueue.monitor.record import Filter
from taskqueue.monitor.store.day_file import GROUP_OF, group_of, parse_name
from taskqueue.monitor.store.interface import LINES, heard_of
from taskqueue.monitor.store.item import Item
from taskqueue.monitor.store.plan import COLUMNS, NAMED, Row, item_of
from taskqueue.monitor.store.query import Query, done_queries, live_queries
from taskqueue.monitor.store.schema import DAY, LIVE, open_for_reading, translated

LIVE_NAME: Final = "live.db"
_MOST_OPEN: Final = 200  # files that a thread has open; a record of 90 days has about so many
_TRIES: Final = 20  # of a query whose file is being written


#: The state of a file: its inode, and whether a process writes it; if none does, the time of its last change,
#: too. An open connection is valid while the state does not change.
_State = tuple[int, bool, int]


class File:
    """A file that is read. It is opened again if it is used after it was closed."""

    def __init__(self, path: Path) -> None:
        """Open the file. Raises RecordUnavailable and RecordDamaged."""
        self.path = path
        self._names: dict[int, str] = {0: ""}
        self._numbers: dict[str, int] = {"": 0}
        self.is_interrupted = False  # whether statements fail, until it is refreshed
        self._database: sqlite3.Connection | None = None
        self._state: _State | None = None
        self._open()

    def _open(self) -> sqlite3.Connection:
        versions = LIVE if self.path.name == LIVE_NAME else DAY
        for _ in range(_TRIES):
            with translated(self.path):
                state = self._state = _state(self.path)
            try:
                with translated(self.path):
                    self._database = open_for_reading(self.path, versions, is_in_use=state[1])
            except (RecordUnavailable, RecordDamaged):
                if not self.path.exists() or not self.is_outdated:
                    raise
            else:
                return self._database
        raise self._busy()

    def _busy(self) -> RecordUnavailable:
        return RecordUnavailable(f"record {self.path}: it was written each time that it was read")

    def close(self) -> None:
        """Close the file."""
        database, self._database = self._database, None
        if database is not None:
            database.close()

    @property
    def is_outdated(self) -> bool:
        """Whether the file was replaced, changed while it is read without locks, or is now read with them."""
        try:
            return self._state != _state(self.path)
        except OSError:
            return True

    def interrupt(self) -> None:
        """Have the statement that runs fail, and those after it; any thread may call this."""
        self.is_interrupted = True
        database = self._database
        with contextlib.suppress(sqlite3.ProgrammingError):  # closed meanwhile
            if database is not None:
                database.interrupt()

    def query(self, text: str, values: Sequence[Any] = ()) -> list[Any]:
        """Return the rows of a query. Raises RecordUnavailable and RecordDamaged.

        A file that nobody writes is read without locks. If somebody writes it meanwhile, the rows may mix two
        states of it: the query is repeated.
        """
        for _ in range(_TRIES):
            try:
                rows = self._query(text, values)
            except (RecordUnavailable, RecordDamaged):
                if self.is_interrupted or not self._has_changed():
                    raise
            else:
                if not self._has_changed():
                    return rows
            self.close()
        raise self._busy()

    def _query(self, text: str, values: Sequence[Any]) -> list[Any]:
        if self.is_interrupted:
            raise RecordUnavailable(f"record {self.path}: interrupted")
        database = self._database or self._open()
        with translated(self.path):
            return database.execute(text, values).fetchall()

    def _has_changed(self) -> bool:
        """Whether the file was changed while it was read without locks; a removed one is not."""
        if self._state is None or self._state[1]:
            return False
        return self.path.exists() and self.is_outdated

    def queries(self, wanted: Filter, now: float) -> Iterator[Query]:
        """Yield the queries that together return what a filter wants."""
        if self.path.name == LIVE_NAME:
            return live_queries(wanted, self.numbers(), now)
        return done_queries(wanted, self.numbers(), group_of(self.path.name))

    def numbers(self) -> dict[str, int]:
        """Return the number of each name."""
        self._read_names()
        return self._numbers

    def number(self, name: str) -> int | None:
        """Return the number of a name; None if the file does not have it."""
        return self.numbers().get(name)

    def name(self, number: int) -> str:
        """Return the name of a number."""
        if number not in self._names:
            self._read_names()
        return self._names.get(number, "")  # forgotten just now, with what had it

    def _read_names(self) -> None:
        newest = next(reversed(self._names))
        for number, text in self.query("SELECT no, text FROM name WHERE no > ? ORDER BY no", (newest,)):
            self._names[number], self._numbers[text] = text, number

    def owners(self, id_: str) -> list[tuple[str, str]]:
        """Return worker types and tenants of the workitems of an id in a day's file."""
        rows = self.query("SELECT type, tenant FROM done WHERE id = ?", (id_,))
        return [(self.name(type_), self.name(tenant)) for type_, tenant in rows]

    def item(self, row: Row) -> Item:
        """Return the workitem of its columns."""
        for column in NAMED:
            row[column] = self.name(row[column])
        return item_of(row)


class Files:
    """The files of a directory."""

    def __init__(self, directory: Path) -> None:
        """Open nothing yet."""
        self.directory = directory
        self._opened: dict[str, File] = {}  # the last opened one last
        self._days: list[str] = []  # newest first

    def refresh(self) -> Self:
        """Look which files there are now. Raises RecordUnavailable if the directory has no record."""
        for source in self._opened.values():
            source.is_interrupted = False
        with translated(self.directory):
            entries = {entry.name: entry for entry in os.scandir(self.directory)}
        if LIVE_NAME not in entries:
            raise RecordUnavailable(f"{self.directory} has no record: no monitor has run yet")
        for name in [name for name, source in self._opened.items() if source.is_outdated]:
            self._opened.pop(name).close()
        self._entries = entries
        parsed = {name: parse_name(name) for name in entries}
        self._groups = {name: each for name, each in parsed.items() if each is not None}
        self._days = sorted({day for day, _ in self._groups.values()}, reverse=True)
        return self

    @property
    def days(self) -> Sequence[str]:
        """The days that have files, newest first."""
        return self._days

    @property
    def live(self) -> File:
        """The file of what is not over."""
        return self._source(LIVE_NAME)

    def of_day(self, day: str, states: frozenset[int] = frozenset()) -> Iterator[File]:
        """Yield the files of a day that may have workitems of some states; none given: of any state."""
        groups = {GROUP_OF[state] for state in states if state in GROUP_OF}
        for name, (its_day, group) in self._groups.items():
            if its_day == day and (not states or group in groups):
                try:
                    source = self._source(name)
                except RecordUnavailable:
                    if not (self.directory / name).exists():
                        continue  # it was removed just now
                    raise
                yield source

    def items(self, id_: str) -> list[Item]:
        """Return what has the id, newest first."""
        query = f"SELECT {', '.join(COLUMNS)} FROM %s WHERE id = ?"  # noqa: S608 -- no input
        live = [self.live.item(list(row)) for row in self.live.query(query % "live", (id_,))]
        items = sorted(live, key=heard_of, reverse=True)
        for day in self.days:
            found = [
                source.item(list(row))
                for source in self.of_day(day)
                for row in source.query(query % "done", (id_,))
            ]
            items += sorted(found, key=heard_of, reverse=True)
        return items

    def lines(
        self, id_: str, owner: tuple[str, str], after: int, limit: int, *, is_shared: bool
    ) -> list[tuple[Any, ...]]:
        """Return lines of output of the workitem that has an id and an owner: worker type and tenant."""
        query = LINES.format("log")
        rows = self.live.query(query, (id_, self.live.number(owner[1]), after, limit))
        for day in self.days:
            for source in self.of_day(day):
                if not is_shared or owner in source.owners(id_):
                    rows += source.query(query, (id_, source.number(owner[1]), after, limit))
        return rows

    def names(self) -> frozenset[str]:
        """Return all names of live.db."""
        return frozenset(self.live.numbers())

    def began_at(self) -> float | None:
        """Return the time from which on the record has all ends."""
        rows = self.live.query("SELECT value FROM meta WHERE key = 'began_at'")
        return rows[0][0] if rows else None

    def _source(self, name: str) -> File:
        """Return a file, opened. Beyond a number, the one that was opened last is closed.

        Queries go from the newest day to the oldest: the newest ones stay open.
        """
        source = self._opened.get(name)
        if source is None:
            while len(self._opened) >= _MOST_OPEN:
                self._opened.popitem()[1].close()
            source = self._opened[name] = File(self.directory / name)
        return source

    def interrupt(self) -> None:
        """Have the statement that runs fail; any thread may call this."""
        for source in tuple(self._opened.values()):
            source.interrupt()

    def close(self) -> None:
        """Close all files."""
        while self._opened:
            self._opened.popitem()[1].close()

    # --- what is on its way ---

    def mark(self) -> tuple[int, bool]:
        """Return the number of the last plan, and whether the files of days have all of it."""
        number = self._plan_number()
        files = [name for (names,) in self.live.query("SELECT files FROM outbox") for name in names.split()]
        return number, all(self._has_applied(name, number) for name in files)

    def is_absent(self, id_: str, mark: tuple[int, bool]) -> bool:
        """Whether a workitem that was not found is in no file: none was on its way from one to another.

        mark -- what `mark` returned before it was looked for
        """
        number, is_applied = mark
        if self._plan_number() != number:
            return False
        plain = json.dumps(id_, ensure_ascii=False)
        return is_applied or not self.live.query("SELECT 1 FROM outbox WHERE instr(plan, ?)", (plain,))

    def _plan_number(self) -> int:
        return int(self.live.query("SELECT value FROM meta WHERE key = 'number'")[0][0])

    def _has_applied(self, name: str, number: int) -> bool:
        """Whether a day's file has what the plan of a number says."""
        query = "SELECT value FROM meta WHERE key = 'applied'"
        source = self._source(name) if name in self._entries else None
        rows = source.query(query) if source else []
        return bool(rows) and bool(rows[0][0] >= number)


def _state(path: Path) -> _State:
    """Return the state of a file. Raises OSError."""
    found = path.stat()
    is_in_use = _is_in_use(path)
    return found.st_ino, is_in_use, 0 if is_in_use else found.st_mtime_ns


def _is_in_use(path: Path) -> bool:
    """Whether a process writes a file: it has a log beside it, which is empty once it is closed."""
    try:
        log = path.with_name(f"{path.name}-wal").stat()
    except FileNotFoundError:
        return False
    return path.name == LIVE_NAME or log.st_size > 0
