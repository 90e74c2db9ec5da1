"""The chaos suite's own judgement: what is lost, what is wrong, and what explains a second end."""

import pytest
from chaos.account import Evidence, balance
from chaos.ends import End
from chaos.faults import COMMANDS, Hit
from chaos.schedule import DECK, schedule
from chaos.story import FORGOTTEN
from chaos.tap import Tap
from chaos.ticks import SCHEDULES, due
from chaos.workload import KINDS, Workitem, workload

SUBMITTED, BEGAN, ENDED = 100.0, 110.0, 111.0
KIND = {kind.name: kind for kind in KINDS}


def item(kind="slow"):
    return Workitem("<1-the-one>", KIND[kind], "", 1.0, 0.0)


def end(began=BEGAN, *, queue="results", state="succeeded", reason="", message="m1", history=(), pool="a"):
    return End("<1-the-one>", queue, message, state, reason, f"x_{pool}/1", began, began + 1.0, history)


def judge(*ends, hits=(), kind="slow", doubtful=(), waited=0.0, unacknowledged=0.0):
    """Return what is made of some ends of a workitem, with what a line would have seen of them.

    waited -- seconds between its delivery to a pool and its run
    unacknowledged -- seconds between its end and its acknowledgement
    """
    taps = {"dispatcher b": Tap(), "pool a": Tap(), "pool b": Tap()}
    taps["dispatcher b"].had["<1-the-one>"] = [[BEGAN - 0.2, BEGAN - 0.1]]
    taps["dispatcher b"].went["<1-the-one>"] = [BEGAN - 0.1]
    for each in ends:
        taps[each.pool].had["<1-the-one>"].append([each.started - waited, each.ended + unacknowledged])
        taps[each.pool].went["<1-the-one>"].append(each.ended)
    evidence = Evidence([item(kind)], {"<1-the-one>": SUBMITTED}, set(doubtful), hits, taps, list(ends))
    return balance(evidence)


def twice(kind, target, group="", began=BEGAN + 0.1):
    """Return what is made of a workitem that ran twice, with one fault meanwhile."""
    again = end(BEGAN + 20, message="m2", pool="b")
    return judge(end(), again, hits=[Hit(kind, target, group, began, began)])


def test_a_seed_always_stands_for_the_same_run():
    assert schedule(7, 300) == schedule(7, 300) != schedule(8, 300)
    assert workload(7, 1000) == workload(7, 1000) != workload(8, 1000)
    assert {fault.kind for fault in schedule(7, 32)} == set(DECK)
    assert {each.kind for each in workload(7, 200)} == set(KINDS)
    assert len({each.id for each in workload(7, 1000)}) == 1000


def test_one_end_as_expected_is_all_that_is_wanted():
    assert judge(end()).is_balanced


def test_a_workitem_without_an_end_is_lost():
    account = judge()
    assert account.lost == ["<1-the-one>"]
    assert not account.is_balanced


def test_a_second_final_state_is_wrong_whatever_happened():
    broken = Hit("kill the broker", "broker", "", BEGAN, BEGAN)
    other = end(BEGAN + 20, queue="taskqueue_failed", state="failed", reason="WorkerCrashed")
    (fault,) = judge(end(), other, hits=[broken]).wrong
    assert "failed in taskqueue_failed, expected succeeded" in fault


def test_a_failure_of_which_no_copy_is_kept_is_wrong():
    history = ("failed",)
    report = end(state="failed", reason="MemoryError", history=history)
    kept = end(queue="taskqueue_failed", state="failed", reason="MemoryError", history=history)
    assert judge(report, kept, kind="eating memory").is_balanced
    assert judge(report, kind="eating memory").wrong == ["<1-the-one>: nothing in taskqueue_failed"]


@pytest.mark.parametrize("crashes", [2, 4])
def test_a_crash_that_is_not_counted_or_counted_twice_is_wrong(crashes):
    history = ("crashed",) * crashes
    report = end(state="failed", reason="WorkerCrashed")
    kept = end(queue="taskqueue_failed", state="failed", reason="WorkerCrashed", history=history)
    assert "miscounted" in judge(report, kept, kind="crashing").wrong[0]


def test_what_came_twice_must_have_a_cause():
    account = judge(end(), end(BEGAN + 20, message="m2"))
    assert len(account.unexplained) == 1
    assert not account.is_balanced


@pytest.mark.parametrize(
    ("kind", "target", "group"),
    [
        ("kill the broker", "broker", ""),
        ("cut a line", "pool a", ""),
        ("kill a supervisor", "pool a", ""),
        ("kill a consumer", "pool a", "lasting"),
        ("kill a dispatcher", "dispatcher b", ""),
    ],
)
def test_a_fault_that_hit_who_had_it_is_a_cause(kind, target, group):
    account = twice(kind, target, group)
    assert account.is_balanced
    assert account.doubled == {"<1-the-one>": kind}


