"""The store: writes the record of the monitor into SQLite files.

live.db has what is not over, and the counts. Each day has a file for each final state, removed as a whole. A
write commits live.db, together with the position in the stream and a plan for the files of days, and then
does what the plan says. After an interruption, the next write, or the next process, first does the rest of
the plan. So the files always agree with the position.
"""

import contextlib
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from math import ceil
from pathlib import Path
from typing import Any, Final, Self

from taskqueue.errors import RecordDamaged, RecordUnavailable
from taskqueue.messages.events import FAILED, Batch
from taskqueue.messages.relatives import Other
from taskqueue.monitor.record import Action
from taskqueue.monitor.store import minutes, spans
from taskqueue.monitor.store import plan as plans
from taskqueue.monitor.store.cancels import Cancels
from taskqueue.monitor.store.day_file import DayFile, end_of, group_of, parse_name
from taskqueue.monitor.store.emitters import Emitters
from taskqueue.monitor.store.item import Item, Key
from taskqueue.monitor.store.live import Live
from taskqueue.monitor.store.lock import locked
from taskqueue.monitor.store.names import Names
from taskqueue.monitor.store.schema import DAY, LIVE, is_old, open_for_writing, translated
from taskqueue.monitor.store.writing import Writer

LIVE_NAME: Final = "live.db"
_MOST_OPEN: Final = 8  # files of days


