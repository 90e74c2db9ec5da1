"""Schedulers on a real broker: who leads, what is fired, and what a kill leaves."""

import json
import os
import re
import signal
import time
from collections import Counter

import pytest
from support.team import SECOND, Team, store, ticks_of
from support.waiting import wait_until

from taskqueue.errors import NoScheduler, ScheduleRefused
from taskqueue.scheduler.state import State
from taskqueue.schedules.definition import Definition


def test_a_tick_is_a_workitem(team):
    schedule = Definition("second", "good", every=1.0, body='{"a": 1}', tenant="acme", tags=("x", "y"))
    team.start(schedule)
    first = team.wait_for(2)[0]
    tick = first.headers["x-taskqueue-tick"]
    assert first.body == b'{"a": 1}'
    assert first.properties["type"] == "good"
    assert first.properties["content_type"] == "application/json"
    assert first.properties["message_id"] == schedule.tick_id(tick)
    assert first.headers["x-taskqueue-tenant"] == "acme"
    assert first.headers["x-taskqueue-labels"] == "x y schedule:second"
    assert first.headers["x-taskqueue-schedule"] == "second"
    assert first.headers["x-taskqueue-unique"] == schedule.tick_id(tick)
    assert first.headers["x-taskqueue-unique-for"] == 60
    ticks = ticks_of(team.fired, "second")
    assert ticks == [ticks[0] + number for number in range(len(ticks))]


# --- kills ---


def leader_of(schedulers):
    """Return the scheduler that leads; None if none says so now."""
    for each in schedulers:
        states = re.findall("^(?:connects|stands by|waits|leads).*$", each.output(), re.MULTILINE)
        if states[-1].startswith("leads"):
            return each
    return None


def test_no_tick_is_missed_and_each_has_one_id_while_leaders_are_killed(team):
    definitions = [Definition(f"s{number}", "good", every=1.0) for number in range(5)]
    schedulers = [team.start(*definitions, host=f"host{number}") for number in range(3)]
    begin = wait_until(lambda: ticks_of(team.take(), "s0"), 20)[0]
    for _ in range(12):
        leader = wait_until(lambda: leader_of(schedulers), 5, "a leader within 5 s of a kill -9")
        team.wait_for(len(team.fired) + 3)
        os.kill(leader.pid, signal.SIGKILL)
        leader.wait()
        schedulers.remove(leader)
        schedulers.append(team.start(*definitions, host="other"))
    end = max(ticks_of(team.take(), "s0"))
    wait_until(lambda: all(max(ticks_of(team.take(), each.name)) > end for each in definitions), 20)
    for definition in definitions:
        found = Counter(message.properties["message_id"] for message in team.fired
                        if message.headers["x-taskqueue-schedule"] == definition.name)  # fmt: skip
        expected = [definition.tick_id(begin + number) for number in range(int(end - begin) + 1)]
        assert [tick for tick in expected if tick not in found] == []
        doubled = sum(count - 1 for count in found.values())
        print(f"{definition.name}: {len(expected)} ticks, {doubled} doubled by 12 kills")
        assert doubled <= 12, "a kill doubles at most the tick that it interrupts"


def test_a_leader_that_is_stopped_doubles_nothing_and_another_leads(team):
    first = team.start(SECOND)
    team.wait_for(1)
    second = team.start(SECOND)
    first.signal(signal.SIGTERM)
    assert first.wait() == 0
    second.wait_for("leads 1 schedule")
    number = len(team.take())
    ids = [message.properties["message_id"] for message in team.wait_for(number + 2)]
    assert len(ids) == len(set(ids))
    ticks = ticks_of(team.fired, "second")
    assert ticks == [ticks[0] + number for number in range(len(ticks))]


def doubles(messages):
    """Return how many messages have the id of an earlier one."""
    return len(messages) - len({message.properties["message_id"] for message in messages})


def test_a_leader_that_was_frozen_fires_nothing_that_its_successor_has_fired(team, amqp_url):
    first, second = team.start(SECOND, heartbeat=2), team.start(SECOND, heartbeat=2)
    first.wait_for("leads 1 schedule")
    team.wait_for(1)
    first.signal(signal.SIGSTOP)
    second.wait_for("leads 1 schedule", timeout=30)  # once the broker misses its heartbeats
    number = len(team.take())
    before = doubles(team.wait_for(number + 2))  # one, if it was frozen before it wrote that it had fired
    first.signal(signal.SIGCONT)
    first.wait_for("waits for the broker", timeout=30)
    number = len(team.take())
    assert doubles(team.wait_for(number + 3)) == before <= 1
    ticks = sorted(set(ticks_of(team.fired, "second")))
    assert ticks == [ticks[0] + number for number in range(len(ticks))]


