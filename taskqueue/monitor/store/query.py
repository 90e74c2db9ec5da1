"""Filters as SQL: the queries that together return what a filter wants of one file.

Rows are ordered by `seq`, which has the time. Each query names the index that has this order already, so that
the first rows cost no more than they must; several values of one column are one query each.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from taskqueue.messages.events import CANCELLED, FAILED, LOST, QUEUED, RUNNING, SCHEDULED, STATES
from taskqueue.messages.states import DUPLICATE, DUPLICATE_OF
from taskqueue.monitor.record import SILENT_AFTER, Filter
from taskqueue.monitor.store.item import CODE, FIRST_OVER
from taskqueue.monitor.store.plan import COLUMNS
from taskqueue.monitor.store.sequence import first_at

_MOST_QUERIES: Final = 8  # for the values of one column; for more of them, all rows are looked at
_SELECTIVE: Final = 4  # characters of an id's beginning for which its index pays
_LAST: Final = "\U0010ffff"
#: The rows that are lost, which are few: this condition names the partial index `done_lost`.
IS_LOST: Final = f"state = {CODE[LOST]}"
_NOT_LOST: Final = f"done.seq NOT IN (SELECT seq FROM done INDEXED BY done_lost WHERE {IS_LOST})"  # noqa: S608 -- no input
#: The types of rows that are found by their tenant; indexes alone tell it, without the rows.
_OF_TYPE: Final = (
    "EXISTS (SELECT 1 FROM done AS typed INDEXED BY done_type "
    "WHERE typed.type IN (%s) AND typed.seq = done.seq)"
)


@dataclass(frozen=True, slots=True)
class Query:
    """A query of the table `live` or `done`."""

    source: str  # what stands after FROM
    conditions: tuple[str, ...] = ()
    values: tuple[Any, ...] = ()
    order: str = "seq"

    def where(self, condition: str, *values: Any) -> "Query":
        """Return the query with one more condition."""
        return Query(self.source, (*self.conditions, condition), (*self.values, *values), self.order)

    def rows(self, before: int, limit: int, columns: Sequence[str] = COLUMNS) -> tuple[str, tuple[Any, ...]]:
        """Return SQL and values for `seq` and columns of the newest rows, `seq` being less than `before`."""
        text = f"SELECT {', '.join(('seq', *columns))} FROM {self._text()} ORDER BY {self.order} DESC LIMIT ?"  # noqa: S608 -- no input
        return text, (*self.values, before, limit)

    def count(self, limit: int) -> tuple[str, tuple[Any, ...]]:
        """Return SQL and values that count the rows, up to a limit."""
        text = f"SELECT count(*) FROM (SELECT 1 FROM {self._text()} LIMIT ?) AS found"  # noqa: S608 -- no input
        return text, (*self.values, 2**63 - 1, limit)

    def _text(self) -> str:
        return f"{self.source} WHERE {' AND '.join((*self.conditions, f'{self.order} < ?'))}"


@dataclass(slots=True)
class Names:
    """The numbers that a file has for the names of a filter; None: any, an empty list: none matches."""

    types: list[Any] | None = None
    tenants: list[Any] | None = None
    hosts: list[Any] | None = None


def live_queries(wanted: Filter, numbers: dict[str, int], now: float) -> Iterator[Query]:
    """Yield the queries of live.db; `numbers` are those of its names."""
    names = _resolve(wanted, numbers)
    if names is None:
        return
    for state, condition, values in live_states(wanted, now):
        by_id = Query("live INDEXED BY live_id", ("state = ?",), (state,))
        is_selective = len(wanted.id_prefix) >= _SELECTIVE
        for query in [by_id] if is_selective else _by_index("live", names, state):
            yield narrowed(query.where(condition, *values) if condition else query, wanted, names)


def narrowed(query: Query, wanted: Filter, names: Names) -> Query:
    """Return a query of `live` with the conditions of a filter; states are not among them."""
    query = common(query, wanted, names)
    if wanted.label:
        query = query.where("' ' || labels || ' ' LIKE ? ESCAPE '\\'", f"% {_escaped(wanted.label)} %")
    query = like(query, "error", wanted.error_text.split())
    return like(query, "head", wanted.body_text.split())


def live_states(wanted: Filter, now: float) -> Iterator[tuple[int, str, tuple[float, ...]]]:
    """Yield states as the database has them, with the condition by which they are shown as wanted ones."""
    silent = "emitter NOT IN (SELECT no FROM emitter WHERE last_seen >= ?)"
    is_any = not wanted.states
    if is_any or QUEUED in wanted.states:
        yield CODE[QUEUED], "", ()
    if is_any or {QUEUED, SCHEDULED} <= wanted.states:
        yield CODE[SCHEDULED], "", ()
    elif SCHEDULED in wanted.states:
        yield CODE[SCHEDULED], "due > ?", (now,)
    elif QUEUED in wanted.states:
        yield CODE[SCHEDULED], "due <= ?", (now,)
    if is_any or {RUNNING, LOST} <= wanted.states:
        yield CODE[RUNNING], "", ()
    elif RUNNING in wanted.states:
        yield CODE[RUNNING], silent.replace("NOT IN", "IN"), (now - SILENT_AFTER,)
    elif LOST in wanted.states:
        yield CODE[RUNNING], silent, (now - SILENT_AFTER,)
    for state in STATES[CODE[RUNNING] + 1 : FIRST_OVER]:
        if is_any or state in wanted.states:
            yield CODE[state], "", ()


def done_queries(wanted: Filter, numbers: dict[str, int], group: str) -> Iterator[Query]:
    """Yield the queries of a day's file of a group; `numbers` are those of its names.

    A count must not read the rows: they have ten times the size of an index. So states and types are told
    by indexes where that is possible.
    """
    names = _resolve(wanted, numbers)
    if names is None:
        return
    wanted, states = of_group(wanted, group), wanted_of(wanted, group)
    for query in _done_sources(wanted, names, is_lost=states == {LOST}):
        found = common(query, wanted, names)
        if states == {FAILED}:
            found = found.where(_NOT_LOST)
        elif states:
            found = found.where(IS_LOST)
        if wanted.label and "label" not in query.source:
            condition = "EXISTS (SELECT 1 FROM label WHERE label.label = ? AND label.seq = done.seq)"
            found = found.where(condition, wanted.label)
        found = like(found, "error", compound(wanted.error_text))
        yield like(found, "head", compound(wanted.body_text))


def wanted_of(wanted: Filter, group: str) -> frozenset[str]:
    """Return those states of a group's rows that a filter wants; none if it wants all of them."""
    own = frozenset((FAILED, LOST)) if group == FAILED else frozenset((group,))
    return frozenset() if not wanted.states or own <= wanted.states else own & wanted.states


