"""Retention in the store: by age, by size, and minutes that are added up to hours."""

from support.record import CONSUMER, DISPATCHER, FILES, KEEP, NOON, failed, routed, rows, states, succeeded

from taskqueue.messages.events import LogLine, Rejected
from taskqueue.monitor.record import Action
from taskqueue.monitor.store import names

# --- retention ---


def ends_of_days(stream, *days):
    times = [(day, NOON - day * 86400) for day in days]
    return [stream.batch(CONSUMER, succeeded(f"s{day}", at), failed(f"f{day}", at)) for day, at in times]


def test_each_state_is_kept_for_its_time(store, stream, record, tmp_path):
    store.write([stream.batch(DISPATCHER)], NOON - 200 * 86400)
    store.write(ends_of_days(stream, 0, 7, 8, 90, 91), NOON)
    assert len(states(record)) == 10
    store.prune(NOON, KEEP, 1e9, 10**12)
    assert states(record).keys() == {"s0", "s7", "f0", "f7", "f8", "f90"}
    assert record.began_at() == NOON + 43200 - 8 * 86400
    assert not list(tmp_path.glob("2024-10-02*"))


@FILES
def test_the_oldest_days_are_removed_beyond_a_size(store, stream, record):
    store.write(ends_of_days(stream, 0, 1, 2, 3))
    size = store._size()
    names = store.prune(NOON, KEEP, 1e9, size - 1)
    assert names == ["2024-12-29.failed.db"]
    store.prune(NOON, KEEP, 1e9, 0)
    assert states(record).keys() == {"s0", "f0"}


def test_minutes_gaps_and_audit_are_kept_for_their_time(store, stream, record):
    store.write([stream.batch(CONSUMER, succeeded("a"))], NOON)
    stream.lose(CONSUMER, 1)
    store.write([stream.batch(CONSUMER, succeeded("b"), LogLine("x", NOON, "w", "INFO", "of nobody"))], NOON)
    store.add_action(Action(NOON, "ann", "retry", "{}", 3))
    store.prune(NOON + 99, KEEP, 100, 10**12)
    assert record.minutes(0, 1e10)
    assert record.gaps()
    assert record.actions()
    assert record.logs("x")
    store.prune(NOON + 91 * 86400, KEEP, 100, 10**12)
    assert (
        not record.minutes(0, 1e10) + record.gaps() + record.actions() + record.logs("x") + record.emitters()
    )


def test_workitems_that_nothing_is_heard_of_are_forgotten(store, stream, record):
    some = [routed("a"), routed("b", due=NOON + 10 * 86400)]
    store.write([stream.batch(DISPATCHER, *some)])
    store.prune(NOON + 89 * 86400, KEEP, 1e9, 10**12)
    assert states(record).keys() == {"a", "b"}
    store.prune(NOON + 91 * 86400, KEEP, 1e9, 10**12)
    assert states(record).keys() == {"b"}
    assert record.types()[0].waiting == 1


def test_only_lines_of_unknown_workitems_are_forgotten(store, stream, record):
    lines = [LogLine(id_, NOON, "w", "INFO", "said") for id_ in ("a", "x")]
    route = routed("a", due=NOON + 100 * 86400)
    store.write([stream.batch(DISPATCHER, route), stream.batch(CONSUMER, *lines)])
    store.prune(NOON + 89 * 86400, KEEP, 1e9, 10**12)
    assert [len(record.logs(id_)) for id_ in ("a", "x")] == [1, 1]
    store.prune(NOON + 91 * 86400, KEEP, 1e9, 10**12)
    assert [len(record.logs(id_)) for id_ in ("a", "x")] == [1, 0]
    late = [LogLine(id_, NOON + 91 * 86400, "w", "INFO", "more") for id_ in ("a", "x")]
    store.write([stream.batch(CONSUMER, *late)])
    assert [[line.number for line in record.logs(id_)] for id_ in ("a", "x")] == [[0, 1], [0]]


@FILES
def test_forgetting_does_not_read_all_workitems_that_are_not_over(store, stream, tmp_path):
    some = [routed("a"), LogLine("a", NOON, "w", "INFO", "said"), LogLine("x", NOON, "w", "INFO", "said")]
    store.write([stream.batch(CONSUMER, *some)])
    statements = []
    store._database.set_trace_callback(statements.append)
    store.prune(NOON + 89 * 86400, KEEP, 1e9, 10**12)
    looked = [each for each in statements if " live" in each]
    plans = [row[3] for each in looked for row in rows(tmp_path / "live.db", f"EXPLAIN QUERY PLAN {each}")]
    assert any(each.startswith("SEARCH live USING") for each in plans)
    assert not [each for each in plans if each.startswith("SCAN live")]


