"""The store of the monitor: workitems, their output, counts and cancels, written and read."""

import time

import pytest
from support.record import CONSUMER, DISPATCHER, FILES, NOON, RETRY, failed, routed, rows, states, succeeded

from taskqueue.messages import events
from taskqueue.messages.events import Begun, Cancelled, LogLine, ProcessState, Progress, Rejected, Retried
from taskqueue.monitor.record import Action, Filter, LogEntry
from taskqueue.monitor.store.reading import Record
from taskqueue.monitor.store.store import Store
from taskqueue.monitor.web.plain import plain

# --- one workitem ---


def test_a_workitem_is_followed_from_queued_to_its_end(store, stream, record):
    store.write([stream.batch(DISPATCHER, routed("a", tenant="acme", labels="x y", head='{"n": 1}'))], NOON)
    found = record.find("a").workitem
    assert (found.state, found.queued, found.size, found.tenant, found.labels, found.head) == (
        "queued", NOON, 17, "acme", ("x", "y"), '{"n": 1}'
    )  # fmt: skip
    store.write([stream.batch(CONSUMER, Begun("a", "thumbs", 1, NOON + 1, "w1", "acme"))])
    assert record.find("a").workitem.state == "running"
    store.write([stream.batch(CONSUMER, Progress("a", NOON + 2, 0.5, "half", "acme"))])
    assert record.find("a").progress == (0.5, "half")
    end = failed(
        "a", NOON + 3, state=events.RETRYING, again_at=NOON + 9, error="KeyError: 'x'", tenant="acme"
    )
    store.write([stream.batch(CONSUMER, end._replace(traceback="T"))])
    found = record.find("a").workitem
    assert (found.state, found.again_at, found.error) == ("retrying", NOON + 9, "KeyError: 'x'")
    end = succeeded("a", NOON + 11, 2, content_type="text/plain", result="b2s=", tenant="acme")
    store.write([stream.batch(CONSUMER, end)])
    details = record.find("a")
    found = details.workitem
    assert (found.state, found.attempts, found.ended, found.error, found.again_at, found.head) == (
        "succeeded", 2, NOON + 11, "", None, '{"n": 1}'
    )  # fmt: skip
    assert [(run.attempt, run.outcome, run.traceback, run.host) for run in details.runs] == [
        (1, "failed", "T", "host2"), (2, "succeeded", "", "host2")
    ]  # fmt: skip
    assert (details.content_type, details.result, details.progress) == ("text/plain", b"ok", None)
    assert record.find("b") is None


def test_the_user_and_the_timeout_of_a_run_are_known_while_it_runs(store, stream, record):
    store.write([stream.batch(DISPATCHER, routed("a"))], NOON)
    begun = Begun("a", "thumbs", 1, NOON + 1, "w1", user="north", timeout=90.0)
    store.write([stream.batch(CONSUMER, begun)])
    found = record.find("a").workitem
    assert (found.user, found.timeout) == ("north", 90.0)
    end = failed("a", NOON + 9)._replace(user="north", omitted="result traceback")
    store.write([stream.batch(CONSUMER, end)])
    found = record.find("a").workitem
    assert (found.user, found.timeout) == ("north", None)
    assert found.omitted == ("result", "traceback")
    store.write([stream.batch(DISPATCHER, routed("a", NOON + 600))])
    assert record.find("a").workitem.omitted == (), "it came again"


def outcomes(record, id_):
    return [(run.attempt, run.outcome, run.started, run.ended) for run in record.find(id_).runs]


@pytest.mark.parametrize("is_long", [True, False])
def test_a_run_that_ended_with_its_consumer_is_kept_when_the_workitem_runs_again(
    store, stream, record, is_long
):
    successor = CONSUMER._replace(pid=CONSUMER.pid + 1, started=NOON + 50)
    store.write([stream.batch(DISPATCHER, routed("a"))])
    store.write([stream.batch(CONSUMER, Begun("a", "thumbs", 1, NOON + 1, "w1"))])
    if is_long:
        store.write([stream.batch(successor, Begun("a", "thumbs", 1, NOON + 60, "w1"))])
        assert outcomes(record, "a") == [(1, "lost", NOON + 1, NOON + 60)]
    end = succeeded("a", NOON + 62)._replace(started=NOON + 60)
    store.write([stream.batch(successor, end)])
    lost = (1, "lost", NOON + 1, NOON + 60)
    assert outcomes(record, "a") == [lost, (1, "succeeded", NOON + 60, NOON + 62)]
    assert (record.find("a").runs[0].error, record.find("a").workitem.state) == (
        *("its consumer was killed", "succeeded"),
    )


