"""The store in PostgreSQL: one monitor writes the record, others wait to take over.

The writer's session has an advisory lock. A write is one transaction of that session, with the position in
the stream: who loses the session loses the lock, and cannot write any more. The row of the position is locked
and compared in each transaction, too, so that a pooler of connections does not undo this.
"""

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from math import ceil
from pathlib import Path
from typing import Any, Final, Self

from taskqueue.errors import RecordUnavailable
from taskqueue.messages.events import FAILED, Batch
from taskqueue.messages.relatives import Other
from taskqueue.monitor.record import Action
from taskqueue.monitor.store import spans
from taskqueue.monitor.store.day_file import end_of, group_of, lines_of
from taskqueue.monitor.store.emitters import Emitters
from taskqueue.monitor.store.item import Item, Key
from taskqueue.monitor.store.lock import locked
from taskqueue.monitor.store.minutes import Key as MinuteKey
from taskqueue.monitor.store.minutes import Minutes, Sums, roll_up, rolled_until
from taskqueue.monitor.store.postgresql.cancels import TableCancels
from taskqueue.monitor.store.postgresql.live import LiveTable
from taskqueue.monitor.store.postgresql.names import Names
from taskqueue.monitor.store.postgresql.partition import Partition, find_names, tables_of
from taskqueue.monitor.store.postgresql.schema import migrate
from taskqueue.monitor.store.postgresql.session import Session
from taskqueue.monitor.store.schema import translated
from taskqueue.monitor.store.writing import Writer

_LOCK: Final = 0x7461736B71756575  # "taskquue" in ASCII: an advisory lock is a number
_SIZES: Final = (
    "SELECT name, sum(pg_total_relation_size(each::regclass)) FROM unnest(?::text[], ?::text[]) "
    "AS told(name, each) GROUP BY name"
)
_MINUTE_KEY: Final = "at, type, tenant, state"


