"""The scheduler's parts that need no broker: the agenda, what was missed, the state of a schedule."""

import json
import random

import pytest

from taskqueue.amqp.properties import Properties
from taskqueue.broker.scheduling import completion_of
from taskqueue.errors import BadSchedule
from taskqueue.scheduler.agenda import Agenda
from taskqueue.scheduler.state import State, decode, latest
from taskqueue.schedules.definition import Definition
from taskqueue.schedules.timing import Cron, Interval

SECOND = Definition("second", "x", every=1.0)


def test_the_agenda_gives_items_in_the_order_of_their_times():
    chance, agenda, wanted = random.Random(1), Agenda(), {}
    for _ in range(1000):
        item, due = chance.randrange(100), chance.random()
        if chance.random() < 0.2:
            agenda.drop(item)
            wanted.pop(item, None)
        else:
            agenda.put(item, due)
            wanted[item] = due
        if chance.random() < 0.2 and wanted:
            first = min(wanted, key=wanted.get)
            assert agenda.next_due() == wanted[first]
            assert agenda.take(wanted[first] - 1e-9) is None
            assert agenda.take(wanted.pop(first)) == first
    assert len(agenda) == len(wanted)
    agenda.clear()
    assert (agenda.next_due(), agenda.take(1.0), len(agenda)) == (None, None, 0)


@pytest.mark.parametrize("timing", [Interval(1), Interval(7200, 5), Cron("30 3 * * mon", "Europe/Berlin")])
@pytest.mark.parametrize("span", [0, 100, 10_000, 300_000])
def test_the_latest_times_are_the_last_of_all(timing, span):
    until, expected = 1_800_000_000.0, []
    at = timing.next_after(until - span)
    while at <= until and len(expected) < 6_000_000:
        expected.append(at)
        at = timing.next_after(at)
    for most in (1, 3, 1000):
        assert latest(timing, until - span, until, most) == expected[-most:]


def test_the_latest_times_of_a_hundred_years_are_found_without_passing_them_all():
    ticks = latest(Interval(1), 0.0, 3_000_000_000.0, 10_000)
    assert (len(ticks), ticks[-1]) == (10_000, 3_000_000_000.0)
    assert latest(Cron("0 0 29 2 *", "UTC"), 0.0, 1_800_000_000.0, 1) == [1_709_164_800.0]


def test_a_state_is_the_same_after_json():
    state = State(
        SECOND, 7, 1.5, paused=True, sources=("host a",), running="x", fired=3, skipped=1, fired_at=1.0
    )
    assert State.of_json(json.loads(json.dumps(state.as_json()))) == state


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": "x"},
        {"last": None},
        {"definition": {}},
        {"definition": None},
        {"sources": 1},
        {"fired": 1e999},
        {"last": "nan"},
        {"last": 1e999},
        {"last": 1e300},
        {"last": -1e18},
        {"fired_at": 1e13},
        {"version": 10**4000},
        {"skipped": -1},
        {"definition": {"name": "x", "worker_type": "y", "every": 1, "timezone": "z" * 1000}},
    ],
)
def test_a_state_that_cannot_be_read_is_refused(wrong):
    plain = json.loads(json.dumps(State(SECOND).as_json() | wrong))
    with pytest.raises(BadSchedule):
        State.of_json(plain)
    for name in ("version", "last", "paused", "definition", "writer"):
        missing = {key: value for key, value in State(SECOND).as_json().items() if key != name}
        with pytest.raises(BadSchedule):
            State.of_json(missing)


def test_a_schedule_of_a_host_that_knows_more_time_zones_is_kept():
    foreign = Definition("far", "x", cron="0 0 * * *", timezone="Mars/Olympus")
    state = State.of_json(json.loads(json.dumps(State(foreign).as_json())))
    assert state.definition == foreign
    assert foreign.shown(0) == "1970-01-01 00:00:00+00:00"
    with pytest.raises(BadSchedule, match="no time zone 'Mars/Olympus'"):
        _ = foreign.timing
    with pytest.raises(BadSchedule, match="no time zone 'Mars/Olympus'"):
        Definition.checked(foreign.as_json())


@pytest.mark.parametrize("body", [b"", b"7", b"[]", b"{}", b'{"kind": 7}', b"\xff", b"[" * 100_000])
def test_a_message_that_cannot_be_read_is_refused(body):
    with pytest.raises(BadSchedule):
        decode(body)


def test_a_fired_tick_never_moves_a_state_back():
    state = State(SECOND, last=100.0)
    assert state.after_firing(90.0).last == 100.0
    assert state.after_skipping(90.0).last == 100.0
    assert state.after_firing(101.0).last == 101.0
    assert state.after_firing(101.0).running == ""
    alone = State(Definition("alone", "x", every=1.0, overlap=False))
    assert alone.after_firing(5.0).running == alone.definition.tick_id(5.0)


@pytest.mark.parametrize("name", ["x" * 101, "a b", "", "x\n"])
def test_no_completion_is_sent_of_what_can_be_no_schedule(name):
    headers = {"x-taskqueue-completion": "token", "x-taskqueue-schedule": name, "x-taskqueue-tick": 1.0}
    assert completion_of(Properties(message_id="x").with_headers(headers)) is None
    assert completion_of(Properties(message_id="x").with_headers(headers | {"x-taskqueue-schedule": "x"}))