def test_a_workitem_that_comes_back_after_a_run_that_was_not_told_says_so(store, stream, record):
    store.write([stream.batch(DISPATCHER, routed("a", NOON))])
    second = CONSUMER._replace(pid=CONSUMER.pid + 1)
    third = CONSUMER._replace(pid=CONSUMER.pid + 2)
    store.write([stream.batch(second, Begun("a", "thumbs", 1, NOON + 1, "w1", redelivered=1))])
    assert [each["what"] for each in plain(record.find("a"))["time_line"]] == [
        "queued",
        "came back",
        "started",
    ]
    store.write([stream.batch(third, Begun("a", "thumbs", 1, NOON + 1.5, "w1", redelivered=1))])
    assert outcomes(record, "a") == [(1, "lost", NOON + 1, NOON + 1.5)]
    store.write([stream.batch(third, succeeded("a", NOON + 2.5)._replace(started=NOON + 1.5))])
    assert [each["what"] for each in plain(record.find("a"))["time_line"]] == [
        *("queued", "came back", "started", "lost", "started", "succeeded"),
    ]


def test_a_run_that_was_taken_for_lost_and_ends_is_there_once(store, stream, record):
    other = CONSUMER._replace(pid=CONSUMER.pid + 1)
    store.write([stream.batch(CONSUMER, Begun("a", "thumbs", 1, NOON + 1, "w1"))])
    store.write([stream.batch(other, Begun("a", "thumbs", 1, NOON + 60, "w2"))])
    store.write([stream.batch(CONSUMER, succeeded("a", NOON + 70)._replace(started=NOON + 1.01))])
    assert outcomes(record, "a") == [(1, "succeeded", NOON + 1.01, NOON + 70)]


@FILES
def test_a_workitem_that_ends_in_the_write_in_which_it_was_routed_is_written_once(store, stream, tmp_path):
    store.write([stream.batch(DISPATCHER, routed("a")), stream.batch(CONSUMER, succeeded("a"))])
    with Record(tmp_path) as record:
        (run,) = record.find("a").runs
    assert (run.outcome, run.started, run.ended, run.worker) == ("succeeded", NOON + 1, NOON + 2, "w1")
    assert rows(tmp_path / "2025-01-01.succeeded.db", "SELECT id, more FROM done") == [("a", None)]
    assert rows(tmp_path / "live.db", "SELECT count(*) FROM live") == [(0,)]
    assert rows(tmp_path / "live.db", "SELECT count(*) FROM tally") == [(0,)]


def test_an_end_is_kept_if_the_workitem_is_routed_later(store, stream, record):
    store.write([stream.batch(CONSUMER, succeeded("a", NOON + 2))])
    store.write([stream.batch(DISPATCHER, routed("a", NOON, head="body"))])
    (found,) = record.page(Filter()).workitems
    assert (found.state, found.queued, found.head) == ("succeeded", NOON, "body")
    assert record.page(Filter(body_text="body")).workitems == (found,)


def test_a_late_route_from_a_host_whose_clock_is_ahead_does_not_reopen_a_workitem(store, stream, record):
    store.write([stream.batch(CONSUMER, succeeded("a", NOON))])
    store.write([stream.batch(DISPATCHER, routed("a", NOON + 120))])
    assert states(record) == {"a": "succeeded"}


def test_an_end_from_a_host_whose_clock_is_behind_ends_a_workitem(store, stream, record):
    store.write([stream.batch(DISPATCHER, routed("a", NOON))])
    store.write([stream.batch(CONSUMER, succeeded("a", NOON - 120))])
    assert states(record) == {"a": "succeeded"}


