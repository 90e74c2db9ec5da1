"""The workitems that are not over, and their output: the tables `live`, `tally` and `log` of live.db."""

import json
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Final

from taskqueue.monitor.store.database import Database, NameTable
from taskqueue.monitor.store.day_file import add_lines, lines_of
from taskqueue.monitor.store.item import Item, Key
from taskqueue.monitor.store.plan import COLUMNS, NAMED, Line, Row, is_kept, item_of, row_of
from taskqueue.monitor.store.sequence import Sequence, first_at

_KIND: Final = 7  # of the sequence numbers; the days' files have lower ones
_REPLACE: Final = f"INSERT OR REPLACE INTO live VALUES({', '.join('?' * (len(COLUMNS) + 1))})"


class Live:
    """The workitems that are not over, of a record that is written."""

    def __init__(self, database: Database, names: NameTable) -> None:
        """Read what is kept in memory: how many lines of output each workitem has had."""
        self._database = database
        self._names = names
        self.reload()

    def reload(self) -> None:
        """Read it again, after a transaction was rolled back."""
        (newest, self._count) = self._database.execute(
            "SELECT coalesce(max(seq), 0), count(*) FROM live"
        ).fetchone()
        self._sequence = Sequence(_KIND, newest, self._has)
        query = "SELECT tenant, id, max(number) + 1 FROM log GROUP BY tenant, id"
        lines = self._database.execute(query)
        self._lines: dict[Key, int] = {(self._names.text(tenant), id_): count for tenant, id_, count in lines}
        self._tally: Counter[tuple[str, int]] = Counter()

    def find(self, ids: Collection[str]) -> dict[Key, Item]:
        """Return the workitems that have these ids and are not over, of all tenants."""
        if not self._count:
            return {}
        found = {}
        for seq, *row in self._rows(ids):
            for column in NAMED:
                row[column] = self._names.text(row[column])
            item = item_of(row)
            found[item.key] = item
            item.seq, item.was = seq, (item.type, item.state)
        return found

    def put(self, items: Iterable[Item]) -> None:
        """Write the rows of workitems that are not over."""
        rows = []
        for item in items:
            if item.was is None:
                item.seq = self._sequence.take(item.queued or item.started or item.ended or 0.0)
                self._count += 1
            else:
                self._tally[item.was] -= 1
            self._tally[item.type, item.state] += 1
            row = row_of(item)
            for column in NAMED:
                row[column] = self._names.number(row[column])
            rows.append([item.seq, *row])
        self._replace(rows)
        self._sequence.settle()

    def remove(self, items: Iterable[Item]) -> None:
        """Delete the rows of workitems that are over."""
        gone = []
        for item in items:
            if item.was is not None:
                gone.append(item.seq)
                self._tally[item.was] -= 1
        self._count -= len(gone)
        self._delete(gone)

    def save_tally(self) -> None:
        """Write how many workitems of each type are in each state."""
        rows = [(self._names.number(name), state, n) for (name, state), n in self._tally.items() if n]
        self._database.executemany(
            "INSERT INTO tally VALUES(?, ?, ?) "
            "ON CONFLICT(type, state) DO UPDATE SET count = tally.count + excluded.count",
            rows,
        )
        self._tally.clear()

    # --- output ---

    def lines_of(self, key: Key) -> int:
        """Return how many lines of output a workitem has had, of those that are here; 0 if none is."""
        return self._lines.get(key, 0)

    def add_lines(self, key: Key, lines: list[Line], count: int) -> None:
        """Keep lines of a workitem that has had so many."""
        add_lines(self._database, self._names, lines, [(key, count)])
        self._lines[key] = count

    def take_lines(self, key: Key, count: int) -> list[Line]:
        """Remove and return the lines that are kept of a workitem that has had so many."""
        if self._lines.pop(key, None) is None:
            return []
        rows = lines_of(self._database, self._names, key)
        tenant, id_ = key
        values = (id_, self._names.number(tenant))
        self._database.execute("DELETE FROM log WHERE id = ? AND tenant = ?", values)
        return [row for row in rows if is_kept(row[1], count)]

    # --- retention ---

    def forget(self, before: float) -> None:
        """Forget workitems that nothing was heard of since a time, and lines of unknown ones."""
        rows = self._database.execute(
            "SELECT seq, id FROM live WHERE seq < ? AND coalesce(due, 0) < ? AND coalesce(started, 0) < ? "
            "AND coalesce(ended, 0) < ? AND coalesce(again_at, 0) < ?",
            (first_at(before), *[before] * 4),
        ).fetchall()
        old = {seq for seq, _ in rows}
        found = self.find([id_ for _, id_ in rows]).values()
        self.remove(item for item in found if item.seq in old)
        self.save_tally()
        self._forget_lines(before)

    def _forget_lines(self, before: float) -> None:
        """Forget lines of unknown workitems. Each one is looked for by its id: `live` may be large."""
        execute = self._database.execute
        unknown = execute(
            "SELECT tenant, id FROM log GROUP BY tenant, id HAVING max(at) < ? AND NOT EXISTS "
            "(SELECT 1 FROM live WHERE live.id = log.id AND live.tenant = log.tenant)",
            (before,),
        ).fetchall()
        self._database.executemany("DELETE FROM log WHERE tenant = ? AND id = ?", unknown)
        for tenant, id_ in unknown:
            self._lines.pop((self._names.text(tenant), id_), None)

    # --- SQLite's own statements ---

    def _rows(self, ids: Collection[str]) -> list[Row]:
        """Return the sequence numbers and columns of the workitems that have some ids."""
        columns = ", ".join(COLUMNS)
        query = f"SELECT seq, {columns} FROM live WHERE id IN (SELECT value FROM json_each(?))"  # noqa: S608 -- no input
        return [list(row) for row in self._database.execute(query, (json.dumps(list(ids)),)).fetchall()]

    def _replace(self, rows: list[Row]) -> None:
        """Write rows in place of those that have their sequence numbers."""
        self._database.executemany(_REPLACE, rows)

    def _delete(self, seqs: list[int]) -> None:
        self._database.executemany("DELETE FROM live WHERE seq = ?", [(seq,) for seq in seqs])

    def _has(self, seq: int) -> bool:
        return self._database.execute("SELECT 1 FROM live WHERE seq = ?", (seq,)).fetchone() is not None
