"""Programs in mode stream that get lines ahead of their turn: what is charged to whom, and when."""

import json
import sys

import pytest
from support.commanding import commanded, ready

from taskqueue.errors import ExitStatus
from taskqueue.worker.frames import Kind, Verdict

__all__ = ["commanded", "ready"]

#: Performs the code in each body. It reads all lines that are there, as most programs do.
PROGRAM = """
import json, os, sys, time

def line():
    global rest
    while b"\\n" not in rest:
        data = os.read(3, 65536)
        if not data:
            sys.exit()
        rest += data
    first, _, rest = rest.partition(b"\\n")
    return json.loads(first)

def ahead():
    return rest.count(b"\\n")

def answer(id, result="done"):
    os.write(4, json.dumps({"id": id, "status": "succeeded", "result": result}).encode() + b"\\n")

rest = b""
while True:
    item = line()
    exec(item["body"])
"""
DONE = 'answer(item["id"])'
PID = 'answer(item["id"], os.getpid())'
AHEAD = 'answer(item["id"], ahead())'
ALONE = f"{sys.executable} %s; its first workitem without an answer runs again, alone"
TRIES = 50  # a busy machine may let a program seem slow


@pytest.fixture
def quick(ready, tmp_path):
    """Send workitems to a quick program, until it has those behind the first one ahead of their turn.

    quick(*codes, **options) returns the line. The first code must answer with `ahead()`, and must be harmless
    where there is nothing ahead. `most` of those behind it can be ahead.
    """
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)

    def send(*codes, warm=4, most=15, **options):
        for _ in range(TRIES):
            line = ready(f"{sys.executable} -S {program}", mode="stream", **options)
            assert [line.perform(DONE).body for _ in range(warm)] == [b"done"] * warm
            line.send_together(*codes)
            if json.loads(line.outcome().body) == min(most, len(codes) - 1):
                return line
            line.child.signal(9)
            line.child.wait()
        raise AssertionError(f"the program had nothing ahead in {TRIES} tries")

    return send


def results(line, number):
    """Return the results of the next workitems, all of which succeed."""
    outcomes = [line.outcome() for _ in range(number)]
    assert [each.verdict for each in outcomes] == [Verdict.SUCCEEDED] * number, outcomes
    return [each.body.decode() for each in outcomes]


def test_a_quick_program_gets_lines_ahead_and_a_slow_one_does_not(quick):
    line = quick(AHEAD, DONE, DONE)
    assert results(line, 2) == ["done"] * 2
    assert line.perform(f"time.sleep(0.05); {DONE}").body == b"done"
    line.send_together(AHEAD, DONE)
    assert results(line, 2) == ["0", "done"]
    assert line.hang_up() == ExitStatus.OK
    assert line.child.output() == ""


def test_a_long_body_waits_for_its_turn(quick):
    line = quick(AHEAD, AHEAD, AHEAD)
    assert results(line, 2) == ["1", "0"]
    line.send_together(AHEAD, f"{DONE} #{'x' * 5000}", AHEAD, DONE)
    assert results(line, 4)[0] == "0"


def test_a_crash_is_charged_to_the_workitem_that_was_running_and_to_none_with_a_line_behind_it(quick):
    line = quick(AHEAD, DONE, "os._exit(3)", DONE)
    assert results(line, 1) == ["done"]
    assert line.child.wait() == 3
    assert line.connection.recv(100) == b""  # no outcome of the two others, of which the first one is charged
    assert line.child.output().splitlines() == [
        f"WARNING: {ALONE % 'ended: exit status 3'}",
        f"ERROR: {sys.executable} ended with a workitem in hand: exit status 3",
    ]


def test_a_crash_is_charged_at_once_if_a_line_came_from_the_workitem(quick):
    log = """os.write(4, json.dumps({"id": item["id"], "log": "begun"}).encode() + b"\\n")"""
    line = quick(AHEAD, f"{log}; os._exit(3)", DONE)
    assert line.child.wait() == 3
    assert line.child.output().splitlines() == [
        "INFO: begun",
        f"ERROR: {sys.executable} ended with a workitem in hand: exit status 3",
    ]


def test_a_program_that_ends_between_two_workitems_is_started_again_with_lines_ahead(quick):
    line = quick(f"{AHEAD}; ahead() and os._exit(0)", PID, PID)
    one, other = results(line, 2)
    assert one == other
    assert line.perform(PID).body.decode() == one
    assert line.child.output() == f"WARNING: {ALONE % 'ended: exit status 0'}\n"


def test_the_timeout_counts_from_the_answer_before(quick):
    sleep = f"time.sleep(1.4); {DONE}"
    line = quick(AHEAD, sleep, sleep, "time.sleep(99)", PID, timeout=2, timeout_grace=2)
    assert results(line, 2) == ["done", "done"]
    late = line.outcome()
    assert (late.verdict, late.error) == (Verdict.FAILED, "TaskTimeout: its timeout of 2 s has passed")
    assert late.ended - late.started >= 2
    (pid,) = results(line, 1)
    assert line.perform(PID).body.decode() == pid


def test_answers_may_come_in_any_order_and_outcomes_are_in_theirs(quick):
    others = "n = ahead(); others = [line()['id'] for _ in range(n)]; [answer(id, id) for id in others[::-1]]"
    line = quick(f"{others}; answer(item['id'], n)", DONE, DONE, DONE)
    assert results(line, 3) == ["1", "2", "3"]
    assert line.child.output() == ""


def test_an_answer_without_a_workitem_is_no_fault_of_the_one_behind_it(quick):
    line = quick(f"{AHEAD}; ahead() and {AHEAD}", PID)
    (pid,) = results(line, 1)
    assert line.perform(PID).body.decode() == pid
    fault = "answered for id '0', expected '1'"
    assert line.child.output() == f"WARNING: {ALONE % fault}\n"


def test_a_worker_begins_no_more_ahead_than_it_may_perform(quick):
    line = quick(AHEAD, DONE, DONE, DONE, warm=4, most=1, max_tasks=6)
    assert results(line, 1) == ["done"]
    assert line.receive() == (Kind.RETIRING, b"")