class PostgresqlStore(Writer):
    """The record of a database; `acquire` tells whether this process may write it."""

    _names: Names

    def __init__(self, directory: Path, url: str) -> None:
        """Take a directory for what is not in the database; connect to the database later.

        Raises AlreadyRunning if another monitor has the directory, and RecordUnavailable.
        """
        super().__init__()
        self.directory = directory
        self.url: str | None = url
        self._address = url
        self._session: Session | None = None
        self._is_writer = False
        self.cancels = TableCancels(self._connected)
        with translated(directory):
            directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._lock = locked(directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the session, so that another monitor may write."""
        if self._session is not None:
            self._session.close()
        os.close(self._lock)

    def _connected(self) -> Session:
        """Return the session, a new one if there is none."""
        if self._session is None or not self._session.is_open:
            self._is_writer = False
            if self._session is not None:
                self._session.close()
            self._session = None
            self._session = Session(self._address)
        return self._session

    # --- which monitor writes ---

    def acquire(self) -> bool:
        """Return whether this process may write now; otherwise, another one does.

        Raises RecordUnavailable, RecordRefused and RecordDamaged.
        """
        session = self._connected()
        if not self._is_writer:
            (has_lock,) = session.execute("SELECT pg_try_advisory_lock(?)", (_LOCK,)).fetchone()
            if has_lock:
                self._load(session)
                self._is_writer = True
        return self._is_writer

    def _load(self, session: Session) -> None:
        migrate(session)
        self._names = Names(session)
        self._emitters = Emitters(session)
        self._live = LiveTable(session, self._names)
        self._days = find_names(session)
        self._partitions: dict[str, Partition] = {}
        self._sizes: dict[str, int] = {}  # bytes, by the name of a day's file
        query = "SELECT position, began_at FROM state"
        self._position, self._began_at = session.execute(query).fetchone()

    def position(self) -> int | None:
        """Return the offset of the last batch that the record has; None if it has none."""
        return self._position

    # --- write ---

    def note_processes(self, host: str, told: Sequence[Other], now: float) -> None:
        """Record what a process of a host tells of others. Raises RecordUnavailable as `write` does."""
        session = self._writing()
        with session.transaction():
            self._check_position(session)
            self._emitters.take_relatives([(host, each) for each in told], now)
            self._emitters.save()

    def write(self, batches: Sequence[tuple[int, Batch]], now: float | None = None) -> None:
        """Record batches, which have offsets; those up to `position()` are skipped.

        now -- seconds since 1970; None: the clock of this host
        Raises RecordUnavailable: then `acquire` must succeed before the next write.
        """
        session = self._writing()
        fresh = [each for each in batches if self._position is None or each[0] > self._position]
        if not fresh:
            return
        now = time.time() if now is None else now
        with session.transaction():
            self._check_position(session)
            plan, minutes = self._collect(fresh, now)
            for name, each in plan.items():
                self._partition(name).apply(each)
                self._sizes.pop(name, None)
            _save_minutes(session, minutes, self._names)
            self._names.save(now)
            session.execute("UPDATE state SET position = ?, began_at = ?", (fresh[-1][0], self._began_at))
        self._position = fresh[-1][0]
        for name in plan:
            self._partition(name).analyse()

    def _writing(self) -> Session:
        if not self._is_writer or self._session is None or not self._session.is_open:
            raise RecordUnavailable(f"record {self._shown()}: this monitor does not have its lock")
        return self._session

    def _shown(self) -> str:
        return self._session.shown if self._session is not None else "in PostgreSQL"

    def _check_position(self, session: Session) -> None:
        """Lock the row of the position. Raises RecordUnavailable if another monitor has written it."""
        (position,) = session.execute("SELECT position FROM state FOR UPDATE").fetchone()
        if position != self._position:
            raise RecordUnavailable(f"record {session.shown}: another monitor has written it")

    def _set_began_at(self, began_at: float) -> None:
        self._began_at = began_at

    def _find(self, name: str, ids: AbstractSet[str]) -> Iterable[Item]:
        return self._partition(name).find(ids)

    def _lines_of(self, name: str, key: Key) -> set[tuple[float, str]]:
        lines = lines_of(self._writing(), self._names, key, self._partition(name).log)
        return {(line[2], line[5]) for line in lines}

    def _partition(self, name: str) -> Partition:
        partition = self._partitions.get(name)
        if partition is None:
            partition = Partition(self._writing(), self._names, name, exists=name in self._days)
            self._partitions[name] = partition
            self._days.add(name)
        return partition

    # --- retention ---

    def prune(self, now: float, keep: Mapping[str, float], keep_minutes: float, max_size: int) -> list[str]:
        """Remove what is too old, and the oldest days beyond a size; see `Store.prune`.

        Returns [] if another monitor writes.
        """
        if not self._is_writer:
            return []
        session = self._writing()
        removed = [name for name in sorted(self._days) if end_of(name) + keep[group_of(name)] <= now]
        sizes = self._sizes_of_days(session)
        excess = sum(size for name, size in sizes.items() if name not in removed) - max_size
        for name in sorted(self._days - set(removed)):
            if excess > 0 and end_of(name) <= now:
                excess -= sizes[name]
                removed.append(name)
        with session.transaction():
            self._check_position(session)
            session.execute("SET LOCAL lock_timeout = '1s'")  # new readers wait for this as long
            if tables := [table for name in removed for table in tables_of(name)]:
                session.execute(f"DROP TABLE {', '.join(tables)}")
            self._forget(session, now, keep, keep_minutes)
            gone_until = max(map(end_of, removed), default=0.0)
            if self._began_at is not None:
                self._began_at = max(self._began_at, gone_until)
            session.execute("UPDATE state SET began_at = ?", (self._began_at,))
        self._days -= set(removed)
        for name in removed:
            self._partitions.pop(name, None)
        return removed

    def _sizes_of_days(self, session: Session) -> dict[str, int]:
        """Return the bytes of each day's tables; those that were not written since are not measured again."""
        self._sizes = {name: size for name, size in self._sizes.items() if name in self._days}
        told = [(name, each) for name in self._days - self._sizes.keys() for each in tables_of(name)]
        if told:
            self._sizes |= dict(session.execute(_SIZES, (*map(list, zip(*told, strict=True)),)).fetchall())
        return self._sizes

    def add_up(self, now: float) -> None:
        """Add up the minutes of an old hour, if this monitor writes. Raises RecordUnavailable."""
        if self._is_writer:
            session = self._writing()
            with session.transaction():
                self._check_position(session)
                roll_up(session, now)

    def _forget(self, session: Session, now: float, keep: Mapping[str, float], keep_minutes: float) -> None:
        for table in ("minute", "crash", "gap", "action"):
            session.execute(f"DELETE FROM {table} WHERE at < ?", (ceil(now - keep_minutes),))  # noqa: S608 -- no input
        spans.forget(session, ceil(now - keep_minutes))
        session.execute("DELETE FROM tally WHERE count = 0")
        self._emitters.forget(now)
        self._live.forget(now - keep[FAILED])
        self._names.forget(now - max(keep_minutes, *keep.values()))

    # --- audit ---

    def add_action(self, action: Action) -> None:
        """Add what a user did to the audit; a monitor that waits to take over may do so, too."""
        values = (action.at, action.user, action.action, action.filter, action.count)
        self._connected().execute(
            "INSERT INTO action(at, user, action, filter, count) VALUES(?, ?, ?, ?, ?)", values
        )


def _save_minutes(session: Session, minutes: Minutes, names: Names) -> None:
    """Add the counts of a write to the table `minute`, by a table of the session."""
    session.execute("CREATE TEMP TABLE IF NOT EXISTS told(LIKE minute) ON COMMIT DELETE ROWS")

    def read(keys: set[MinuteKey]) -> dict[MinuteKey, Sums]:
        session.copy("told", [(*key, 0, 0.0, 0.0, "", "") for key in keys])
        query = f"SELECT {_MINUTE_KEY}, minute.count, minute.run, minute.wait, minute.runs, minute.waits "
        query += f"FROM minute JOIN told USING({_MINUTE_KEY})"
        found = session.execute(query).fetchall()
        session.execute("TRUNCATE told")
        return {(at, type_, tenant, state): tuple(sums) for at, type_, tenant, state, *sums in found}

    since = rolled_until(session)
    session.copy("told", minutes.rows(names, since, read))
    session.execute(
        f"INSERT INTO minute SELECT * FROM told ON CONFLICT({_MINUTE_KEY}) DO UPDATE "  # noqa: S608 -- no input
        "SET count = excluded.count, run = excluded.run, wait = excluded.wait, runs = excluded.runs, "
        "waits = excluded.waits"
    )
    _save_sums(session, *spans.rows_of(minutes.sums(names, since)))
    minutes.save_crashes(session, names, since)


def _save_sums(session: Session, by_type: Sequence[tuple[Any, ...]], all_: Sequence[tuple[Any, ...]]) -> None:
    """Add rows to the tables of sums, each with one statement."""
    for table, types, add, rows in (
        ("type_sum", "bigint bigint text smallint bigint float8 text text", spans.ADD_BY_TYPE, by_type),
        ("all_sum", "bigint bigint smallint bigint", spans.ADD_ALL, all_),
    ):
        if rows:
            arrays = ", ".join(f"?::{each}[]" for each in types.split())
            columns = [list(column) for column in zip(*rows, strict=True)]
            session.execute(f"INSERT INTO {table} SELECT * FROM unnest({arrays}) {add}", columns)  # noqa: S608 -- no input