def test_a_retried_dead_letter_is_one_workitem_again(store, stream, record):
    store.write([stream.batch(DISPATCHER, routed("a")), stream.batch(CONSUMER, failed("a", error="Oops"))])
    assert states(record, error_text="oops") == {"a": "failed"}
    store.write([stream.batch(DISPATCHER, routed("a", NOON + 60))])
    assert states(record) == {"a": "queued"}
    assert states(record, error_text="oops") == {}
    store.write([stream.batch(CONSUMER, succeeded("a", NOON + 62))])
    assert states(record) == {"a": "succeeded"}
    assert [run.outcome for run in record.find("a").runs] == ["failed", "succeeded"]


@pytest.mark.parametrize("days", [0, 9])
def test_a_retry_by_hand_puts_a_workitem_back_among_those_that_wait(store, stream, record, days):
    later = NOON + days * 86400 + 60
    store.write([stream.batch(DISPATCHER, routed("a")), stream.batch(CONSUMER, failed("a", NOON + 2))])
    retried = Retried("a", "thumbs", later, failed=NOON + 2.0004)
    store.write([stream.batch(RETRY, retried)])
    found = record.find("a")
    assert (found.workitem.state, found.workitem.queued, found.retried) == ("queued", later, (later,))
    assert [run.outcome for run in found.runs] == ["failed"]
    assert states(record) == {"a": "queued"}
    told = [each["what"] for each in plain(found)["time_line"]]
    assert told == ["started", "failed", "retried"]
    store.write([stream.batch(CONSUMER, succeeded("a", later + 2)), stream.batch(RETRY, retried)])
    told = [each["what"] for each in plain(record.find("a"))["time_line"]]
    assert told == ["started", "failed", "retried", "started", "succeeded"]
    assert states(record) == {"a": "succeeded"}


def test_a_retry_that_is_told_after_the_next_end_changes_no_state(store, stream, record):
    store.write(
        [stream.batch(CONSUMER, failed("a", NOON + 2)), stream.batch(CONSUMER, failed("a", NOON + 10))]
    )
    ahead = Retried("a", "thumbs", NOON + 20, failed=NOON + 2)  # by a clock that is ahead
    store.write([stream.batch(RETRY, ahead)])
    assert (states(record), record.find("a").retried) == ({"a": "failed"}, (NOON + 20,))
    unknown = Retried("b", "thumbs", NOON + 20)
    store.write([stream.batch(RETRY, unknown)])
    assert states(record) == {"a": "failed"}


def test_a_rejected_message_that_is_retried_waits_to_be_routed(store, stream, record):
    store.write([stream.batch(DISPATCHER, Rejected("a", "", NOON, "no worker type"))])
    store.write([stream.batch(RETRY, Retried("a", "", NOON + 5, NOON, is_routed=0))])
    assert states(record) == {"a": "queued"}
    store.write([stream.batch(DISPATCHER, routed("a", NOON + 6))])
    assert (states(record), record.find("a").workitem.worker_type) == ({"a": "queued"}, "thumbs")


def test_a_dead_letter_that_begins_again_is_running(store, stream, record):
    store.write([stream.batch(CONSUMER, failed("a"))])
    store.write([stream.batch(CONSUMER, Begun("a", "thumbs", 1, NOON + 60, "w1"))])
    assert states(record) == {"a": "running"}


def test_what_is_rejected_or_cancelled_is_over(store, stream, record):
    store.write([stream.batch(DISPATCHER, Rejected("r", "", NOON, "no type", 3, head="?"), routed("c"))])
    store.write([stream.batch(CONSUMER, Cancelled("c", "thumbs", NOON + 1))])
    assert states(record) == {"r": "rejected", "c": "cancelled"}
    assert record.find("r").workitem.error == "no type"


def test_a_scheduled_workitem_is_queued_once_it_is_due(store, stream, record):
    store.write([stream.batch(DISPATCHER, routed("past", due=NOON + 5), routed("future", due=4e9))])
    assert states(record) == {"past": "queued", "future": "scheduled"}
    assert states(record, states=frozenset(["scheduled"])) == {"future": "scheduled"}
    assert states(record, states=frozenset(["queued"])) == {"past": "queued"}
    assert record.types()[0].waiting == 2


def test_a_running_workitem_is_lost_if_its_emitter_is_silent(store, stream, record):
    store.write([stream.batch(CONSUMER, Begun("a", "thumbs", 1, NOON, "w1"))], NOON)
    assert states(record) == states(record, states=frozenset(["lost"])) == {"a": "lost"}
    assert states(record, states=frozenset(["running"])) == {}
    store.write([stream.batch(CONSUMER, ProcessState(NOON, "takes work"))])
    assert states(record) == states(record, states=frozenset(["running"])) == {"a": "running"}


