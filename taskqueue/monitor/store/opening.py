"""Opening a record for writing, whatever its database."""

from pathlib import Path
from typing import TYPE_CHECKING

from taskqueue.monitor.store.store import Store

if TYPE_CHECKING:
    from taskqueue.monitor.store.postgresql.store import PostgresqlStore


def open_store(directory: Path, url: str | None) -> "Store | PostgresqlStore":
    """Open the record of a directory, or of the PostgreSQL database at a URL.

    Raises AlreadyRunning if another process has the directory, RecordUnavailable and RecordDamaged.
    """
    if url is None:
        return Store(directory)
    from taskqueue.monitor.store.postgresql.store import PostgresqlStore  # noqa: PLC0415 -- not everybody has psycopg

    return PostgresqlStore(directory, url)
