"""Histograms as the tables have them: counts in a text, and functions of the database that add them."""

import sqlite3
from collections.abc import Sequence
from operator import add
from typing import Final

from taskqueue.monitor.record import BUCKETS

SIZE: Final = len(BUCKETS) + 1

#: The counts of a histogram; None if it has none.
Counts = Sequence[int] | None

#: A script that makes the functions in PostgreSQL that `register` makes in SQLite. "" has no counts.
FUNCTIONS: Final = """
CREATE FUNCTION add_counts(text, text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT CASE WHEN $1 = '' THEN $2 WHEN $2 = '' THEN $1 ELSE (
        SELECT string_agg((a + b)::text, ' ' ORDER BY place)
        FROM unnest(string_to_array($1, ' ')::bigint[], string_to_array($2, ' ')::bigint[])
            WITH ORDINALITY AS told(a, b, place)) END
$$;
CREATE AGGREGATE sum_counts(text) (SFUNC = add_counts, STYPE = text, INITCOND = '', PARALLEL = SAFE,
    COMBINEFUNC = add_counts);
"""


def read(text: str) -> tuple[int, ...]:
    """Return the counts of a histogram; () if it has none."""
    return tuple(map(int, text.split()))


def summed(some: Counts, more: Counts) -> Counts:
    """Return the sum of two histograms."""
    if some is None or more is None:
        return more if some is None else some
    return tuple(map(add, some, more))


def text_of(counts: Counts) -> str:
    """Return a histogram as the tables have it."""
    return "" if counts is None else " ".join(map(str, counts))


def added(old: str, more: Counts) -> str:
    """Return a histogram of a table with more counts."""
    return old if more is None else text_of(summed(read(old) or None, more))


def _added_texts(old: str, more: str) -> str:
    return added(old, read(more)) if old and more else old or more


class _Sum:
    """The aggregate function of SQLite."""

    def __init__(self) -> None:
        self._counts: Counts = None

    def step(self, text: str) -> None:
        self._counts = summed(self._counts, read(text) or None)

    def finalize(self) -> str:
        return text_of(self._counts)


def register(database: sqlite3.Connection) -> None:
    """Let statements call `add_counts`, and the aggregate `sum_counts`."""
    database.create_function("add_counts", 2, _added_texts, deterministic=True)
    database.create_aggregate("sum_counts", 1, _Sum)  # type: ignore[arg-type] # typeshed wants it to return an int