def of_group(wanted: Filter, group: str) -> Filter:
    """Return a filter for a group's rows: of cancelled workitems, the error tells which are duplicates."""
    if group != CANCELLED or CANCELLED in wanted.states or DUPLICATE not in wanted.states:
        return wanted
    return replace(wanted, error_text=DUPLICATE_OF + wanted.error_text)


def _done_sources(wanted: Filter, names: Names, *, is_lost: bool) -> Iterator[Query]:
    """Yield what is read first: what the fewest rows match."""
    error, body = _match(wanted.error_text), _match(wanted.body_text)
    if error:
        query = Query("errors CROSS JOIN done ON done.seq = errors.rowid", order="errors.rowid")
        query = query.where("errors MATCH ?", error)
        yield (
            query.where("done.seq IN (SELECT rowid FROM bodies WHERE bodies MATCH ?)", body)
            if body
            else query
        )
    elif body:
        query = Query("bodies CROSS JOIN done ON done.seq = bodies.rowid", order="bodies.rowid")
        yield query.where("bodies MATCH ?", body)
    elif wanted.label:
        query = Query("label CROSS JOIN done USING(seq)", order="label.seq")
        yield query.where("label.label = ?", wanted.label)
    elif len(wanted.id_prefix) >= _SELECTIVE:
        yield Query("done INDEXED BY done_id")
    elif is_lost:
        yield Query("done INDEXED BY done_lost")
    else:
        yield from _by_index("done", names, None)


