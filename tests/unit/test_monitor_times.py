"""The times of events that the monitor accepts, and the files that they make."""

import time

from support.record import CONSUMER, NOON, Stream, failed, routed, succeeded

from taskqueue.errors import LONGEST_DELAY
from taskqueue.messages.events import Begun, Cancelled, LogLine, ProcessState, Rejected
from taskqueue.monitor.record import Filter
from taskqueue.monitor.store.reading import Record
from taskqueue.monitor.store.store import Store
from taskqueue.monitor.times import Times

DAY = 86400.0


def corrected(*some):
    """Return events as they are accepted at NOON by a record that keeps ten days."""
    _, batch = Stream().batch(CONSUMER, *some)
    Times(10 * DAY).correct(batch, NOON)
    return batch.events


def test_possible_times_stay_as_they_are():
    some = [
        routed("a", NOON - 9 * DAY, due=NOON + 300 * DAY),
        succeeded("b", NOON + DAY / 2, queued=NOON - 100 * DAY),
        failed("c", NOON - 9 * DAY, again_at=NOON + 300 * DAY),
        Rejected("d", "", NOON, "no type"),
        Cancelled("e", "thumbs", NOON, started=NOON - 50 * DAY),
        Begun("f", "thumbs", 1, NOON, "w1"),
        LogLine("g", NOON, "w1", "stdout", "text"),
        ProcessState(NOON, "takes work"),
    ]
    assert corrected(*some) == some


def test_old_events_get_the_age_of_the_oldest_and_future_ones_are_at_most_a_day_ahead():
    some = [routed("a", 1.0), succeeded("b", 9e11), Rejected("c", "", -5.0, "no type")]
    assert [event.at if hasattr(event, "at") else event.ended for event in corrected(*some)] == [
        NOON - 10 * DAY,
        NOON + DAY,
        NOON - 10 * DAY,
    ]


def test_no_other_time_is_in_a_future_that_cannot_be_meant():
    due, again, cancelled = corrected(
        routed("a", due=9e11),
        failed("b", again_at=9e11, queued=9e11),
        Cancelled("c", "thumbs", NOON, started=9e11),
    )
    assert due.due == again.again_at == NOON + DAY + LONGEST_DELAY
    assert again.queued == cancelled.started == NOON + DAY


def test_events_of_a_thousand_days_make_files_of_the_days_that_are_kept(tmp_path):
    times, stream, now = Times(2 * DAY), Stream(), time.time()
    past = [succeeded(f"past{day}", now - day * DAY) for day in range(500)]
    future = [succeeded(f"future{day}", now + day * DAY) for day in range(500)]
    position, batch = stream.batch(CONSUMER, *past, *future)
    times.correct(batch, now)
    with Store(tmp_path) as store:
        store.write([(position, batch)], now)
    assert 3 <= len(list(tmp_path.glob("*.succeeded.db"))) <= 5
    with Record(tmp_path) as record:
        assert record.count(Filter()) == 1000
