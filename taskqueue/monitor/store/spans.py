"""Sums of the minutes of all tenants: the tables `type_sum` and `all_sum`.

The minutes of many tenants are too many rows to add up for a page. So a write adds its counts to the sums of
each span as well, by worker type and state, and by state alone. A row is about `span` seconds, from `at` on.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from taskqueue.monitor.store.database import Database
from taskqueue.monitor.store.histograms import Counts, summed, text_of

_HOUR: Final = 3600
#: Seconds of a sum; each divides the next one.
SPANS: Final = (60, 600, _HOUR, 86400)
_ANY: Final = f"span IN ({', '.join(map(str, SPANS))})"  # by the index
_SHORT: Final = tuple(span for span in SPANS if span < _HOUR)
_TABLES: Final = ("type_sum", "all_sum")

#: The end of a statement that inserts sums.
ADD_BY_TYPE: Final = (
    "ON CONFLICT(span, at, type, state) DO UPDATE "
    "SET count = type_sum.count + excluded.count, run = type_sum.run + excluded.run, "
    "runs = add_counts(type_sum.runs, excluded.runs), waits = add_counts(type_sum.waits, excluded.waits)"
)
ADD_ALL: Final = "ON CONFLICT(span, at, state) DO UPDATE SET count = all_sum.count + excluded.count"

_LONGER: Final = "\n".join(
    f"INSERT INTO type_sum SELECT {span}, at - (at % {span} + {span}) % {span}, type, state, "  # noqa: S608 -- no input
    f"sum(count), sum(run) FROM type_sum WHERE span = {part} GROUP BY 2, 3, 4;"
    for part, span in pairwise(SPANS)
)
#: A script that fills empty tables from the minutes.
FILL: Final = f"""
INSERT INTO type_sum SELECT 60, at, type, state, sum(count), sum(run) FROM minute GROUP BY at, type, state;
{_LONGER}
INSERT INTO all_sum SELECT span, at, state, sum(count) FROM type_sum GROUP BY span, at, state;
"""  # noqa: S608 -- no input

_LONGER_TIMES: Final = "\n".join(
    f"INSERT INTO type_sum SELECT {span}, at - (at % {span} + {span}) % {span}, type, state, "  # noqa: S608 -- no input
    f"sum(count), sum(run), sum_counts(runs), sum_counts(waits) FROM type_sum WHERE span = {part} "
    "GROUP BY 2, 3, 4;"
    for part, span in pairwise(SPANS)
)
#: A script that gives sums of a version without histograms these, from the minutes.
FILL_TIMES: Final = f"""
ALTER TABLE type_sum ADD COLUMN runs TEXT NOT NULL DEFAULT '';
ALTER TABLE type_sum ADD COLUMN waits TEXT NOT NULL DEFAULT '';
DELETE FROM type_sum;
INSERT INTO type_sum SELECT 60, at, type, state, sum(count), sum(run), sum_counts(runs), sum_counts(waits)
    FROM minute GROUP BY at, type, state;
{_LONGER_TIMES}
"""  # noqa: S608 -- no input

#: Of a count: minute, worker type and state.
Key = tuple[int, Any, int]


@dataclass(slots=True)
class Sums:
    """Sums: workitems, seconds of runs, and histograms of run and wait times."""

    count: int = 0
    run: float = 0.0
    runs: Counts = None
    waits: Counts = None

    def add(self, count: int, run: float, runs: Counts, waits: Counts) -> None:
        """Add more."""
        self.count, self.run = self.count + count, self.run + run
        self.runs, self.waits = summed(self.runs, runs), summed(self.waits, waits)


def rows_of(counts: Mapping[Key, Sums]) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Return the rows of `type_sum` and of `all_sum` for the sums of minutes."""
    by_type: dict[tuple[int, int, Any, int], Sums] = {}
    all_: dict[tuple[int, int, int], int] = {}
    for (at, type_, state), sums in counts.items():
        for span in SPANS:
            begin = at // span * span
            by_type.setdefault((span, begin, type_, state), Sums()).add(
                sums.count, sums.run, sums.runs, sums.waits
            )
            all_[span, begin, state] = all_.get((span, begin, state), 0) + sums.count
    rows = [
        (*key, each.count, each.run, text_of(each.runs), text_of(each.waits)) for key, each in by_type.items()
    ]
    return rows, [(*key, count) for key, count in all_.items()]


def save(database: Database, counts: Mapping[Key, Sums]) -> None:
    """Add the counts of minutes to the sums of an SQLite database."""
    by_type, all_ = rows_of(counts)
    database.executemany(f"INSERT INTO type_sum VALUES(?, ?, ?, ?, ?, ?, ?, ?) {ADD_BY_TYPE}", by_type)
    database.executemany(f"INSERT INTO all_sum VALUES(?, ?, ?, ?) {ADD_ALL}", all_)


def roll_up(database: Database, hour: int) -> None:
    """Let an hour that has no minutes any more have one sum of each shorter span."""
    for table in _TABLES:
        columns = "at, type, state, count, run, runs, waits" if table == "type_sum" else "at, state, count"
        for span in _SHORT:
            database.execute(
                f"DELETE FROM {table} WHERE span = ? AND at >= ? AND at < ?",  # noqa: S608 -- no input
                (span, hour, hour + _HOUR),
            )
            database.execute(
                f"INSERT INTO {table} SELECT {span}, {columns} FROM {table} WHERE span = ? AND at = ?",  # noqa: S608 -- no input
                (_HOUR, hour),
            )


def forget(database: Database, before: int) -> None:
    """Remove the sums that begin before a time."""
    for table in _TABLES:
        database.execute(f"DELETE FROM {table} WHERE {_ANY} AND at < ?", (before,))  # noqa: S608 -- no input


def pieces(since: int, until: int, spans: Sequence[int] = SPANS) -> Iterator[tuple[int, int, int]]:
    """Yield the fewest pieces of a time, each with a span that divides its begin and its end."""
    *shorter, span = spans
    begin, end = -(-since // span) * span, until // span * span
    if begin < end:
        yield span, begin, end
    else:
        begin = end = until
    if shorter:
        if since < begin:
            yield from pieces(since, begin, shorter)
        if end < until:
            yield from pieces(end, until, shorter)
