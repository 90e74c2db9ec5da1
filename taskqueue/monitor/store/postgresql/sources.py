"""The tables of a PostgreSQL database as the record is read from them."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

from taskqueue.errors import RecordUnavailable
from taskqueue.monitor.record import Filter
from taskqueue.monitor.store.day_file import GROUP_OF, file_name, parse_name
from taskqueue.monitor.store.interface import LINES, heard_of
from taskqueue.monitor.store.item import CODE, Item
from taskqueue.monitor.store.plan import COLUMNS, Row, item_of
from taskqueue.monitor.store.postgresql.partition import find_names, tables_of
from taskqueue.monitor.store.postgresql.schema import check_version
from taskqueue.monitor.store.postgresql.session import Session
from taskqueue.monitor.store.query import (
    TOKEN,
    Names,
    Query,
    common,
    compound,
    like,
    live_states,
    narrowed,
    of_group,
    wanted_of,
)
from taskqueue.monitor.store.sequence import time_of

_FREQUENT: Final = 20_000  # rows of a day
_ITEMS = f"SELECT {', '.join(COLUMNS)} FROM %s WHERE id = ?"  # noqa: S608 -- no input


class Table:
    """The table `live`, or that of a day and a final state; rows have names as texts."""

    def __init__(self, tables: "Tables", name: str) -> None:
        self._tables = tables
        self._name = name

    def query(self, text: str, values: Sequence[Any] = ()) -> list[Any]:
        """Return the rows of a query. Raises RecordUnavailable."""
        return self._tables.query(text, values)

    def queries(self, wanted: Filter, now: float) -> Iterator[Query]:
        """Yield the queries that together return what a filter wants."""
        names = Names(
            list(wanted.worker_types) or None,
            list(wanted.tenants) or None,
            [wanted.host] if wanted.host else None,
        )
        if self._name == "live":
            for state, condition, values in live_states(wanted, now):
                query = Query("live", ("state = ?",), (state,))
                yield narrowed(query.where(condition, *values) if condition else query, wanted, names)
        else:
            group = self._name.rpartition("_")[2]
            wanted, states = of_group(wanted, group), wanted_of(wanted, group)
            yield _over(self._having_text(wanted), wanted, names, states)

    def _having_text(self, wanted: Filter) -> Query:
        """Return a query for the rows with the label and the words of a filter.

        The planner takes rare words for frequent ones, and would look for them in all rows, the newest first.
        That is faster than the index if very many rows have them.
        """
        query = _with_text(Query(self._name), wanted)
        if not query.conditions:
            return query
        found = f"FROM {self._name} WHERE {' AND '.join(query.conditions)}"
        ((count,),) = self.query(
            f"SELECT count(*) FROM (SELECT 1 {found} LIMIT ?) AS found",  # noqa: S608 -- no input
            (*query.values, _FREQUENT),
        )
        if count == _FREQUENT:
            return query
        return Query(f"(SELECT * {found} OFFSET 0) AS found", values=query.values)  # OFFSET: not by `seq`

    def number(self, name: str) -> str:
        """Return the name."""
        return name

    def name(self, number: Any) -> str:
        """Return the name."""
        return str(number)

    def item(self, row: Row) -> Item:
        """Return the workitem of its columns."""
        return item_of(row)


def _with_text(query: Query, wanted: Filter) -> Query:
    """Return a query with the conditions that have indexes of their elements."""
    if wanted.label:
        query = query.where(
            "labels IS NOT NULL AND string_to_array(labels, ' ') @> ARRAY[?]::text[]", wanted.label
        )
    for column, text in (("error", wanted.error_text), ("head", wanted.body_text)):
        if tokens := TOKEN.findall(text):
            condition = f"{column} IS NOT NULL AND words({column}) @@ plainto_tsquery('pg_catalog.simple', ?)"
            query = query.where(condition, " ".join(tokens))
    return query


def _over(query: Query, wanted: Filter, names: Names, states: Iterable[str]) -> Query:
    query = common(query, wanted, names)
    for state in states:
        query = query.where(f"state = {CODE[state]}")  # no parameter: one of them has a partial index
    if wanted.tenants and "" not in wanted.tenants:
        query = query.where("tenant > ''")
    for column, text in (("error", wanted.error_text), ("head", wanted.body_text)):
        query = like(query, column, compound(text))
    return query


class Tables:
    """The tables of a database, read-only."""

    def __init__(self, directory: Path, url: str) -> None:
        """Connect later. The directory has what is not in the database."""
        self.directory = directory
        self._url = url
        self._session: Session | None = None
        self._began_at: float | None = None
        self._days: dict[str, list[str]] | None = None
        self._is_interrupted = False

    def refresh(self) -> Self:
        """Look what there is now. Raises RecordUnavailable if there is no record."""
        self._is_interrupted = False
        self._days = None
        try:
            self._look()
        except RecordUnavailable:  # the server may have been restarted since the last query
            if self._session is None or self._session.is_open:
                raise
            self._look()
        return self

    def _look(self) -> None:
        if self._session is None or not self._session.is_open:
            self.close()
            self._session = None
            session = Session(self._url, is_reader=True)
            try:
                check_version(session)
            except BaseException:
                session.close()
                raise
            self._session = session
        ((self._began_at,),) = self.query("SELECT began_at FROM state")

    def query(self, text: str, values: Sequence[Any] = (), *, is_prepared: bool = False) -> list[Any]:
        """Return the rows of a query. Raises RecordUnavailable.

        is_prepared -- whether one plan is good for all values
        """
        if self._is_interrupted or self._session is None:
            raise RecordUnavailable("record in PostgreSQL: interrupted")
        return list(self._session.execute(text, values, is_prepared=is_prepared).fetchall())

    @cached_property
    def live(self) -> Table:
        """The table of what is not over."""
        return Table(self, "live")

    @property
    def days(self) -> Sequence[str]:
        """The days that have tables, newest first."""
        return sorted(self._names_by_day(), reverse=True)

    def _names_by_day(self) -> dict[str, list[str]]:
        if self._days is None:
            self._days = {}
            for name in find_names(self._session) if self._session is not None else ():
                self._days.setdefault(name.partition(".")[0], []).append(name)
        return self._days

    def of_day(self, day: str, states: frozenset[int] = frozenset()) -> Iterator[Table]:
        """Yield the tables of a day that may have workitems of some states; none given: of any state."""
        groups = {GROUP_OF[state] for state in states if state in GROUP_OF}
        for name in self._names_by_day()[day]:
            parsed = parse_name(name)
            if parsed is not None and (not states or parsed[1] in groups):
                yield Table(self, tables_of(name)[0])

    def items(self, id_: str) -> list[Item]:
        """Return what has the id, newest first."""
        live = [item_of(list(row)) for row in self.query(_ITEMS % "live", (id_,))]
        # The plan has a part for each day's table: to make it takes longer than to ask.
        over = [item_of(list(row)) for row in self.query(_ITEMS % "done", (id_,), is_prepared=True)]
        return sorted(live, key=heard_of, reverse=True) + sorted(over, key=heard_of, reverse=True)

    def lines(
        self, id_: str, owner: tuple[str, str], after: int, limit: int, *, is_shared: bool
    ) -> list[tuple[Any, ...]]:
        """Return lines of output of the workitem that has an id and an owner: worker type and tenant."""
        values = (id_, owner[1], after, limit)
        rows = self.query(LINES.format("log"), values)
        for table in self._logs_of(id_, owner) if is_shared else ["log_over"]:
            rows += self.query(LINES.format(table), values)
        return rows

    def _logs_of(self, id_: str, owner: tuple[str, str]) -> set[str]:
        query = "SELECT seq, state FROM done WHERE id = ? AND type = ? AND tenant = ?"
        return {
            tables_of(file_name(time_of(seq), state))[1] for seq, state in self.query(query, (id_, *owner))
        }

    def mark(self) -> None:
        """Return nothing."""

    def is_absent(self, _id: str, _mark: None) -> bool:
        """Whether a workitem that was not found is not there: a transaction moves it from table to table."""
        return True

    def names(self) -> frozenset[str]:
        """Return all names."""
        return frozenset(text for (text,) in self.query("SELECT text FROM name")) | {""}

    def began_at(self) -> float | None:
        """Return the time from which on the record has all ends."""
        return self._began_at

    def interrupt(self) -> None:
        """Have the statement that runs fail, and those after it; any thread may call this."""
        self._is_interrupted = True
        if self._session is not None:
            self._session.interrupt()

    def close(self) -> None:
        """End the session."""
        if self._session is not None:
            self._session.close()
