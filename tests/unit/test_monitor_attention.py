"""The findings that need attention, in words, and the filters behind them."""

from dataclasses import replace
from urllib.parse import urlencode

from taskqueue.messages.events import Emitter
from taskqueue.monitor.record import Crashes, EmitterRow, TypeRow, TypeSum, Workitem
from taskqueue.monitor.web.attention import matters


def said(types=(), sums=(), crashes=(), emitters=()):
    return [
        (each.worker_type, each.text, urlencode(each.query))
        for each in matters(types, sums, crashes, emitters, "1h")
    ]


def test_nothing_needs_attention_while_work_goes_well():
    types = [TypeRow("mail", 5000, 3, 0, 900.0), TypeRow("new", 2, 0, 0, 1.0), TypeRow("idle", 0, 0, 0, None)]
    sums = [
        TypeSum("mail", "succeeded", 1000, 9.0),
        TypeSum("mail", "failed", 50, 9.0),
        TypeSum("rare", "failed", 5, 1.0),
    ]
    assert said(types, sums) == []


def test_crashes_are_counted_by_type_and_cause():
    crashes = [Crashes(0, "thumbnail", "", "SIGSEGV", 2), Crashes(60, "thumbnail", "north", "SIGSEGV", 1),
               Crashes(60, "mail", "", "exit status 3", 1)]  # fmt: skip
    assert said(crashes=crashes) == [
        ("thumbnail", "3 runs ended with the worker: SIGSEGV",
         "type=thumbnail&error=SIGSEGV&since=1h"),
        ("mail", "a run ended with the worker: exit status 3",
         "type=mail&error=exit+status+3&since=1h"),
    ]  # fmt: skip


def test_work_that_waits_while_nothing_runs_is_told():
    served = TypeRow("mail", 4, 0, 0, 120.0, consumers=1)
    unserved = TypeRow("report", 4, 0, 0, 1.0, consumers=0)
    later = TypeRow("later", 1, 0, 0, None, consumers=0)
    assert [(name, text) for name, text, _ in said([served, unserved, later])] == [
        ("mail", "4 wait, for up to 2 min, and nothing runs"),
        ("report", "4 wait, for up to 1.0 s, and no worker serves this type"),
        ("later", "1 wait, and no worker serves this type"),
    ]
    assert said([served])[0][2] == "type=mail&state=queued&state=scheduled"


def test_types_that_often_fail_are_told_the_worst_first():
    sums = [TypeSum("mail", "succeeded", 30, 1.0), TypeSum("mail", "failed", 10, 1.0),
            TypeSum("fax", "failed", 20, 1.0), TypeSum("fax", "retrying", 100, 1.0)]  # fmt: skip
    assert said(sums=sums) == [
        ("fax", "20 of 20 failed, 100 %", "type=fax&state=failed&state=rejected&since=1h"),
        ("mail", "10 of 40 failed, 25 %", "type=mail&state=failed&state=rejected&since=1h"),
    ]


def test_an_alarm_of_the_broker_is_told_first():
    row = EmitterRow(Emitter("h", "consumer", "mail", 1, 0.0), 0.0, is_blocked=True)
    crash = Crashes(0, "mail", "", "SIGKILL", 1)
    assert [text for _, text, _ in said(crashes=[crash], emitters=[row])] == [
        "the broker has an alarm: 1 process waits until it takes messages",
        "a run ended with the worker: SIGKILL",
    ]


def test_a_group_of_which_no_worker_stays_is_told():
    row = EmitterRow(Emitter("h", "consumer", "mail", 1, 0.0), 0.0, state="waits for a worker")
    row = replace(row, crashes=7, crash="exit status 78\x1b[2J")
    (matter,) = said(emitters=[row, replace(row, crashes=1), replace(row, state="takes work")])
    assert matter[:2] == ("mail", "no worker stays on h: 7 have ended, the last one: exit status 78\\x1b[2J")


def test_a_workitem_that_runs_much_longer_than_others_is_told():
    sums = [TypeSum("mail", "succeeded", 99, 9.0), TypeSum("mail", "failed", 1, 1.0),
            TypeSum("report", "succeeded", 10, 600.0), TypeSum("rare", "rejected", 1, 0.0)]  # fmt: skip
    ran = {"mail": (61, 125, 3), "report": (1199,), "rare": (900,)}
    running = [
        Workitem(f"{name}-{each}", name, "running", started=1000.0 - each)
        for name, many in ran.items()
        for each in many
    ]
    running += [Workitem("new", "mail", "running")]
    found = matters((), sums, (), (), "1h", running=running, now=1000.0)
    assert [(each.worker_type, each.text, urlencode(each.query)) for each in found] == [
        ("mail", "a workitem has run for 2 min 5 s; others take 0.1 s", "type=mail&state=running")
    ]
    short = [TypeSum("mail", "succeeded", 99, 0.05)]
    (found_short,) = matters((), short, (), (), "1h", running=running[:2], now=1000.0)
    assert found_short.text == "a workitem has run for 2 min 5 s; others take less than 0.001 s"
    found = matters((), sums, (), (), "1h", running=running, now=1002.0)
    assert [each.worker_type for each in found] == ["report", "mail"], "20 times the mean of a minute"
    assert not matters((), sums, (), (), "1h", running=running[:1], now=998.0), "a minute is not long"


def test_the_list_is_bounded():
    assert len(said(crashes=[Crashes(0, f"type{number}", "", "SIGSEGV", 1) for number in range(100)])) == 12
