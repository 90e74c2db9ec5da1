"""Whether and when a workitem runs again, and in which delay queue it waits meanwhile."""

from dataclasses import replace

import pytest

from taskqueue.amqp.properties import Properties
from taskqueue.broker.subscription import Delivery
from taskqueue.broker.topology import DELAYS, delay_queue
from taskqueue.config import GroupSettings
from taskqueue.consumer.in_flight import Assignment
from taskqueue.consumer.judge import MOST_REQUESTS, crash_delay, retry_delay
from taskqueue.errors import Retry, Unroutable
from taskqueue.messages import names
from taskqueue.messages.forwarding import moment
from taskqueue.worker.frames import Outcome, Verdict

NOW = 1_800_000_000.0  # seconds since 1970

GROUP = GroupSettings(
    name="a",
    worker_type="a",
    retries=10,
    retry_delay=3.0,
    retry_backoff=2.0,
    retry_max_delay=100.0,
    retry_jitter=0.0,
)


def assignment(**headers):
    properties = Properties(message_id="m").with_headers(
        {f"x-taskqueue-{name}": value for name, value in headers.items()}
    )
    raw = properties.encode()
    return Assignment(1, "id", GROUP, Delivery(1, 1, False, raw, b""), properties, raw)


def outcome(verdict=Verdict.FAILED, delay=-1.0):
    return Outcome(1, verdict, 0.0, 0.0, delay, "", "", b"")


def delay(group=GROUP, failures=0, verdict=Verdict.FAILED, asked=-1.0):
    return retry_delay(group, assignment(failures=failures), outcome(verdict, asked))


# --- failures ---


def test_the_delay_grows_by_its_factor_up_to_the_longest():
    assert [delay(failures=failures) for failures in range(7)] == [3, 6, 12, 24, 48, 96, 100]
    assert {delay(replace(GROUP, retry_backoff=1.0), failures) for failures in range(7)} == {3}


def test_a_factor_of_any_size_is_no_overflow():
    assert delay(replace(GROUP, retries=1000, retry_backoff=1000.0), 999) == 100


def test_the_delay_varies_within_its_share():
    delays = [delay(replace(GROUP, retry_jitter=0.5)) for _ in range(500)]
    assert 1.5 <= min(delays) < 1.8
    assert 4.2 < max(delays) <= 4.5


def test_a_workitem_fails_when_its_retries_are_used_up():
    assert delay(failures=9) is not None
    assert delay(failures=10) is None
    assert delay(replace(GROUP, retries=0)) is None


def test_a_handler_that_asks_for_another_run_gets_it_without_any_retries():
    none = replace(GROUP, retries=0)
    assert delay(none, verdict=Verdict.RETRY, asked=0.5) == 0.5
    assert delay(none, verdict=Verdict.RETRY, asked=0.0) == 0
    assert delay(none, verdict=Verdict.RETRY) == 3
    assert delay(none, failures=1, verdict=Verdict.RETRY) == 6


def test_a_handler_that_asks_for_ever_is_heard_a_hundred_times():
    assert delay(failures=MOST_REQUESTS - 1, verdict=Verdict.RETRY, asked=1.0) == 1
    assert delay(failures=MOST_REQUESTS, verdict=Verdict.RETRY, asked=1.0) is None
    assert delay(replace(GROUP, retries=500), MOST_REQUESTS, Verdict.RETRY, 1.0) == 1


def test_what_a_handler_rejects_is_not_run_again():
    assert delay(verdict=Verdict.REJECTED) is None


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), "soon"])
def test_a_delay_that_is_no_number_of_seconds_is_refused_where_it_is_written(wrong):
    with pytest.raises((ValueError, TypeError)):
        Retry("later", delay=wrong)


# --- crashes ---


def test_the_first_crash_is_followed_at_once_and_the_next_ever_later():
    assert [crash_delay(GROUP, crashes) for crashes in range(1, 10)] == [0, 1, 2, 4, 8, 16, 32, 64, 100]
    assert crash_delay(GROUP, 10_000) == 100


# --- the delay queues ---


@pytest.mark.parametrize(
    ("seconds", "name", "milliseconds"),
    [
        (-5, "taskqueue_delay_0.25", 250),
        (0.1, "taskqueue_delay_0.25", 250),
        (0.999, "taskqueue_delay_0.25", 250),
        (1, "taskqueue_delay_1", 1000),
        (4.9, "taskqueue_delay_1", 1000),
        (59, "taskqueue_delay_15", 15_000),
        (21_599, "taskqueue_delay_3600", 3_600_000),
        (21_600, "taskqueue_delay_21600", 21_600_000),
        (float("inf"), "taskqueue_delay_21600", 21_600_000),
    ],
)
def test_a_rung_holds_a_message_no_longer_than_it_has_to_wait(seconds, name, milliseconds):
    queue = delay_queue(seconds)
    assert queue.name == name
    assert queue.arguments == {
        "x-message-ttl": milliseconds,
        "x-dead-letter-exchange": "",
        "x-queue-type": "quorum",
    }
    assert queue.has_exchange


def test_any_delay_is_a_few_steps():
    assert list(DELAYS) == sorted(DELAYS)
    left, steps = 30 * 86_400 + 12_345.6, 0
    while left > 0:
        left -= delay_queue(left).arguments["x-message-ttl"] / 1000
        steps += 1
    assert steps < 150


@pytest.mark.parametrize("garbage", ["tomorrow", True, [1], {"a": 1}, b"\0"])
def test_a_due_header_that_is_no_time_is_ignored(garbage):
    assert assignment(due=garbage).wait(NOW) is None
    assert moment(Properties(header_table=b"\x01aZ"), names.DUE) is None


def test_a_due_header_is_seconds_since_1970():
    assert assignment(due=12.5).wait(10.0) == 2.5
    assert assignment(due=12).wait(10.0) == 2


@pytest.mark.parametrize("due", [1e300, float("inf"), float("nan"), 1_800_000_000_000.0, 2**62])
def test_a_due_header_beyond_ten_years_is_no_workitem(due):
    with pytest.raises(Unroutable, match="more than ten years ahead; expected seconds since 1970"):
        assignment(due=due).wait(NOW)


@pytest.mark.parametrize(
    ("due", "shown"),
    [
        (4e9, "4000000000 (2096-10-02T07:06:40+00:00)"),
        (1_800_000_000_000, "1800000000000"),
        (1e300, "1e+300"),
        (float("nan"), "nan"),
    ],
)
def test_a_due_time_that_is_refused_is_shown_as_it_came_and_as_a_date(due, shown):
    with pytest.raises(Unroutable) as caught:
        assignment(due=due).wait(1.8e9)
    assert str(caught.value) == (
        f"x-taskqueue-due is {shown}, more than ten years ahead; expected seconds since 1970, now 1800000000"
    )


@pytest.mark.parametrize(
    ("due", "wait", "expected"),
    [
        (3600, 1, 1),  # the clock was set back by an hour, or another host's is an hour ahead
        (-3600, 1, -3600),  # it had to wait for a worker for longer than that
        (5, None, 5),
        (5, "soon", 5),
        (5, float("nan"), 5),
        (5, -3, 0),
    ],
)
def test_a_delay_ends_after_its_time_whatever_the_clock_says(due, wait, expected):
    assert assignment(due=NOW + due, wait=wait).wait(NOW) == expected


@pytest.mark.parametrize("garbage", ["two", -3, 0, [1]])
def test_counts_that_are_none_count_from_the_beginning(garbage):
    item = assignment(failures=garbage, crashes=garbage, attempt=garbage)
    assert (item.failures, item.crashes, item.attempt) == (0, 0, 1)
