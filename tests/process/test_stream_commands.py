"""Commands in mode stream: a program that performs one workitem after the other, in a worker of its own."""

import json
import signal
import sys
from pathlib import Path

import pytest
from support.commanding import commanded, ready
from support.processes import exists
from support.waiting import wait_until

from taskqueue.amqp.properties import Properties
from taskqueue.errors import ExitStatus
from taskqueue.process.usage import resident_memory
from taskqueue.worker.frames import Kind, ProgressFrame, Verdict

__all__ = ["commanded", "ready"]

JSON = "application/json"

#: Performs the code in each body, with `say` to answer.
PROGRAM = """
import json, os, resource, select, sys, time

def say(**answer):
    write(json.dumps({"id": item["id"], **answer}) + "\\n")

def write(text):
    data = text.encode()
    while data:
        data = data[os.write(4, data):]

for line in open(3, buffering=1):
    item = json.loads(line)
    exec(item["body"])
"""
DONE = 'say(status="succeeded", result="done")'
OWN_ID = 'say(status="succeeded", result=os.getpid())'


@pytest.fixture
def performing(ready, tmp_path):
    """Start a worker whose program performs code: performing(timeout=..., ...)."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    return lambda **options: ready(f"{sys.executable} -S {program}", mode="stream", **options)


def error(line, code, verdict=Verdict.FAILED):
    """Return the error of a workitem; the worker must go on, with a program that works."""
    found = line.perform(code)
    assert found.verdict is verdict
    assert line.perform(DONE).body == b"done"
    return found.error


# --- lines ---


def test_a_program_gets_each_workitem_as_a_line_and_answers_by_one(performing):
    line = performing()
    assert line.value('say(status="succeeded", result=item)', message_id="a") == {
        "id": "a",
        "attempt": 1,
        "type": "trial",
        "tenant": "",
        "content_type": "text/plain",
        "body": 'say(status="succeeded", result=item)',
    }
    text = line.perform('say(status="succeeded", result="ü")')
    assert (text.content_type, text.body) == ("text/plain; charset=utf-8", "ü".encode())
    assert line.value('say(status="succeeded")') is None
    code = 'say(status="succeeded", encoding="base64", result="Yf8="'
    data = line.perform(f"{code})")
    assert (data.content_type, data.body) == ("application/octet-stream", b"a\xff")
    assert line.perform(f'{code}, content_type="image/png")').content_type == "image/png"
    assert line.value(json.dumps(OWN_ID), content_type=JSON) == line.value(OWN_ID)
    pid = line.value(f"import atexit; atexit.register(print, 'the end'); {OWN_ID}")
    assert line.hang_up() == ExitStatus.OK
    assert not exists(pid)
    assert line.child.output() == "the end\n"


def test_doubled_braces_in_a_command_are_braces(ready):
    code = (
        "import json, sys; answer = {{'id': json.loads(open(3).readline())['id'], 'status': 'succeeded'}};"
        "print(json.dumps({{**answer, 'result': sys.argv}}), file=open(4, 'w'))"
    )
    line = ready(f'{sys.executable} -Sc "{code}" ' + "{{x}}", mode="stream")
    assert line.value("") == ["-c", "{x}"]


def test_a_body_that_is_no_text_is_base64(ready, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.replace('exec(item["body"])', 'say(status="succeeded", result=item)'))
    line = ready(f"{sys.executable} -S {program}", mode="stream")
    item = line.value(b"a\xff", content_type="image/png")
    assert (item["body"], item["encoding"], item["content_type"]) == ("Yf8=", "base64", "image/png")
    found = line.perform("[NaN]", content_type=JSON)
    assert found.error.startswith("WorkitemUnreadable: the body cannot be passed on as JSON: ")
    long = json.dumps(["x" * 3_000_000, {"a": None}], indent=1)
    assert json.dumps(line.value(long, content_type=JSON)["body"], indent=1) == long


def test_the_status_of_an_answer_is_the_verdict(performing):
    line = performing()
    assert error(line, 'say(status="failed", error="no disk")') == "CommandFailed: no disk"
    assert error(line, 'say(status="failed")') == "CommandFailed: it gave no reason"
    assert error(line, 'say(status="rejected", error="no use")', Verdict.REJECTED) == "Reject: no use"
    found = line.perform('say(status="retry", error="later", delay=2.5)')
    assert (found.verdict, found.delay, found.error) == (Verdict.RETRY, 2.5, "Retry: later")
    assert line.perform('say(status="retry")').delay == -1
    assert "expected a delay in seconds" in error(line, 'say(status="retry", delay="soon")')
    assert error(line, 'say(status="done")') == (
        "CommandFailed: answered with status 'done', expected succeeded, failed, rejected or retry"
    )
    assert "is not base64" in error(line, 'say(status="succeeded", result="Yf8=!", encoding="base64")')
    wrong = 'say(status="succeeded", result="", encoding="base64", content_type="a\\nb")'
    assert "is no media type" in error(line, wrong)
    assert line.child.output() == ""  # it was the same program all along


def test_a_program_prints_and_logs_and_reports_progress(performing):
    line = performing()
    code = (
        'print("{\\"id\\": 1}", flush=True); print("oh", file=sys.stderr); say(log="begun", level="warning");'
        'say(progress=0.5, text="half"); say(log="two\\nlines", status="succeeded")'
    )
    line.send(code, message_id="a")
    wait_until(lambda: "two" in line.child.output())
    assert line.child.output() == '{"id": 1}\noh\nWARNING: begun\nINFO: two\nINFO: lines\n'
    line.connection.settimeout(1)
    assert line.outcome().verdict is Verdict.SUCCEEDED
    asked = Properties().with_headers({"x-taskqueue-notify": True})
    line.send('say(progress=2, text=7); say(status="succeeded")', header_table=asked.header_table)
    kind, payload = line.receive()
    assert (kind, ProgressFrame.decode(payload)) == (Kind.PROGRESS, ProgressFrame(2, 1.0, "7"))
    assert line.outcome().verdict is Verdict.SUCCEEDED


# --- programs that break the protocol ---


def test_a_program_that_breaks_the_protocol_fails_its_workitem_and_is_replaced(performing):
    line = performing(max_result=1000)
    name = f"CommandFailed: {sys.executable}"
    before = line.value(OWN_ID)
    for code, complaint in [
        ('write(\'{"id": "b", "status": "succeeded"}\\n\')', "answered for id 'b', expected 'id'"),
        ('write(\'{"status": "succeeded"}\\n\')', "answered for id None, expected 'id'"),
        ('write("hello\\n")', "wrote a line that is not JSON: 'hello'"),
        ('write("[]\\n")', "wrote a line that is no JSON object: '[]'"),
        ('write(\'{"id": "id"}\\n\')',
         "wrote a line without status, progress or log: '{\"id\": \"id\"}'"),
        ('say(progress="half")', "answered with progress 'half', expected a number"),
        ('write("x" * 1001)', "wrote a line of more than 1000 bytes (max_result)"),
        ('write("x" * 1001 + "\\n")', "wrote a line of more than 1000 bytes (max_result)"),
        ("while True: write('x' * 100000)", "wrote a line of more than 1000 bytes (max_result)"),
        ("os.close(4); time.sleep(99)", "closed descriptor 4"),
    ]:  # fmt: skip
        assert error(line, code) == f"{name} {complaint}"
        pid = line.value(OWN_ID)
        assert pid != before
        assert not exists(before)
        before = pid


def test_a_program_that_does_not_read_any_more_fails_the_next_workitem_and_is_replaced(performing):
    line = performing()
    before = line.value(f"os.close(3); {OWN_ID}; time.sleep(99)")
    assert error(line, OWN_ID) == f"CommandFailed: {sys.executable} closed descriptor 3"
    assert not exists(before)


def test_a_program_that_writes_without_a_workitem_is_replaced_and_nothing_is_charged(performing):
    line = performing()
    pid = line.value(
        OWN_ID.replace("say(", "write(2 * (lambda **a: json.dumps({'id': 'id'} | a) + '\\n')(") + ")"
    )
    assert line.value(OWN_ID) != pid
    assert line.child.output() == (
        f"ERROR: {sys.executable} wrote a line without a workitem, or closed descriptor 4; it is replaced\n"
    )


def test_a_program_is_ended_after_the_timeout_and_another_one_gets_the_next_workitem(ready, performing):
    line = performing(timeout=1, timeout_grace=0.4)  # in which a program starts, even on a busy machine
    before = line.value(OWN_ID)
    assert error(line, "time.sleep(99)") == "TaskTimeout: its timeout of 1 s has passed"
    assert not exists(before)
    line = ready("/bin/sh -c 'sleep 1000'", mode="stream", timeout=0.3, timeout_grace=0.4)
    for _ in range(2):  # which it does not read
        found = line.perform("x" * 1_000_000)
        assert found.error == "TaskTimeout: its timeout of 0.3 s has passed"
    assert line.hang_up() == ExitStatus.OK


# --- ends ---


@pytest.mark.parametrize(
    ("code", "status", "cause"),
    [
        ("os._exit(3)", 3, "exit status 3"),
        ("os._exit(0)", 0, "exit status 0"),
        ("os.kill(os.getpid(), 11)", -signal.SIGSEGV, "killed by SIGSEGV"),
        ("os.close(4); os.close(3); os._exit(4)", 4, "exit status 4"),
    ],
)
def test_a_program_that_ends_with_a_workitem_in_hand_is_a_crash(performing, code, status, cause):
    line = performing()
    line.send(code)
    assert line.child.wait() == status
    assert line.child.output() == f"ERROR: {sys.executable} ended with a workitem in hand: {cause}\n"
    assert line.connection.recv(100) == b""


def test_processes_that_an_ended_program_has_left_are_killed_and_keep_no_worker_waiting(performing):
    line = performing()
    line.send("left = os.fork(); left and (print(left, flush=True), os._exit(5)); time.sleep(99)")
    assert line.child.wait() == 5
    assert not exists(int(line.child.output().split()[0]))


def test_a_program_that_ends_between_two_workitems_is_started_again_and_nothing_is_charged(performing):
    line = performing()
    ended = f"WARNING: {sys.executable} ended between two workitems: exit status 3\n"
    first = line.value(f"{OWN_ID}; os._exit(3)")
    wait_until(lambda: not exists(first) or is_zombie(first))
    second = line.value(OWN_ID)
    assert line.child.output() == ended
    # It ends once the next workitem is there, of which it reads nothing.
    assert line.value(f"{OWN_ID}; select.select([3], [], []); os._exit(3)") == second
    third = line.value(OWN_ID)
    assert line.child.output() == 2 * ended
    assert len({first, second, third}) == 3


def is_zombie(pid):
    return ") Z " in Path(f"/proc/{pid}/stat").read_text()


def test_a_program_that_ends_before_it_reads_anything_is_a_crash(ready):
    line = ready("/bin/true", mode="stream")
    line.send("")
    assert line.child.wait() == 0
    assert "ended with a workitem in hand: exit status 0\n" in line.child.output()


def test_a_program_that_cannot_be_started_is_no_plugin(commanded, tmp_path):
    program = tmp_path / "program"
    program.write_text("\x7fnothing")
    program.chmod(0o755)
    line = commanded(str(program), mode="stream")
    assert line.child.wait() == ExitStatus.PLUGIN
    assert f"cannot start: {program} cannot be started: Exec format error\n" in line.child.output()


def test_a_program_and_all_that_it_left_end_with_their_worker(performing):
    code = "import subprocess; left = subprocess.Popen(['setsid', 'sleep', '1000']).pid;"
    line = performing()
    pids = line.value(f'{code} say(status="succeeded", result=[left, os.getpid()])')
    assert line.hang_up() == ExitStatus.OK
    assert [pid for pid in pids if exists(pid)] == []
    line = performing()
    pid = line.value(OWN_ID)
    line.child.signal(signal.SIGKILL)
    assert line.child.wait() == -signal.SIGKILL
    wait_until(lambda: not exists(pid))


# --- limits ---


def test_the_limits_of_a_group_hold_for_the_program(performing):
    own = resident_memory() >> 20  # of this process, which the worker is forked from; in MiB
    line = performing(cpu_limit=7, memory_limit=4000, max_memory=own + 200)
    limits = "[resource.getrlimit(each)[0] for each in (resource.RLIMIT_CPU, resource.RLIMIT_AS)]"
    assert line.value(f'say(status="succeeded", result={limits})') == [8, 4000 << 20]
    assert line.perform(f"kept = bytearray(100 << 20); {DONE}").body == b"done"
    assert line.perform(f"kept += bytes({own + 150} << 20); {DONE}").body == b"done"
    assert line.receive() == (Kind.RETIRING, b"")