class Store(Writer):
    """The record of a directory, for the one process that writes it."""

    _names: Names

    def __init__(self, directory: Path) -> None:
        """Open the record, or begin one.

        Raises AlreadyRunning if another process writes it, RecordUnavailable and RecordDamaged.
        """
        super().__init__()
        self.directory = directory
        self.url: str | None = None  # of a PostgreSQL database
        self._path = directory / LIVE_NAME
        self._files: dict[str, DayFile] = {}  # open ones, the last used last
        with translated(directory):
            directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._lock = locked(directory)
        try:
            with translated(self._path):
                self._database = open_for_writing(self._path, LIVE)
        except BaseException:
            os.close(self._lock)
            raise
        try:
            self._open()
        except BaseException:
            with contextlib.suppress(RecordUnavailable, RecordDamaged):
                self.close()
            raise

    def _open(self) -> None:
        with translated(self._path):
            self._names = Names(self._database)
            self._emitters = Emitters(self._database)
            self._live = Live(self._database, self._names)
            self.cancels = Cancels(self._database, self._path)
            self._begin()
            self._read_meta()
            self._days = {path.name for path in self.directory.iterdir() if parse_name(path.name)}
            old = [name for name in self._days if is_old(self.directory / name, DAY)]
        for name in old:
            self._file(name)  # to open a file is to migrate it
        self._deliver()

    def _begin(self) -> None:
        """Name the record: the files of days tell by it which plans they have."""
        values = [("record", secrets.token_hex(8)), ("number", 0)]
        self._database.executemany("INSERT OR IGNORE INTO meta VALUES(?, ?)", values)

    def _read_meta(self) -> None:
        meta: dict[str, Any] = dict(self._database.execute("SELECT key, value FROM meta"))
        self._record: str = meta["record"]
        self._number: int = meta["number"]  # of the last plan
        self._position = meta.get("position")
        self._began_at = meta.get("began_at")
        self._is_delivered = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all files, and let another process write them."""
        try:
            while self._files:
                self._files.popitem()[1].close()
            with translated(self._path):
                self._database.close()
        finally:
            os.close(self._lock)

    def acquire(self) -> bool:
        """Return whether this process may write the record: since it is open, it may."""
        return True

    def position(self) -> int | None:
        """Return the offset of the last batch that the record has; None if it has none."""
        return self._position

    def forget_position(self) -> None:
        """Forget the offset: the stream was deleted, and its offsets begin anew."""
        with translated(self._path):
            self._database.execute("DELETE FROM meta WHERE key = 'position'")
        self._position = None

    # --- write ---

    def note_processes(self, host: str, told: Sequence[Other], now: float) -> None:
        """Record what a process of a host tells of others. Raises RecordUnavailable and RecordDamaged."""
        with self._transaction():
            self._emitters.take_relatives([(host, each) for each in told], now)
            self._emitters.save()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with translated(self._path):
            try:
                self._database.execute("BEGIN IMMEDIATE")
                yield
                self._database.execute("COMMIT")
            except BaseException:
                self._roll_back()
                raise

    def write(self, batches: Sequence[tuple[int, Batch]], now: float | None = None) -> None:
        """Record batches, which have offsets; those up to `position()` are skipped.

        now -- seconds since 1970; None: the clock of this host
        Raises RecordUnavailable, as on a full disk: then the same batches may be written again, as often as
        necessary. Raises RecordDamaged.
        """
        self._deliver()
        fresh = [each for each in batches if self._position is None or each[0] > self._position]
        if not fresh:
            return
        with self._transaction():
            plan = self._record_batches(fresh, time.time() if now is None else now)
            self._save(fresh[-1][0], plan)
        self._position = fresh[-1][0]
        self._is_delivered = False
        self._send(plan)

    def _record_batches(self, batches: Iterable[tuple[int, Batch]], now: float) -> plans.Plan:
        plan, counts = self._collect(batches, now)
        minutes.save(counts, self._database, self._names)
        return plan

    def _lines_of(self, name: str, key: Key) -> set[tuple[float, str]]:
        return self._file(name).lines_of(key)

    def _save(self, position: int, plan: plans.Plan) -> None:
        self._number += 1
        self._set_meta("number", self._number)
        self._set_meta("position", position)
        self._database.execute("DELETE FROM outbox")
        if plan:
            row = (self._number, " ".join(plan), plans.encode(plan))
            self._database.execute("INSERT INTO outbox VALUES(?, ?, ?)", row)

    def _set_began_at(self, began_at: float) -> None:
        self._set_meta("began_at", began_at)
        self._began_at = began_at

    def _set_meta(self, key: str, value: float) -> None:
        self._database.execute("INSERT OR REPLACE INTO meta VALUES(?, ?)", (key, value))

    def _roll_back(self) -> None:
        """Undo a transaction, also in memory."""
        if self._database.in_transaction:  # SQLite itself may have rolled back, as on a full disk
            self._database.execute("ROLLBACK")
        self._names.reload()
        self._emitters.reload()
        self._live.reload()
        self._read_meta()

    # --- the files of days ---

    def _deliver(self) -> None:
        """Do what the last plan says, if it is not known to be done."""
        if self._is_delivered:
            return
        with translated(self._path):
            row = self._database.execute("SELECT plan FROM outbox").fetchone()
        self._send(plans.decode(row[0]) if row else {})

    def _send(self, plan: plans.Plan) -> None:
        for name, each in plan.items():
            self._file(name).apply(self._record, self._number, each)
        self._is_delivered = True

    def _file(self, name: str) -> DayFile:
        file = self._files.pop(name, None)
        if file is None:
            while len(self._files) >= _MOST_OPEN:
                self._files.pop(next(iter(self._files))).close()
            file = DayFile(self.directory / name)
            self._days.add(name)
        self._files[name] = file
        return file

    def _find(self, name: str, ids: AbstractSet[str]) -> Iterable[Item]:
        return self._file(name).find(ids)

    # --- retention ---

    def prune(self, now: float, keep: Mapping[str, float], keep_minutes: float, max_size: int) -> list[str]:
        """Remove what is too old, and the oldest files of days beyond a size; return their names.

        now -- seconds since 1970
        keep -- for how many seconds the states of GROUPS are kept
        keep_minutes -- for how many seconds the counts of minutes, gaps and the audit are kept
        max_size -- bytes of the record; the files of this day stay, whatever their size
        Raises RecordUnavailable and RecordDamaged.
        """
        self._deliver()
        removed = [name for name in sorted(self._days) if end_of(name) + keep[group_of(name)] <= now]
        self._remove(removed)
        excess = self._size() - max_size
        for name in [name for name in sorted(self._days) if end_of(name) <= now]:
            if excess > 0:
                excess -= self._size(f"{name}*")
                self._remove([name])
                removed.append(name)
        with translated(self._path):
            self._forget(now, keep[FAILED], keep_minutes, max(map(end_of, removed), default=0.0))
        return removed

    def add_up(self, now: float) -> None:
        """Add up the minutes of an old hour. Raises RecordUnavailable and RecordDamaged."""
        with translated(self._path), self._database:
            self._database.execute("BEGIN IMMEDIATE")
            minutes.roll_up(self._database, now)

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            if name in self._files:
                self._files.pop(name).close()
            with translated(self.directory / name):
                for suffix in ("-wal", "-shm", ""):  # a log without its database would be another one's
                    (self.directory / f"{name}{suffix}").unlink(missing_ok=True)
            self._days.discard(name)

    def _size(self, pattern: str = "*") -> int:
        with translated(self.directory):
            return sum(path.stat().st_size for path in self.directory.glob(pattern))

    def _forget(self, now: float, keep: float, keep_minutes: float, gone_until: float) -> None:
        try:
            self._database.execute("BEGIN IMMEDIATE")
            for table in ("minute", "crash", "gap", "action"):
                self._database.execute(f"DELETE FROM {table} WHERE at < ?", (now - keep_minutes,))  # noqa: S608 -- no input
            spans.forget(self._database, ceil(now - keep_minutes))
            self._emitters.forget(now)
            self._live.forget(now - keep)
            self._names.forget()
            if self._began_at is not None and gone_until > self._began_at:
                self._set_began_at(gone_until)
            self._database.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise

    # --- audit ---

    def add_action(self, action: Action) -> None:
        """Add what a user did to the audit. Raises RecordUnavailable and RecordDamaged."""
        values = (action.at, action.user, action.action, action.filter, action.count)
        with translated(self._path):
            self._database.execute("INSERT INTO action VALUES(NULL, ?, ?, ?, ?, ?)", values)
