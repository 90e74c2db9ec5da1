"""The tables of a day: the workitems that came to a state on it, and their output."""

import re
from collections.abc import Iterable
from typing import Any, Final

from taskqueue.monitor.store.day_file import GROUPS, add_lines, end_of, group_of
from taskqueue.monitor.store.item import Item
from taskqueue.monitor.store.plan import COLUMNS, FilePlan, item_of
from taskqueue.monitor.store.postgresql.names import Names
from taskqueue.monitor.store.postgresql.session import Session
from taskqueue.monitor.store.sequence import Sequence, first_at

_DAY: Final = 86400.0
_FIRST_ANALYSIS: Final = 20_000  # rows after which the planner gets statistics; then whenever they double
_TABLE: Final = re.compile(rf"done_(\d{{4}})_(\d\d)_(\d\d)_({'|'.join(GROUPS)})")


def tables_of(name: str) -> tuple[str, str]:
    """Return the tables of workitems and of output of a day's file of this name."""
    suffix = name.removesuffix(".db").replace("-", "_").replace(".", "_")
    return f"done_{suffix}", f"log_{suffix}"


def name_of(table: str) -> str | None:
    """Return the name that a day's file would have in place of a table; None if it is no such table."""
    match = _TABLE.fullmatch(table)
    return f"{match[1]}-{match[2]}-{match[3]}.{match[4]}.db" if match else None


def find_names(session: Session) -> set[str]:
    """Return the names of all days' tables."""
    query = "SELECT inhrelid::regclass::text FROM pg_inherits JOIN pg_class parent ON parent.oid = inhparent "
    query += "WHERE parent.relnamespace = current_schema()::regnamespace AND parent.relname = ANY(?)"
    rows = session.execute(query, ([f"done_{group}" for group in GROUPS],))
    return {name for (table,) in rows if (name := name_of(table)) is not None}


class Partition:
    """The tables of a day and a final state, which are written."""

    def __init__(self, session: Session, names: Names, name: str, *, exists: bool) -> None:
        """Make the tables, if they do not exist."""
        self._session = session
        self._names = names
        self._name = name
        self.done, self.log = tables_of(name)
        if not exists:
            self._create(group_of(name), end_of(name))
        query = f"SELECT coalesce(max(seq), 0) FROM {self.done}"  # noqa: S608 -- no input
        (newest,) = session.execute(query).fetchone()
        self._sequence = Sequence(GROUPS.index(group_of(name)), newest, self._has)
        self._rows, self._analyse_at = 0, _FIRST_ANALYSIS

    def _create(self, group: str, end: float) -> None:
        """Make the tables; readers are not blocked, as they would be by PARTITION OF."""
        bounds = f"FROM ({first_at(end - _DAY)}) TO ({first_at(end)})"
        for statement in (
            f"CREATE TABLE {self.done}(LIKE done INCLUDING ALL)",
            f"ALTER TABLE done_{group} ATTACH PARTITION {self.done} FOR VALUES {bounds}",
            f"CREATE TABLE {self.log}(PRIMARY KEY(id, tenant, number)) INHERITS(log_over)",
        ):
            self._session.execute(statement)

    def apply(self, plan: FilePlan) -> None:
        """Do what a plan says, in the transaction of the session."""
        if plan.deletes:
            delete = f"DELETE FROM {self.done} WHERE seq = ANY(?)"  # noqa: S608 -- no input
            self._session.execute(delete, (plan.deletes,))
        rows = [(self._sequence.take(time), *self._names.named(row)) for time, row in plan.inserts]
        self._session.copy(self.done, rows)
        add_lines(self._session, self._names, plan.lines, plan.trims, self.log)
        self._sequence.settle()
        self._rows += len(rows)

    def find(self, ids: Iterable[str]) -> list[Item]:
        """Return those workitems that the tables have."""
        query = f"SELECT seq, {', '.join(COLUMNS)} FROM {self.done} WHERE id = ANY(?)"  # noqa: S608 -- no input
        return [self._item(*row) for row in self._session.execute(query, (list(ids),))]

    def _item(self, seq: int, *row: Any) -> Item:
        item = item_of(list(row))
        item.place, item.seq = self._name, seq
        return item

    def analyse(self) -> None:
        """Give the planner statistics if many rows are new: it finds frequent words without the index."""
        if self._rows >= self._analyse_at:
            self._session.execute(f"ANALYZE {self.done}")
            self._analyse_at = 2 * self._rows

    def _has(self, seq: int) -> bool:
        query = f"SELECT 1 FROM {self.done} WHERE seq = ?"  # noqa: S608 -- no input
        return self._session.execute(query, (seq,)).fetchone() is not None
