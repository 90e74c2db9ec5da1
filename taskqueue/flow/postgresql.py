"""The database of workflows in PostgreSQL, which flow processes of several hosts share."""

import contextlib
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

from taskqueue.errors import FlowUnavailable, UnfitForDatabase
from taskqueue.flow.store import Store, prepare
from taskqueue.postgresql.session import Purpose, Session

_SCHEMA: Final = "taskqueue_flow"
_PURPOSE: Final = Purpose(
    "workflows in", "taskqueue flow", _SCHEMA, FlowUnavailable, FlowUnavailable, UnfitForDatabase
)
_LOCK: Final = 0x666C6F77  # of whoever makes the tables
_WORDS: Final = {
    " WITHOUT ROWID": "",
    " INTEGER": " bigint",
    " REAL": " double precision",
    "IN ANY ?": "= ANY(?)",
}
_WORD: Final = re.compile("|".join(map(re.escape, _WORDS)))


class PostgresqlStore(Store):
    """A schema of a PostgreSQL database."""

    def __init__(self, url: str) -> None:
        """Connect, and make the tables if they are missing.

        Raises FlowUnavailable, and FlowDamaged if a later release has written them.
        """
        self._session = Session(_PURPOSE, url)
        with self.transaction():
            self.execute("SELECT pg_advisory_xact_lock(?)", (_LOCK,))
            self.execute(f"CREATE SCHEMA IF NOT EXISTS {_SCHEMA}")
            self.id = prepare(self, self._session.shown)

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """Return the rows of a statement."""
        cursor = self._session.execute(_translated(statement), values)
        with self._session.translated():
            return list(cursor.fetchall())

    def execute(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Run a statement; return the number of rows that it has changed."""
        return int(self._session.execute(_translated(statement), values).rowcount)

    def executemany(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement for each row of values."""
        self._session.executemany(statement, rows)

    def transaction(self) -> contextlib.AbstractContextManager[None]:
        """Do all that the context does, or nothing of it; then the session is closed."""
        return self._session.transaction()

    def close(self) -> None:
        """End the session."""
        self._session.close()


def _translated(statement: str) -> str:
    return _WORD.sub(lambda match: _WORDS[match[0]], statement)
