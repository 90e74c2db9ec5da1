"""The tables of the record's SQLite files, their versions, and how a file is opened."""

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from taskqueue.errors import RecordDamaged, RecordUnavailable
from taskqueue.monitor.store import histograms, spans
from taskqueue.monitor.store.query import IS_LOST

#: Columns of a workitem, in `live` and in `done` alike: names of types and the like are numbers of `name`.
_WORKITEM: Final = """
    seq INTEGER PRIMARY KEY, -- its time and a number (sequence.py)
    id TEXT NOT NULL,
    type INTEGER NOT NULL,
    state INTEGER NOT NULL, -- index into events.STATES
    tenant INTEGER NOT NULL,
    labels TEXT,
    queued REAL,
    due REAL,
    started REAL,
    ended REAL,
    again_at REAL,
    attempts INTEGER NOT NULL,
    host INTEGER NOT NULL,
    worker INTEGER NOT NULL,
    user INTEGER NOT NULL,
    size INTEGER,
    result_size INTEGER,
    error TEXT,
    head TEXT,
    routed INTEGER NOT NULL, -- whether a dispatcher told of it
    emitter INTEGER NOT NULL, -- who told of its last run; of `live` only
    more TEXT -- JSON: runs, progress, result, lines
"""
_NAMES: Final = "CREATE TABLE name(no INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE) STRICT;"
_META: Final = "CREATE TABLE meta(key TEXT PRIMARY KEY, value ANY) STRICT, WITHOUT ROWID;"
_LOG: Final = """
CREATE TABLE log(id TEXT, number INTEGER, at REAL NOT NULL, worker TEXT NOT NULL, level TEXT NOT NULL,
    text TEXT NOT NULL, PRIMARY KEY(id, number)) STRICT, WITHOUT ROWID;
"""
#: Lines get the tenant of the workitem whose id they have: ids of several tenants may be equal.
_LOG_OF_TENANT: Final = """
ALTER TABLE log RENAME TO earlier;
CREATE TABLE log(id TEXT, number INTEGER, at REAL NOT NULL, worker TEXT NOT NULL, level TEXT NOT NULL,
    text TEXT NOT NULL, tenant INTEGER, PRIMARY KEY(id, tenant, number)) STRICT, WITHOUT ROWID;
INSERT INTO log SELECT earlier.*, coalesce((SELECT max(tenant) FROM {table} WHERE {table}.id = earlier.id), 0)
    FROM earlier;
DROP TABLE earlier;
"""

