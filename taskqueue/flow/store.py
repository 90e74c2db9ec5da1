"""The database of workflows: SQLite, in which each transaction is on the disk before it is acted upon."""

import contextlib
import json
import os
import secrets
import sqlite3
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Protocol

from taskqueue.broker.topology import SHARDS
from taskqueue.errors import FlowDamaged, FlowUnavailable, TaskqueueError, UnfitForDatabase
from taskqueue.flow.schema import VERSIONS

_BUSY: Final = 5.0  # seconds that a transaction waits for that of another process
_UNFIT: Final = (sqlite3.DataError, sqlite3.IntegrityError)


class Store(Protocol):
    """A database of workflows. Its errors are FlowUnavailable, and UnfitForDatabase."""

    #: Random; proofs begin with it.
    id: str

    @abstractmethod
    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """Return the rows of a statement; a value that is a list is that of `IN ANY ?`."""

    @abstractmethod
    def execute(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Run a statement; return the number of rows that it has changed."""

    @abstractmethod
    def executemany(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement for each row of values."""

    @abstractmethod
    def transaction(self) -> contextlib.AbstractContextManager[None]:
        """Do all that the context does, or nothing of it."""

    @abstractmethod
    def close(self) -> None:
        """Close the database."""


class SqliteStore(Store):
    """A file of SQLite. Several processes of a host may have it open."""

    def __init__(self, path: Path) -> None:
        """Open the database, and make it if it is missing.

        Raises FlowUnavailable, and FlowDamaged if a later release has written it.
        """
        self._path = path
        with self._translated():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._connection = sqlite3.connect(
                path, timeout=_BUSY, isolation_level=None, cached_statements=500
            )
        try:
            with self._translated():
                for pragma in ("journal_mode = WAL", "synchronous = FULL", "cache_size = -16384"):
                    self._connection.execute(f"PRAGMA {pragma}")
            with self.transaction():
                self.id = prepare(self, str(path))
        except BaseException:
            self.close()
            raise

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """Return the rows of a statement."""
        try:
            return self._connection.execute(_sqlite(statement), _bound(values)).fetchall()
        except sqlite3.Error as error:
            raise self._error_of(error) from None

    def execute(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Run a statement; return the number of rows that it has changed."""
        try:
            return self._connection.execute(_sqlite(statement), _bound(values)).rowcount
        except sqlite3.Error as error:
            raise self._error_of(error) from None

    def executemany(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement for each row of values."""
        with self._translated():
            self._connection.executemany(statement, rows)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Do all that the context does, or nothing of it."""
        with self._translated():
            self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            with self._translated():
                self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise self._error_of(error) from None

    def _error_of(self, error: sqlite3.Error | OSError) -> TaskqueueError:
        kind = UnfitForDatabase if isinstance(error, _UNFIT) else FlowUnavailable
        return kind(f"workflows in {self._path}: {getattr(error, 'strerror', None) or error}")


def _bound(values: Sequence[Any]) -> list[Any]:
    return [_json(value) if type(value) is list else value for value in values]


def _json(values: list[Any]) -> str:
    """Return a list as JSON; `str` does that for numbers, in a fifth of the time."""
    return json.dumps(values) if values and isinstance(values[0], str) else str(values)


@lru_cache(200)
def _sqlite(statement: str) -> str:
    """Return a statement without locks of rows: a transaction locks the whole database."""
    return statement.replace("IN ANY ?", "IN (SELECT value FROM json_each(?))").replace(" FOR UPDATE", "")


def prepare(store: Store, shown: str) -> str:
    """Make the tables, or bring them to the newest version, in a transaction; return the database's id.

    shown -- the database's place, for errors
    """
    store.execute("CREATE TABLE IF NOT EXISTS version(number INTEGER NOT NULL)")
    version = sum(row[0] for row in store.rows("SELECT number FROM version"))
    if version > len(VERSIONS):
        raise FlowDamaged(
            f"workflows in {shown} have version {version}; expected at most {len(VERSIONS)}: a later release "
            "of taskqueue wrote them. Install that release, or choose another database in [flow]"
        )
    for script in VERSIONS[version:]:
        for statement in script:
            store.execute(statement)
    if version < len(VERSIONS):
        store.execute("DELETE FROM version")
        store.execute("INSERT INTO version VALUES(?)", (len(VERSIONS),))
    if not version:
        store.execute("INSERT INTO meta VALUES('id', ?)", (secrets.token_hex(8),))
        store.executemany("INSERT INTO shard VALUES(?, 0, 1)", [(number,) for number in range(SHARDS)])
    ((id_,),) = store.rows("SELECT value FROM meta WHERE key = 'id'")
    return str(id_)