# --- output ---


@FILES
def test_lines_are_kept_with_their_workitem(store, stream, record, tmp_path):
    store.write([stream.batch(CONSUMER, LogLine("a", NOON, "w1", "stdout", "early"))])
    store.write([stream.batch(DISPATCHER, routed("a"))])
    store.write(
        [stream.batch(CONSUMER, LogLine("a", NOON + 1, "w1", "INFO", "while it runs"), succeeded("a"))]
    )
    store.write([stream.batch(CONSUMER, LogLine("a", NOON + 3, "w1", "stderr", "late"))])
    assert [line.text for line in record.logs("a")] == ["early", "while it runs", "late"]
    assert rows(tmp_path / "live.db", "SELECT count(*) FROM log") == [(0,)]
    assert record.logs("a", after=1) == [LogEntry(2, NOON + 3, "w1", "stderr", "late")]
    store.write([stream.batch(DISPATCHER, routed("a", NOON + 60))])
    store.write([stream.batch(CONSUMER, LogLine("a", NOON + 61, "w1", "INFO", "again"))])
    assert [line.number for line in record.logs("a")] == [0, 1, 2, 3]


@pytest.mark.parametrize("step", [1, 7, 4000])
def test_the_first_and_the_last_lines_of_many_are_kept(store, stream, record, step):
    lines = [LogLine("a", NOON + n, "w1", "stdout", f"{n} " + "x" * 9000 * (n == 0)) for n in range(4000)]
    for first in range(0, 4000, 100 * step):
        store.write([stream.batch(CONSUMER, *lines[first : first + 100 * step])])
    expected = [*range(100), *range(3100, 4000)]
    assert [line.number for line in record.logs("a", limit=4000)] == expected
    store.write([stream.batch(CONSUMER, succeeded("a"))])
    found = record.logs("a", limit=4000)
    assert [int(line.text.split()[0]) for line in found] == expected
    assert len(found[0].text) == 8192
    store.write(
        [stream.batch(CONSUMER, *[LogLine("a", NOON, "w1", "stdout", f"{n}") for n in range(4000, 4500)])]
    )
    assert [line.number for line in record.logs("a", limit=4000)] == [*range(100), *range(3600, 4500)]


# --- counts ---


def test_minutes_count_with_times_and_histograms(store, stream, record):
    first = [routed("a"), routed("b", NOON + 59), routed("c", NOON + 60)]
    store.write([stream.batch(DISPATCHER, *first), stream.batch(CONSUMER, succeeded("a", NOON + 5))])
    store.write(
        [stream.batch(CONSUMER, succeeded("b", NOON + 61), failed("c", NOON + 62, state=events.RETRYING))]
    )
    found = {(each.at - NOON, each.state): each for each in record.minutes(NOON, NOON + 120, "thumbs")}
    assert {key: each.count for key, each in found.items()} == {
        (0, "queued"): 2, (60, "queued"): 1, (0, "succeeded"): 1, (60, "succeeded"): 1, (60, "retrying"): 1
    }  # fmt: skip
    minute = found[0, "succeeded"]
    assert (minute.run_seconds, minute.wait_seconds) == (1.0, 4.0)
    assert minute.run_histogram.index(1) == 6  # up to 1 s
    assert minute.wait_histogram.index(1) == 8  # up to 10 s
    assert found[0, "queued"].run_histogram == ()
    assert record.minutes(NOON, NOON + 120, "other") == []


def test_types_have_what_waits_and_what_ended(store, stream, record):
    now = time.time()
    store.write([stream.batch(DISPATCHER, *[routed(f"{n}", now - 60 + n) for n in range(5)])])
    store.write([stream.batch(CONSUMER, Begun("0", "thumbs", 1, now, "w1"), succeeded("1", now))])
    store.write([stream.batch(CONSUMER, failed("2", now, state=events.RETRYING))])
    (row,) = record.types()
    assert (row.worker_type, row.waiting, row.running, row.retrying) == ("thumbs", 2, 1, 1)
    assert row.ends == {"succeeded": 1}
    assert 57 <= row.oldest < 100
    store.write([stream.batch(CONSUMER, *[succeeded(f"{n}", now, 2) for n in (0, 2, 3, 4)])])
    (row,) = record.types()
    assert (row.waiting, row.running, row.retrying, row.oldest) == (0, 0, 0, None)