#: One script for each version of live.db: the first makes version 1, each further one the next version.
LIVE: Final[Sequence[str]] = (
    f"""
{_NAMES}{_META}{_LOG}
CREATE TABLE live({_WORKITEM}) STRICT;
CREATE UNIQUE INDEX live_id ON live(id);
CREATE INDEX live_type ON live(state, type);
CREATE INDEX live_tenant ON live(state, tenant) WHERE tenant > 0;
CREATE INDEX live_busy ON live(state) WHERE state > 0;
CREATE INDEX live_due ON live(type, due) WHERE state = 1; -- scheduled
CREATE TABLE tally(type INTEGER, state INTEGER, count INTEGER NOT NULL, PRIMARY KEY(type, state))
    STRICT, WITHOUT ROWID;
CREATE TABLE emitter(no INTEGER PRIMARY KEY, host TEXT NOT NULL, kind TEXT NOT NULL, grp TEXT NOT NULL,
    pid INTEGER NOT NULL, started REAL NOT NULL, next INTEGER NOT NULL, last_seen REAL NOT NULL,
    state TEXT NOT NULL, slots INTEGER NOT NULL, busy INTEGER NOT NULL, rss INTEGER NOT NULL,
    cpu REAL NOT NULL, is_blocked INTEGER NOT NULL, lost INTEGER NOT NULL, missed INTEGER NOT NULL) STRICT;
CREATE TABLE gap(no INTEGER PRIMARY KEY, emitter INTEGER NOT NULL, at REAL NOT NULL,
    first INTEGER NOT NULL, end INTEGER NOT NULL) STRICT;
CREATE TABLE minute(at INTEGER, type INTEGER, tenant INTEGER, state INTEGER, count INTEGER NOT NULL,
    run REAL NOT NULL, wait REAL NOT NULL, runs TEXT NOT NULL, waits TEXT NOT NULL,
    PRIMARY KEY(at, type, tenant, state)) STRICT, WITHOUT ROWID;
CREATE TABLE action(no INTEGER PRIMARY KEY, at REAL NOT NULL, user TEXT NOT NULL, action TEXT NOT NULL,
    filter TEXT NOT NULL, count INTEGER NOT NULL) STRICT;
CREATE TABLE outbox(number INTEGER PRIMARY KEY, files TEXT NOT NULL, plan TEXT NOT NULL) STRICT;
""",
    """
CREATE TABLE crash(at INTEGER, type INTEGER, tenant INTEGER, cause INTEGER, count INTEGER NOT NULL,
    PRIMARY KEY(at, type, tenant, cause)) STRICT, WITHOUT ROWID;
""",
    """
CREATE TABLE cancel(no INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, at REAL NOT NULL) STRICT;
CREATE TRIGGER over AFTER DELETE ON live BEGIN DELETE FROM cancel WHERE id = old.id; END;
""",
    """
ALTER TABLE emitter ADD COLUMN state_at REAL; -- on its own clock
""",
    f"""
DROP INDEX live_id;
CREATE INDEX live_id ON live(id);
{_LOG_OF_TENANT.format(table="live")}
DROP TRIGGER over;
CREATE TRIGGER over AFTER DELETE ON live WHEN NOT EXISTS (SELECT 1 FROM live WHERE id = old.id)
    BEGIN DELETE FROM cancel WHERE id = old.id; END;
""",  # noqa: S608 -- no input
    """
ALTER TABLE emitter ADD COLUMN unix_user TEXT NOT NULL DEFAULT '';
ALTER TABLE emitter ADD COLUMN version TEXT NOT NULL DEFAULT '';
ALTER TABLE emitter ADD COLUMN prefetch INTEGER NOT NULL DEFAULT 0;
ALTER TABLE emitter ADD COLUMN crashes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE emitter ADD COLUMN crash TEXT NOT NULL DEFAULT '';
ALTER TABLE emitter ADD COLUMN workers TEXT NOT NULL DEFAULT '';
CREATE TABLE software(no INTEGER PRIMARY KEY, at REAL NOT NULL, host TEXT NOT NULL, kind TEXT NOT NULL,
    grp TEXT NOT NULL, version TEXT NOT NULL) STRICT; -- the version of each emitter that has another one
""",
    f"""
CREATE TABLE type_sum(span INTEGER, at INTEGER, type INTEGER, state INTEGER, count INTEGER NOT NULL,
    run REAL NOT NULL, PRIMARY KEY(span, at, type, state)) STRICT, WITHOUT ROWID;
CREATE TABLE all_sum(span INTEGER, at INTEGER, state INTEGER, count INTEGER NOT NULL,
    PRIMARY KEY(span, at, state)) STRICT, WITHOUT ROWID;
{spans.FILL}
""",
    """
ALTER TABLE cancel RENAME TO earlier;
CREATE TABLE cancel(no INTEGER PRIMARY KEY, id TEXT NOT NULL, tenant INTEGER NOT NULL, at REAL NOT NULL,
    UNIQUE(id, tenant)) STRICT;
INSERT INTO cancel(id, tenant, at)
    SELECT earlier.id, live.tenant, at FROM earlier JOIN live USING(id) ORDER BY no;
DROP TRIGGER over;
DROP TABLE earlier;
CREATE TRIGGER over AFTER DELETE ON live
    BEGIN DELETE FROM cancel WHERE id = old.id AND tenant = old.tenant; END;
""",
    spans.FILL_TIMES,
)

#: The same of a day's file.
DAY: Final[Sequence[str]] = (
    f"""
{_NAMES}{_META}{_LOG}
CREATE TABLE done({_WORKITEM}) STRICT;
CREATE INDEX done_id ON done(id);
CREATE INDEX done_type ON done(type);
CREATE INDEX done_tenant ON done(tenant) WHERE tenant > 0;
CREATE TABLE label(label TEXT, seq INTEGER, PRIMARY KEY(label, seq)) STRICT, WITHOUT ROWID;
CREATE VIRTUAL TABLE bodies USING fts5(text, content='', detail=none);
CREATE VIRTUAL TABLE errors USING fts5(text, content='', detail=none);
""",
    _LOG_OF_TENANT.format(table="done"),
    f"CREATE INDEX done_lost ON done(state) WHERE {IS_LOST};",
)

_CACHE: Final = 16 * 1024  # KiB of pages in memory, of each file that is written
_READING_CACHE: Final = 1024
#: Bytes; ids are random: a write changes most pages of their index, and each is written as a whole.
_PAGE: Final = 4096
_LARGEST_LOG: Final = 64 * 1024 * 1024  # bytes
_BUSY_TIMEOUT: Final = 5.0  # seconds