def test_a_lost_connection_misses_no_tick(team, proxy, forked, foreign):
    through = Team(proxy.url, forked, foreign)
    through.start(SECOND)
    for _ in range(3):
        number = len(through.take())
        through.wait_for(number + 2, 40)
        proxy.cut()
    ticks = sorted(set(ticks_of(through.wait_for(len(through.fired) + 2, 40), "second")))
    assert ticks == [ticks[0] + number for number in range(len(ticks))]


# --- what was due while no scheduler ran ---


def missed(team, foreign, policy):
    """Return the ticks, as numbers of hours before the next one, that are fired after four hours without."""
    team.start().signal(signal.SIGTERM)
    wait_until(lambda: not foreign.consumers("taskqueue_schedules"))
    now = time.time()
    offset = now % 3600 + 5  # so that the next tick is in five seconds
    hourly = Definition("hourly", "good", every=3600.0, offset=offset, missed=policy)
    next_tick = hourly.timing.next_after(now)
    store(foreign, hourly, next_tick - 4 * 3600)
    team.start(host="later")
    wait_until(lambda: next_tick in ticks_of(team.take(), "hourly"), 20)
    return [round((next_tick - tick) / 3600) for tick in ticks_of(team.fired, "hourly")]


@pytest.mark.parametrize(("policy", "fired"), [("skip", [0]), ("once", [1, 0]), ("all", [3, 2, 1, 0])])
def test_what_was_missed_is_fired_as_the_schedule_says(team, foreign, policy, fired):
    assert missed(team, foreign, policy) == fired


def test_a_tick_that_is_a_few_seconds_late_is_not_missed(team, foreign):
    team.start().signal(signal.SIGTERM)
    wait_until(lambda: not foreign.consumers("taskqueue_schedules"))
    tick = float(int(time.time()) - 20)
    daily = Definition("daily", "good", every=86_400.0, offset=tick % 86_400)
    store(foreign, daily, tick - 86_400)
    team.start()
    team.wait_for(1)
    assert ticks_of(team.fired, "daily") == [tick]


# --- clocks ---


def test_a_clock_that_is_set_back_fires_nothing_twice(team):
    first = team.start(SECOND, ahead=5.0)
    team.wait_for(3)
    first.signal(signal.SIGTERM)
    first.wait()
    team.start(SECOND)  # its clock is five seconds behind the one before
    number = len(team.take())
    ticks = ticks_of(team.wait_for(number + 2, 30), "second")
    assert ticks == [ticks[0] + number for number in range(len(ticks))]


def test_clocks_that_differ_are_said_in_the_log(team):
    leader = team.start(SECOND, host="right")
    leader.wait_for("leads 1 schedule")
    team.start(host="wrong", ahead=90.0)
    leader.wait_for("s ahead of that of right, by which schedules are fired")
    ahead = re.search(r"the clock of wrong is ([0-9.]+) s ahead", leader.output())
    assert ahead is not None
    assert 80 < float(ahead[1]) <= 90  # less what the message took


# --- overlap ---


def over(foreign, message):
    """Tell the scheduler that a workitem is over, as a consumer does."""
    tick, name = (message.headers[f"x-taskqueue-{header}"] for header in ("tick", "schedule"))
    workitem = message.properties["message_id"]
    token = message.headers["x-taskqueue-completion"]
    tell(foreign, schedule=name, workitem=workitem, tick=tick, token=token)


def tell(foreign, **about):
    """Send what is said to be a completion."""
    foreign.publish(json.dumps({"kind": "over", **about}), "taskqueue_schedules")


def test_without_overlap_a_tick_waits_for_the_end_of_the_last_one(team, foreign):
    scheduler = team.start(Definition("alone", "good", every=1.0, overlap=False))
    (first,) = team.wait_for(1)
    scheduler.wait_for("left out", times=2)
    assert len(team.take()) == 1
    over(foreign, first)
    team.wait_for(2)


def test_the_end_of_a_workitem_is_known_after_the_leader_was_killed(team, foreign):
    alone = Definition("alone", "good", every=1.0, overlap=False)
    first = team.start(alone)
    team.wait_for(1)
    second = team.start(alone)
    os.kill(first.pid, signal.SIGKILL)
    second.wait_for("left out", times=2)
    over(foreign, team.fired[0])
    team.wait_for(2)


