"""The sums of all tenants: they agree with the minutes, which have each tenant apart."""

import contextlib
import itertools
import sqlite3
from collections import Counter
from random import Random

import pytest
from support.record import CONSUMER, DISPATCHER, KEEP, NOON, Stream

from taskqueue.messages.events import FAILED, SUCCEEDED, Ended, Routed
from taskqueue.monitor.record import Scope
from taskqueue.monitor.store import schema
from taskqueue.monitor.store.opening import open_store
from taskqueue.monitor.store.postgresql import schema as tables
from taskqueue.monitor.store.reading import Record
from taskqueue.monitor.store.spans import SPANS, pieces

DAY = 86400.0
BEGIN = NOON - 3 * DAY


def fill(store, stream: Stream, count: int = 300) -> None:
    """Record ends of three days, of several types and tenants, two of each minute."""
    random = Random(7)
    for begin in range(0, count, 30):
        batches = []
        for number in range(begin, begin + 30):
            at = BEGIN + number * 3 * DAY / count + random.random() * 100
            type_, tenant = f"type{random.randrange(3)}", f"tenant{random.randrange(4)}"
            state = random.choice([SUCCEEDED, FAILED])
            for id_ in (f"a{number}", f"b{number}"):
                end = Ended(id_, type_, 1, state, state, at, at - random.randrange(9), tenant=tenant)
                route = Routed(id_, type_, at - 20, 17, tenant=tenant)
                batches += [stream.batch(DISPATCHER, route), stream.batch(CONSUMER, end)]
        store.write(batches, at)


def by_type(minutes):
    found = Counter()
    for each in minutes:
        found[each.worker_type, each.state] += each.count
        found[each.worker_type, each.state, "seconds"] += round(each.run_seconds)
    return +found


def times_of(minutes):
    found = {}
    for each in minutes:
        told = found.setdefault(each.worker_type, ((), ()))
        more = (each.run_histogram, each.wait_histogram)
        found[each.worker_type] = tuple(added(old, new) for old, new in zip(told, more, strict=True))
    return found


def added(old, new):
    return tuple(map(sum, zip(old, new, strict=True))) if old and new else old or new


def by_time(minutes, since, step):
    found = Counter()
    for each in minutes:
        found[since + (each.at - since) // step * step, each.state] += each.count
    return found


def check(record: Record, since: float, until: float, step: int, types=None) -> None:
    """Compare the sums of a time with its minutes."""
    minutes = [each for each in record.minutes(since, until) if types is None or each.worker_type in types]
    scope = Scope(since, until, types)
    sums = record.sums_by_type(scope)
    told = Counter({(each.worker_type, each.state): each.count for each in sums})
    told += Counter({(each.worker_type, each.state, "seconds"): round(each.run_seconds) for each in sums})
    assert told == by_type(minutes)
    times = record.times_by_type(scope)
    histograms = {each.worker_type: (each.run_histogram, each.wait_histogram) for each in times}
    assert histograms == times_of(minutes)
    found = {(each.at, each.state): each.count for each in record.sums_by_time(scope, step)}
    assert found == by_time(minutes, int(since), step)


def check_all(record: Record) -> None:
    for length, step in ((3600, 60), (DAY, 1200), (7 * DAY, 7200), (5000.5, 60), (700, 7200)):
        for until in (NOON + 120, NOON - 7.5, NOON - DAY - 1801):
            check(record, (until - length) // step * step, until, step)
            check(record, until - length, until, step, ["type0", "type2", "none"])
    assert sum(each.count for each in record.sums_by_type(Scope(BEGIN - DAY, NOON + DAY))) == 1200
    assert record.sums_by_type(Scope(NOON, NOON)) == record.sums_by_time(Scope(NOON, NOON - 1), 60) == []


def test_sums_agree_with_the_minutes(store, stream, record):
    fill(store, stream)
    check_all(record)
    scope = Scope(BEGIN, NOON + DAY, None, ["tenant1"])
    own = [each for each in record.minutes(BEGIN, NOON + DAY) if each.tenant == "tenant1"]
    assert sum(each.count for each in record.sums_by_type(scope)) == sum(each.count for each in own) > 0


def test_sums_agree_with_the_minutes_once_these_are_added_up_to_hours(store, stream, record):
    fill(store, stream, 60)
    now = NOON + 7 * DAY
    for _ in range(60):
        store.add_up(now)
    late = Ended("late", "type1", 1, SUCCEEDED, SUCCEEDED, BEGIN + 1000, BEGIN + 900, tenant="tenant2")
    store.write([stream.batch(CONSUMER, late)], now)
    minutes = record.minutes(0, 1e11)
    assert 0 < sum(each.at % 3600 == 0 for each in minutes) < len(minutes)
    for since, until in ((BEGIN - DAY, NOON + DAY), (BEGIN, NOON), (BEGIN + 3600, BEGIN + 9 * 3600 + 60)):
        check(record, since, until, 7200)
        check(record, since, until, 60)


def test_sums_are_forgotten_with_their_minutes(store, stream, record):
    fill(store, stream, 30)
    store.prune(NOON, KEEP, DAY, 10**12)
    check(record, NOON - DAY, NOON + DAY, 7200)
    store.prune(NOON + 9 * DAY, KEEP, DAY, 10**12)
    assert record.sums_by_type(Scope(0, NOON + DAY)) == record.sums_by_time(Scope(0, NOON + DAY), 60) == []


def test_a_record_without_sums_gets_them_from_its_minutes(tmp_path, database, stream):
    with open_store(tmp_path, database) as store:
        assert store.acquire()
        fill(store, stream)
    undo(tmp_path / "live.db", database)
    with open_store(tmp_path, database) as store, Record(tmp_path, database) as record:
        assert store.acquire()
        check_all(record)


EARLIER = """
DROP TABLE type_sum;
DROP TABLE all_sum;
DROP TABLE cancel;
CREATE TABLE cancel(no INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, at double precision NOT NULL);
"""


def undo(path, url) -> None:
    """Make a record one of the version that had no sums, and no tenants of cancels."""
    if url is None:
        version = next(n for n, script in enumerate(schema.LIVE) if "type_sum" in script)
        with contextlib.closing(sqlite3.connect(path)) as file:
            trigger = (
                "CREATE TRIGGER over AFTER DELETE ON live BEGIN DELETE FROM cancel WHERE id = old.id; END"
            )
            earlier = EARLIER.replace("double precision", "REAL")
            file.executescript(f"DROP TRIGGER over; {earlier} {trigger}; PRAGMA user_version={version}")
        return
    from taskqueue.monitor.store.postgresql.session import Session  # noqa: PLC0415 -- needs psycopg

    version = next(n for n, script in enumerate(tables.VERSIONS) if "type_sum" in script)
    session = Session(url)
    session.connection.execute(EARLIER)
    session.execute("DROP AGGREGATE sum_counts(text)")
    session.execute("DROP FUNCTION add_counts(text, text)")
    session.execute("UPDATE state SET version = ?", (version,))
    session.close()


@pytest.mark.parametrize(
    ("since", "until"), [(0, 86400 * 8), (60, 86400 * 3 + 660), (540, 4260), (-86460, 60), (120, 180)]
)
def test_the_pieces_of_a_time_are_whole_spans_and_follow_each_other(since, until):
    found = sorted((begin, end, span) for span, begin, end in pieces(since, until))
    assert found[0][0] == since
    assert found[-1][1] == until
    assert all(end == begin for (_, end, _), (begin, _, _) in itertools.pairwise(found))
    assert all(begin % span == end % span == 0 for begin, end, span in found)
    assert len(found) <= 2 * len(SPANS) - 1