class Database(sqlite3.Connection):
    """A connection that is closed with the last reference to it; Python 3.13 warns of others."""

    def __del__(self) -> None:
        """Close the connection, unless another thread has made it: Python then does so."""
        with contextlib.suppress(sqlite3.ProgrammingError):
            self.close()


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raise RecordDamaged or RecordUnavailable instead of SQLite's errors and OSError."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise RecordUnavailable(f"record {path}: {error}") from None
    except sqlite3.DatabaseError as error:
        raise _damaged(path, str(error)) from None
    except OSError as error:
        raise RecordUnavailable(f"record {error.filename or path}: {error.strerror}") from None


def _damaged(path: Path, why: str) -> RecordDamaged:
    return RecordDamaged(
        f"record {path} is damaged: {why}. Stop the monitor, run `taskqueue monitor rebuild`, start it again"
    )


def open_for_writing(path: Path, versions: Sequence[str]) -> sqlite3.Connection:
    """Open or create a database and bring it to the newest version.

    A commit is on the disk when it returns: a file that follows another one is never ahead of it.
    Raises SQLite's errors, OSError, and RecordDamaged for a file of a later version.
    """
    if not path.exists():
        _create(path, versions)
    return _open(path, versions)


def _create(path: Path, versions: Sequence[str]) -> None:
    """Make a database under another name, so that no reader meets it without its tables."""
    new = path.with_name(f"{path.name}.new")
    for suffix in ("-wal", "-shm", ""):  # of a process that was killed here
        new.with_name(f"{new.name}{suffix}").unlink(missing_ok=True)
    _open(new, versions).close()
    new.rename(path)  # it is on the disk with the log of the first commit: SQLite then syncs the directory


def _open(path: Path, versions: Sequence[str]) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=_BUSY_TIMEOUT, isolation_level=None, factory=Database)
    try:
        histograms.register(database)
        database.execute(f"PRAGMA page_size={_PAGE}")  # of a new file
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        (page,) = database.execute("PRAGMA page_size").fetchone()
        database.execute(f"PRAGMA wal_autocheckpoint={_LARGEST_LOG // page}")
        database.execute(f"PRAGMA cache_size=-{_CACHE}")
        database.execute(f"PRAGMA journal_size_limit={_LARGEST_LOG}")
        _migrate(database, path, versions)
    except BaseException:
        database.close()
        raise
    return database


def _migrate(database: sqlite3.Connection, path: Path, versions: Sequence[str]) -> None:
    version = _version(database, path, versions)
    for number, script in enumerate(versions[version:], version + 1):
        try:
            database.executescript(f"BEGIN IMMEDIATE;{script};PRAGMA user_version={number};COMMIT;")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise


def _version(database: sqlite3.Connection, path: Path, versions: Sequence[str]) -> int:
    version: int = database.execute("PRAGMA user_version").fetchone()[0]
    if version > len(versions):
        raise RecordDamaged(
            f"record {path} has version {version}; expected at most {len(versions)}: "
            "a later release of taskqueue wrote it. Install that release, or choose another directory"
        )
    return version


def _check_version(database: sqlite3.Connection, path: Path, versions: Sequence[str]) -> None:
    version = _version(database, path, versions)
    if version < len(versions):
        raise RecordUnavailable(
            f"record {path} has version {version}; expected {len(versions)}. "
            "The monitor converts it when it starts"
        )


def is_old(path: Path, versions: Sequence[str]) -> bool:
    """Whether a file has an older version than the newest, or one that is not known without opening it."""
    with path.open("rb") as file:
        header = file.read(64)  # the version is at offset 60 (SQLite's file format, section 1.3)
    return int.from_bytes(header[60:], "big") < len(versions)


def open_for_reading(path: Path, versions: Sequence[str], *, is_in_use: bool) -> sqlite3.Connection:
    """Open a database read-only.

    is_in_use -- whether a process may write it. Other files are read without locks: SQLite locks a
        database in WAL mode by files beside it, which a reader without the right to write cannot create.
    Raises SQLite's errors, RecordDamaged for a file of a later version, RecordUnavailable for an earlier one.
    """
    mode = "mode=ro" if is_in_use else "mode=ro&immutable=1"
    uri = f"{path.absolute().as_uri()}?{mode}"
    database = sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT, isolation_level=None, factory=Database)
    try:
        histograms.register(database)
        database.execute(f"PRAGMA cache_size=-{_READING_CACHE}")
        _check_version(database, path, versions)
    except BaseException:
        database.close()
        raise
    return database