def test_a_workitem_that_was_over_before_its_tick_was_written_is_not_fired_again(team, foreign):
    team.start().signal(signal.SIGTERM)
    wait_until(lambda: not foreign.consumers("taskqueue_schedules"))
    tick = float(int(time.time()) - 20)
    daily = Definition("daily", "good", every=86_400.0, offset=tick % 86_400, overlap=False)
    state = store(foreign, daily, tick - 86_400)
    id_ = daily.tick_id(tick)
    tell(foreign, schedule="daily", workitem=id_, tick=tick, token=state.token(id_))
    leader = team.start(SECOND)
    leader.wait_for("leads")
    team.wait_for(2)
    assert ticks_of(team.fired, "daily") == []


@pytest.mark.parametrize(
    "token", [{}, {"token": True}, {"token": ""}, {"token": "x" * 32}, {"token": "\u00e9"}]
)
def test_a_forged_completion_does_not_end_the_waiting(team, foreign, token):
    scheduler = team.start(Definition("alone", "good", every=1.0, overlap=False))
    (first,) = team.wait_for(1)
    scheduler.wait_for("left out")
    id_ = first.properties["message_id"]
    assert "secret" not in team.state("alone"), "who may ask cannot make a token"
    tell(foreign, schedule="alone", workitem=id_, tick=first.headers["x-taskqueue-tick"], **token)
    assert team.state("alone")["running"] == id_
    over(foreign, first)
    team.wait_for(2)


