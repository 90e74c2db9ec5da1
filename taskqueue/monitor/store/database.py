"""The statements of both databases, which SQLite and PostgreSQL understand.

They are written for SQLite. `postgresql.session` replaces the placeholders, and drops the names of indexes.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol


class Database(Protocol):
    """A connection that writes the record."""

    def execute(self, statement: str, values: Sequence[Any] = ..., /) -> Any:
        """Run a statement; return a cursor over its rows."""

    def executemany(self, statement: str, rows: Iterable[Sequence[Any]], /) -> Any:
        """Run a statement for each row of values."""


class NameTable(Protocol):
    """The names of worker types, tenants, hosts and the like, as the rows of a database have them."""

    def number(self, text: str) -> Any:
        """Return what rows have for a name; without room for another one, that of OTHERS."""

    def text(self, number: Any) -> str:
        """Return the name of what rows have."""

    def kept(self, text: str) -> str:
        """Return a name, or OTHERS if there is no room for it."""