@pytest.mark.parametrize(
    ("kind", "target", "group"),
    [
        ("kill a worker", "pool a", "lasting"),
        ("roll", "pool a", ""),
        *((command, "pool a", "") for command in COMMANDS),
        ("reload", "pool a", ""),
        ("delay a line", "pool a", ""),
        ("cut a line", "pool b", ""),
        ("kill a consumer", "pool a", "quick"),
        ("cut a line", "producer", ""),
    ],
)
def test_a_fault_that_doubles_nothing_or_hit_somebody_else_is_no_cause(kind, target, group):
    assert twice(kind, target, group).unexplained


@pytest.mark.parametrize(
    ("moment", "age"), [(BEGAN + 0.5, 0.0), (ENDED + 0.4, 0.4), (ENDED + 2.7, 2.7), (ENDED + 3.9, 3.9)]
)
def test_it_is_counted_how_long_the_broker_that_was_killed_had_known_what_it_forgot(moment, age):
    account = twice("kill the broker", "broker", began=moment)
    assert account.is_balanced
    assert account.forgotten == [pytest.approx(age)]


def test_what_was_done_for_longer_than_the_broker_may_forget_needs_another_cause():
    account = twice("kill the broker", "broker", began=ENDED + FORGOTTEN + 0.1)
    assert account.unexplained
    assert account.forgotten == []


def test_a_workitem_is_in_hand_while_it_runs_however_long_it_has_waited():
    cut = Hit("cut a line", "pool a", "", BEGAN + 0.1, BEGAN + 0.1)
    again = end(BEGAN + 20, message="m2", pool="b")
    assert judge(end(), again, hits=[cut], waited=30).is_balanced


@pytest.mark.parametrize("moment", [SUBMITTED - 10, ENDED + 10, BEGAN + 21.5])
def test_a_fault_before_or_after_is_no_cause(moment):
    assert twice("cut a line", "pool a", began=moment).unexplained


@pytest.mark.parametrize(("kind", "is_explained"), [("delayed", True), ("instant", False)])
def test_a_broker_that_goes_down_while_a_rung_has_a_workitem_may_double_it(kind, is_explained):
    broken = Hit("restart the broker", "broker", "", BEGAN + 0.8, BEGAN + 0.9)  # sent on at BEGAN - 0.1
    account = judge(end(BEGAN + 10), end(BEGAN + 10.1, message="m2"), hits=[broken], kind=kind)
    assert account.is_balanced is is_explained


def test_what_the_producer_published_twice_may_come_twice():
    account = judge(end(), end(BEGAN + 20, message="m2"), doubtful={"<1-the-one>"})
    assert account.is_balanced


def test_one_run_may_be_published_twice_over_a_lost_connection_but_not_reported_twice():
    broken = Hit("cut a line", "pool a", "", ENDED, ENDED)
    assert judge(end(), end(), hits=[broken]).is_balanced
    assert judge(end(), end()).unexplained
    assert judge(end(), end(message="m2"), hits=[broken]).unexplained


@pytest.mark.parametrize(
    ("kind", "target", "is_explained"),
    [
        ("raise an alarm", "broker", True),
        ("freeze a host", "pool a", True),
        ("delay a line", "pool a", True),
        ("freeze a host", "pool b", False),
        ("reload", "pool a", False),
    ],
)
def test_an_acknowledgement_that_was_held_up_until_the_line_was_cut_explains_a_second_run(
    kind, target, is_explained
):
    slow = Hit(kind, target, "", ENDED - 0.5, ENDED + 3)
    cut = Hit("cut a line", "pool a", "", ENDED + 3.2, ENDED + 3.2)
    account = judge(end(), end(BEGAN + 20, message="m2", pool="b"), hits=[slow, cut])
    assert account.is_balanced is is_explained


def judge_ticks(*seen):
    """Return what is made of three ticks of a schedule of which one was seen at each of these times."""
    (name, (_, step)) = next(iter(SCHEDULES.items()))
    state = {"definition": {"name": name}, "fired": 3, "fired_at": 100.0 + 2 * step}
    ends = [
        End(f"id {at} {each}", "ticks", "m", "succeeded", "", "x_a/1", at, at, tick=f"{name} {at}")
        for each, at in enumerate(seen)
    ]
    ticks = due([state], ends)
    return balance(Evidence(list(ticks), {tick.id: at for tick, at in ticks.items()}, set(), [], {}, ends))


def test_each_tick_that_the_register_tells_of_must_have_one_workitem():
    assert judge_ticks(100, 101, 102).is_balanced
    assert judge_ticks(100, 102).lost == ["by-interval 101"]
    assert judge_ticks(100, 101, 101, 102).wrong == ["id 101 1: was never submitted"]
    assert judge_ticks(100, 101, 102, 103).wrong == ["id 103 3: was never submitted"]


def test_a_workitem_is_in_hand_until_it_is_acknowledged():
    cut = Hit("cut a line", "pool a", "", ENDED + 3, ENDED + 3)
    again = end(BEGAN + 20, message="m2", pool="b")
    assert judge(end(), again, hits=[cut], unacknowledged=2.8).is_balanced
    assert judge(end(), again, hits=[cut], unacknowledged=2.3).unexplained