def test_a_tick_that_is_said_to_be_over_before_its_time_is_fired(team, foreign):
    daily = Definition("daily", "good", every=86_400.0, offset=(time.time() + 5) // 1 % 86_400, overlap=False)
    team.start(daily).wait_for("leads 1 schedule")
    tick = daily.timing.next_after(time.time())
    tell(foreign, schedule="daily", workitem=daily.tick_id(tick), tick=tick, token="x")
    team.wait_for(1)
    assert ticks_of(team.fired, "daily") == [tick]


# --- the register ---


def test_of_two_versions_of_a_schedule_the_later_one_counts(team, foreign):
    team.start().signal(signal.SIGTERM)
    wait_until(lambda: not foreign.consumers("taskqueue_schedules"))
    now = float(int(time.time()))
    for version, last in ((8, now + 3), (7, now - 30)):  # as if requeued in the wrong order
        state = State(SECOND, version=version, last=last, writer="somebody")
        foreign.publish(json.dumps(state.as_json()), "taskqueue_schedules")
    team.start()
    team.wait_for(1)
    assert ticks_of(team.fired, "second")[0] == now + 4


def test_garbage_in_the_register_is_dropped_with_a_line_in_the_log(team, foreign):
    leader = team.start(SECOND)
    leader.wait_for("leads")
    state = State(SECOND).as_json()
    bad = ["no JSON", "[]", "{}", '{"kind": "over"}', '{"kind": "define", "source": "x", "definitions": [1]}',
           '{"kind": "schedule"}', json.dumps(state | {"last": "x"}), '{"kind": "hello"}',
           json.dumps(state | {"definition": {"name": "a b", "worker_type": "x", "every": 1}}),
           json.dumps(state | {"version": 99, "last": float("nan")}), json.dumps(state | {"last": 1e300}),
           f'{{"kind": "over", "schedule": "x", "workitem": "y", "tick": 1{"0" * 400}}}',
           '{"kind": "hello", "host": "x", "time": 1e999}', f'{{"kind": "x", "y": [{"[]," * 2**20}0]}}',
           json.dumps({"kind": "over", "more": "x" * 2**21})]  # fmt: skip
    for text in bad:
        foreign.publish(text, "taskqueue_schedules")
    wait_until(lambda: leader.output().count("dropped") == len(bad), what=leader.output)
    number = len(team.take())
    team.wait_for(number + 2)


@pytest.mark.timeout(400)
def test_more_messages_than_a_consumer_can_hold_do_not_keep_a_scheduler_from_leading(team, foreign):
    team.start(SECOND).signal(signal.SIGTERM)
    wait_until(lambda: not foreign.consumers("taskqueue_schedules"))
    over = {"kind": "over", "schedule": "second", "workitem": "x", "tick": 1.0}
    copy = State(SECOND, version=1, writer="forged").as_json()
    kinds = [json.dumps(each) for each in (over, copy, {"kind": "nonsense"})]
    foreign.publish_many(kinds * 9_000, "taskqueue_schedules")  # a consumer holds 24,000
    team.start(SECOND).wait_for("leads 1 schedule", timeout=120)
    team.wait_for(1)
    wait_until(lambda: foreign.depth("taskqueue_schedules") <= 1, 120)


def test_messages_of_the_register_are_renewed_before_they_are_old(team, broker, vhost):
    yearly = Definition("yearly", "good", cron="0 0 1 1 *")
    leader = team.start(yearly, renew_after=0.5)
    leader.wait_for("leads 1 schedule")
    again = team.start(host="two", renew_after=0.5)
    for version in (2, 3):  # each leader shows what the one before has written
        wait_until(lambda version=version: team.ask("list")["schedules"][0]["version"] >= version)
        leader.signal(signal.SIGTERM)
        again.wait_for("leads 1 schedule")
        leader, again = again, team.start(host="three", renew_after=0.5)
    wait_until(lambda: broker.messages(vhost, "taskqueue_schedules") == 1)


# --- definitions ---


def test_a_schedule_lives_as_long_as_a_configuration_has_it(team):
    first = team.start(SECOND, host="one")
    first.wait_for("leads")
    team.start(SECOND, host="two")
    assert wait_until(lambda: team.state("second")["sources"] == ["host one", "host two"])
    team.start(host="two")
    assert wait_until(lambda: team.state("second")["sources"] == ["host one"])
    team.start(host="one")
    first.wait_for("host one: 1 schedule removed: second")
    assert team.ask("list")["schedules"] == []


def test_a_schedule_that_is_defined_anew_keeps_what_it_has_done(team):
    team.start(SECOND)
    team.wait_for(2)
    changed = Definition("second", "other", every=1.0)
    team.start(changed)
    wait_until(lambda: "other" in [message.properties["type"] for message in team.take()])
    ticks = ticks_of(team.fired, "second")
    assert ticks == [ticks[0] + number for number in range(len(ticks))]
    assert team.state("second")["fired"] >= 2


# --- commands ---


def test_a_schedule_is_added_paused_resumed_and_removed(team):
    team.start()
    team.ask("add", definition=SECOND.as_json())
    team.wait_for(2)
    assert team.ask("pause", name="second")["schedule"]["paused"] is True
    number = len(team.take())
    assert team.state("second")["fired"] == number
    last = team.state("second")["last"]
    wait_until(lambda: time.time() > last + 3)
    assert len(team.take()) == number
    team.ask("resume", name="second")
    ticks = ticks_of(team.wait_for(number + 1), "second")
    assert ticks[number] > last + 2, "what was due during a pause is left out"
    team.ask("remove", name="second")
    assert team.ask("list")["schedules"] == []


def test_a_schedule_runs_now(team):
    team.start()
    team.ask("add", definition=Definition("yearly", "good", cron="0 0 1 1 *", overlap=False).as_json())
    workitem = team.ask("run-now", name="yearly")["workitem"]
    assert team.wait_for(1)[0].properties["message_id"] == workitem
    with pytest.raises(ScheduleRefused, match=f"workitem {workitem} of schedule 'yearly' is not over"):
        team.ask("run-now", name="yearly")
    team.ask("resume", name="yearly")
    team.ask("run-now", name="yearly")


def test_a_command_that_comes_again_after_a_kill_runs_the_same_workitem(team, foreign):
    team.start()
    team.ask("add", definition=Definition("yearly", "good", cron="0 0 1 1 *").as_json())
    for _ in range(2):
        command = json.dumps({"kind": "command", "action": "run-now", "name": "yearly"})
        foreign.publish(command, "taskqueue_schedules", correlation_id="one")
    assert len({message.properties["message_id"] for message in team.wait_for(2)}) == 1


@pytest.mark.parametrize(
    ("action", "arguments", "reason"),
    [
        ("pause", {"name": "nope"}, "there is no schedule 'nope'"),
        ("remove", {"name": "second"}, "schedule 'second' is defined by host one: remove it there"),
        ("add", {"definition": SECOND.as_json()}, "there is a schedule 'second' already"),
        (
            "add",
            {"definition": {"name": "x", "worker_type": "y"}},
            "schedule 'x': expected either cron or every",
        ),
        ("add", {}, "it lacks something: KeyError('definition')"),
        ("explode", {"name": "second"}, "no action 'explode'"),
    ],
)
def test_a_wrong_command_is_refused(team, action, arguments, reason):
    team.start(SECOND)
    with pytest.raises(ScheduleRefused) as refused:
        team.ask(action, **arguments)
    assert reason in str(refused.value)


def test_a_command_that_no_scheduler_takes_is_not_done_later(team, foreign):
    with pytest.raises(NoScheduler, match="no scheduler has run on this broker yet: start a dispatcher"):
        team.ask("list")
    team.start(SECOND).signal(signal.SIGTERM)
    wait_until(lambda: not foreign.consumers("taskqueue_schedules"))
    with pytest.raises(NoScheduler, match="no scheduler answers within 1 s: does a dispatcher run"):
        team.ask("pause", name="second", timeout=1.0)
    team.start(SECOND)
    assert team.state("second")["paused"] is False