# --- cancels ---


def keys(*ids, tenant=""):
    return [(tenant, id_) for id_ in ids]


def test_a_cancel_of_one_tenant_says_nothing_of_another_ones_workitem(store, stream):
    north, south = routed("a")._replace(tenant="north"), routed("a")._replace(tenant="south")
    store.write([stream.batch(DISPATCHER, north)])
    store.cancels.keep(keys("a", tenant="south"), NOON)
    assert store.cancels.kept(NOON) == []
    store.write([stream.batch(DISPATCHER, south)])
    store.cancels.keep(keys("a", tenant="south"), NOON)
    assert store.cancels.kept(NOON) == keys("a", tenant="south")
    store.write([stream.batch(CONSUMER, succeeded("a")._replace(tenant="north"))])
    assert store.cancels.kept(NOON) == keys("a", tenant="south")
    store.write([stream.batch(CONSUMER, succeeded("a")._replace(tenant="south"))])
    assert store.cancels.kept(NOON) == []


def test_cancels_are_kept_of_what_is_not_over_until_it_is_over(tmp_path, stream):
    with Store(tmp_path) as store:
        store.write([stream.batch(DISPATCHER, *map(routed, "abcd")), stream.batch(CONSUMER, succeeded("d"))])
        store.cancels.keep(keys("c", "d", "unknown"), NOON)
        store.cancels.keep(keys("a", "b"), NOON + 1)
        store.cancels.keep(keys("c"), NOON + 2)
    with Store(tmp_path) as store:
        store.write([stream.batch(CONSUMER, Begun("c", "thumbs", 1, NOON + 2, "w1"))])
        assert store.cancels.kept(NOON + 3) == keys("a", "b", "c")
        store.write([stream.batch(CONSUMER, Cancelled("a", "thumbs", NOON + 3), succeeded("c"))])
        assert store.cancels.kept(NOON + 3) == keys("b")
        store.write([stream.batch(DISPATCHER, routed("c", NOON + 4))])
        assert store.cancels.kept(NOON + 4) == keys("b"), "what is retried later is not cancelled"


def test_cancels_are_kept_for_a_day(store, stream):
    store.write([stream.batch(DISPATCHER, routed("a"), routed("b"))])
    store.cancels.keep(keys("a"), NOON)
    store.cancels.keep(keys("b"), NOON + 2)
    assert store.cancels.kept(NOON + 86400) == keys("a", "b")
    assert store.cancels.kept(NOON + 86401) == keys("b")


def test_the_newest_cancels_are_kept_beyond_a_number(store, stream):
    names = [f"w{number}" for number in range(10_010)]
    store.write([stream.batch(DISPATCHER, *map(routed, names))])
    for first in (0, 5000):
        store.cancels.keep(keys(*names[first : first + 5000]), NOON)
    store.cancels.keep(keys(*names[10_000:]), NOON + 1)
    kept = store.cancels.kept(NOON + 1)
    assert len(kept) == 10_000
    assert set(keys(*names[5000:])) <= set(kept)


def test_a_consumer_that_begins_to_take_work_is_a_newcomer(store, stream):
    def came(emitter, state):
        store.write([stream.batch(emitter, ProcessState(NOON, state))])
        return store.take_newcomers()

    assert not came(DISPATCHER, "takes work")
    assert not came(CONSUMER, "waits for a worker")
    assert came(CONSUMER, "takes work")
    assert not came(CONSUMER, "takes work")
    assert not came(CONSUMER, "waits for the broker")
    assert came(CONSUMER, "takes work")
    assert not store.take_newcomers()


def test_actions_are_kept(store, record):
    store.add_action(Action(NOON, "ann", "retry", "{}", 3))
    store.add_action(Action(NOON + 1, "bob", "purge", "{}", 4))
    assert [action.user for action in record.actions()] == ["bob", "ann"]
    assert record.actions(1) == [Action(NOON + 1, "bob", "purge", "{}", 4)]