@FILES
def test_names_that_producers_invent_are_bounded_and_forgotten_once_nothing_has_them(
    store, stream, record, monkeypatch
):
    monkeypatch.setattr(names, "MOST", 20)
    store.write([stream.batch(DISPATCHER, routed("mine"))], NOON)
    invented = [Rejected(f"r{n}", f"type{n}", NOON, "unknown", tenant=f"tenant{n}") for n in range(100)]
    store.write([stream.batch(DISPATCHER, *invented)], NOON)
    assert sum(minute.count for minute in record.minutes(0, 1e10)) == 101
    assert len(record.names()) <= 22
    store.prune(NOON + 200, KEEP, 100, 10**12)
    store.write([stream.batch(DISPATCHER, Rejected("new", "fresh", NOON + 200, "unknown"))], NOON + 200)
    assert "fresh" in {minute.worker_type for minute in record.minutes(0, 1e10)}
    assert record.find("mine").workitem.worker_type == "thumbs"


# --- minutes that are added up ---


def add_up(store, now, hours):
    for _ in range(hours):
        store.prune(now, KEEP, 365 * 86400.0, 10**12)
        store.add_up(now)


def sums(record):
    """Return the times of the rows, and the sums of all numbers by type and state."""
    found = {}
    for minute in record.minutes(0, 1e11):
        old = found.get((minute.worker_type, minute.state), (0, 0.0, 0.0, (), ()))
        found[minute.worker_type, minute.state] = (
            old[0] + minute.count,
            old[1] + minute.run_seconds,
            old[2] + minute.wait_seconds,
            tuple(map(sum, zip(*filter(None, (old[3], minute.run_histogram)), strict=True))),
            tuple(map(sum, zip(*filter(None, (old[4], minute.wait_histogram)), strict=True))),
        )
    return found


WEEK = 8 * 86400 + 3600  # seconds for which minutes are kept


def times(record):
    return sorted({minute.at - NOON for minute in record.minutes(0, 1e11)})


def test_old_minutes_are_added_up_to_hours_and_nothing_is_lost(store, stream, record):
    for minute in range(0, 180, 9):
        at = NOON + 60.0 * minute
        crash = failed(f"f{minute}", at + 30, error="killed by SIGSEGV")._replace(outcome="crashed")
        ends = stream.batch(CONSUMER, succeeded(f"s{minute}", at + 20), crash)
        store.write([stream.batch(DISPATCHER, routed(f"s{minute}", at)), ends], at)
    before, crashes = sums(record), sum(each.count for each in record.crashes(0, 1e11))
    assert len(times(record)) == 20
    add_up(store, NOON + WEEK + 7200, 3)
    assert times(record) == [0, 3600, *(60.0 * minute for minute in range(126, 180, 9))], "not yet the third"
    assert sums(record) == before
    add_up(store, NOON + WEEK + 86400, 2)
    assert times(record) == [0, 3600, 7200]
    assert sums(record) == before
    assert [each.at - NOON for each in record.crashes(0, 1e11)] == [0, 3600, 7200]
    assert sum(each.count for each in record.crashes(0, 1e11)) == crashes == 20


def test_what_is_told_late_of_an_old_minute_counts_in_its_hour(store, stream, record):
    store.write([stream.batch(DISPATCHER, routed("a", NOON + 60))], NOON)
    add_up(store, NOON + WEEK + 86400, 2)
    late = [routed("b", NOON + 240), routed("c", NOON + 600), routed("d", NOON + 3660)]
    store.write([stream.batch(DISPATCHER, *late)], NOON + WEEK + 86400)
    assert times(record) == [0, 3600]
    assert [minute.count for minute in record.minutes(0, 1e11)] == [3, 1]


def test_a_long_history_is_added_up_by_and_by(store, stream, record):
    for hour in range(5):
        at = NOON + 3600 * hour + 60
        store.write([stream.batch(DISPATCHER, routed(f"a{hour}", at))], at)
    for rolled in (1, 2, 3, 4, 5, 5):
        add_up(store, NOON + WEEK + 90 * 86400, 1)
        assert times(record) == [3600 * hour + (0 if hour < rolled else 60) for hour in range(5)]