def _by_index(table: str, names: Names, state: int | None) -> Iterator[Query]:
    """Yield a query for each tenant or type that is wanted, or one for all rows of a state."""
    prefix = (("state = ?",), (state,)) if state is not None else ((), ())
    if names.tenants and 0 not in names.tenants and len(names.tenants) <= _MOST_QUERIES:
        for tenant in names.tenants:
            query = Query(f"{table} INDEXED BY {table}_tenant", *prefix)
            yield query.where("tenant > 0 AND tenant = ?", tenant)
    elif names.types and len(names.types) <= _MOST_QUERIES:
        for type_ in names.types:
            yield Query(f"{table} INDEXED BY {table}_type", *prefix).where("type = ?", type_)
    elif state:
        yield Query(f"{table} INDEXED BY {table}_busy", *prefix).where("state > 0")
    else:
        yield Query(f"{table} NOT INDEXED", *prefix)


def _resolve(wanted: Filter, numbers: dict[str, int]) -> Names | None:
    """Return the numbers of the filter's names; None if the file has none of some: nothing matches."""
    names = Names()
    if wanted.worker_types:
        names.types = [numbers[name] for name in wanted.worker_types if name in numbers]
    if wanted.tenants:
        names.tenants = [numbers[name] for name in wanted.tenants if name in numbers]
    if wanted.host:
        names.hosts = [numbers[wanted.host]] if wanted.host in numbers else []
    return None if [] in (names.types, names.tenants, names.hosts) else names


def common(query: Query, wanted: Filter, names: Names) -> Query:
    """Return a query with a filter's names, times and beginning of the id."""
    for column, values in (("type", names.types), ("tenant", names.tenants), ("host", names.hosts)):
        if values is not None and column == "type" and "done_tenant" in query.source:
            query = query.where(_OF_TYPE % ", ".join("?" * len(values)), *values)
        elif values is not None:
            query = among(query, column, values)
    if wanted.since is not None:
        query = query.where(f"{query.order} >= ?", first_at(wanted.since))
    if wanted.until is not None:
        query = query.where(f"{query.order} < ?", first_at(wanted.until))
    if wanted.id_prefix:
        query = query.where("id >= ? AND id < ?", wanted.id_prefix, wanted.id_prefix + _LAST)
    return query


def codes_of(wanted: Filter) -> list[int]:
    """Return the wanted states as the database has them."""
    return sorted({CODE[CANCELLED if state == DUPLICATE else state] for state in wanted.states})


def among(query: Query, column: str, values: list[Any]) -> Query:
    """Return a query for the rows that have one of some values."""
    return query.where(f"{column} IN ({', '.join('?' * len(values))})", *values)


# --- text ---

TOKEN: Final = re.compile(r"[^\W_]+")  # as the tokenizer of FTS5 has them (unicode61)


def _match(text: str) -> str:
    """Return the FTS5 query for all words of a text; "" if it has none."""
    return " ".join(f'"{token}"' for token in TOKEN.findall(text))


def compound(text: str) -> list[str]:
    """Return those words that are more than one token: the index does not know that these belong together."""
    return [word for word in text.split() if not TOKEN.fullmatch(word)]


def like(query: Query, column: str, words: list[str]) -> Query:
    """Return a query for the rows whose text has all words."""
    for word in words:
        query = query.where(f"{column} LIKE ? ESCAPE '\\'", f"%{_escaped(word)}%")
    return query


def _escaped(text: str) -> str:
    return re.sub(r"([\\%_])", r"\\\1", text)
