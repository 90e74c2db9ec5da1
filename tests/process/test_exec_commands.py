"""Commands in mode exec: a process for each workitem, in a worker of its own."""

import gzip
import json
import os
import signal
import sys
from pathlib import Path

import pytest
from support.commanding import commanded, ready
from support.processes import exists
from support.waiting import wait_until

from taskqueue.amqp.properties import Properties
from taskqueue.errors import ExitStatus
from taskqueue.worker.frames import Kind, Verdict

__all__ = ["commanded", "ready"]

JSON = "application/json"
INTERNAL = 0b11 << 31  # signals 32 and 33, which the C library keeps to itself; they may be inherited


def headers(**values):
    return Properties().with_headers(values).header_table


def outcome(line, body, **properties):
    """Return verdict and error of a workitem; the worker must go on."""
    found = line.perform(body, **properties)
    return found.verdict, found.error


# --- input and output ---


def test_the_body_is_the_input_and_the_output_is_the_result(ready):
    line = ready("/usr/bin/tr a-z A-Z")
    found = line.perform("grüße\n")
    assert (found.verdict, found.content_type) == (Verdict.SUCCEEDED, "text/plain; charset=utf-8")
    assert found.body == "GRüßE\n".encode()
    assert line.perform('{"a": [1, 2]}', content_type=JSON).body == b'{"A": [1, 2]}'  # as it was published
    assert line.perform(gzip.compress(b"abc"), content_encoding="gzip").body == b"ABC"
    assert line.perform(b"a\xff\0b", content_type="image/png").body == b"A\xff\0B"
    assert line.perform(b"").body == b""
    assert line.perform("x" * 3_000_000).body == b"X" * 3_000_000
    asked = json.dumps({"jsonrpc": "2.0", "method": "trial", "id": 1})
    assert line.value(asked, content_type=JSON) == {"jsonrpc": "2.0", "result": asked.upper(), "id": 1}
    assert line.hang_up() == ExitStatus.OK


def test_a_command_may_ignore_its_input(ready):
    line = ready("/bin/echo {name} world")
    assert line.perform(b"x" * 3_000_000, header_table=headers(name="hello")).body == b"hello world\n"


def test_output_that_is_in_the_pipe_at_the_end_is_in_the_result(ready):
    code = "import fcntl, os; os.write(1, bytes(fcntl.fcntl(1, fcntl.F_SETPIPE_SZ, 1 << 20)))"
    line = ready(f"{sys.executable} -Sc '{code}'")
    assert [line.perform("").body == bytes(1 << 20) for _ in range(5)] == [True] * 5


def test_the_media_type_of_results_is_the_groups(ready):
    line = ready("/bin/cat", result_type="image/png")
    found = line.perform(b"\x89PNG", content_type="image/png")
    assert (found.content_type, found.body) == ("image/png", b"\x89PNG")
    line = ready("/bin/cat", result_type=JSON)
    assert line.value('{"a": 1}\n') == {"a": 1}
    verdict, error = outcome(line, "{")
    assert verdict is Verdict.FAILED
    assert error.startswith("CommandFailed: its output is not JSON: ")


def test_a_command_has_its_workitem_in_its_environment_and_nothing_of_the_pool(ready, monkeypatch):
    monkeypatch.setenv("SECRET", "k1ngf1sher")
    monkeypatch.setenv("LANG", "C.UTF-8")
    line = ready("/usr/bin/env")
    printed = line.perform("", message_id="a\0b", header_table=headers(**{"x-taskqueue-tenant": "acme"})).body
    assert dict(each.split("=", 1) for each in printed.decode().splitlines()) == {
        "TASKQUEUE_ID": "ab",
        "TASKQUEUE_ATTEMPT": "1",
        "TASKQUEUE_TYPE": "trial",
        "TASKQUEUE_TENANT": "acme",
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "HOME": os.environ["HOME"],
    }


def test_a_command_has_no_files_but_its_streams_and_heeds_all_signals(ready):
    listing = 'import os; print(sorted(os.listdir("/proc/self/fd")))'
    files = ready(f"{sys.executable} -Sc '{listing}'").perform("").body.decode()
    assert files == "['0', '1', '2', '3']\n"  # the last one is that of the listing
    status = ready("/bin/grep -E Sig(Ign|Blk) /proc/self/status").perform("").body.decode().split()
    assert status[:3] == ["SigBlk:", "0" * 16, "SigIgn:"]
    assert int(status[3], 16) & ~INTERNAL == 0


# --- arguments ---


def test_fields_become_arguments_and_pass_no_shell(ready):
    line = ready("/usr/bin/printf <%s> {a} --size={size} x{{y}} -- {b}")
    values = {"a": "$(id); *", "size": 1.5, "b": "-rf"}
    expected = b"<$(id); *><--size=1.5><x{y}><--><-rf>"
    assert line.perform(json.dumps(values), content_type=JSON).body == expected
    asked = {"jsonrpc": "2.0", "method": "trial", "params": values, "id": 1}
    assert line.value(json.dumps(asked), content_type=JSON)["result"] == expected.decode()
    assert line.perform("text", header_table=headers(a="ü", size=-2, b="")).body == (
        "<ü><--size=-2><x{y}><--><>".encode()
    )


def test_fields_that_cannot_be_arguments_reject_the_workitem(ready):
    line = ready("/bin/echo {a}")
    option = "field 'a' would make an option of its argument: it begins with '-', and no argument '--' is "
    for value, complaint in [
        ('{"b": 1}', "field 'a' is missing; expected text or a number"),
        ('{"a": ["x"]}', "field 'a': expected text or a number, found a list"),
        ('{"a": true}', "field 'a': expected text or a number, found true or false"),
        ('{"a": "-o/etc/passwd"}', f"{option}before it in the command"),
        ('{"a": -1}', f"{option}before it in the command"),
        ('{"a": 1e400}', "field 'a': expected a finite number"),
        (r'{"a": "x\u0000"}', "field 'a': expected text without null characters and lone surrogates"),
        (r'{"a": "\ud800"}', "field 'a': expected text without null characters and lone surrogates"),
        (json.dumps({"a": "x" * 131_072}), "field 'a' makes an argument of 131072 bytes; at most 131071"),
    ]:
        found = outcome(line, value, content_type=JSON)
        assert found == (Verdict.REJECTED, f"BadArguments: {complaint}")


def test_more_arguments_than_the_system_allows_reject_the_workitem(ready):
    for command in ("{a} " * 30, "x" * 200_000):
        line = ready(f"/bin/echo {command}")
        found = outcome(line, json.dumps({"a": "x" * 131_000}), content_type=JSON)
        assert found == (Verdict.REJECTED, "BadArguments: the arguments are longer than the system allows")


# --- ends ---

ENDING = """/bin/sh -c 'echo first >&2; printf "no disk" >&2; exit "$1"' sh {status}"""


def test_the_exit_status_is_the_verdict_and_the_end_of_stderr_the_error(ready):
    line = ready(ENDING)
    for status, verdict, error in [
        (0, Verdict.SUCCEEDED, ""),
        (75, Verdict.RETRY, "Retry: first\nno disk"),
        (65, Verdict.REJECTED, "Reject: first\nno disk"),
        (3, Verdict.FAILED, "CommandFailed: exit status 3: first\nno disk"),
    ]:
        assert outcome(line, json.dumps({"status": status}), content_type=JSON) == (verdict, error)
    failure = line.failure('{"status": 1}', content_type=JSON)
    assert failure["error"] == {
        "type": "CommandFailed", "message": "exit status 1: first\nno disk", "traceback": ""
    }  # fmt: skip
    assert failure["workitem"] == {"status": 1}
    for status, verdict in (75, Verdict.RETRY), (65, Verdict.REJECTED):
        assert line.failure(f'{{"status": {status}}}', verdict, content_type=JSON)["error"]["traceback"] == ""
    assert line.child.output() == "first\nno disk\n" * 7  # and nothing else
    line = ready("""/bin/sh -c 'seq 10000 >&2; exit "$1"' sh {status}""")
    message = line.failure('{"status": 75}', Verdict.RETRY, content_type=JSON)["error"]["message"]
    assert message.splitlines() == [str(number) for number in range(9183, 10_001)]
    assert ready("/bin/false").failure("")["error"]["message"] == "exit status 1"


def test_a_command_that_a_signal_kills_is_a_crash_by_that_signal(ready):
    line = ready("/bin/sh -c 'kill -SEGV $$'")
    line.send("")
    assert line.child.wait() == -signal.SIGSEGV
    assert line.child.output() == "ERROR: /bin/sh was killed by SIGSEGV\n"


def test_the_processor_limit_is_that_of_each_process_of_the_command(ready):
    most = 9000  # MiB; the process of the tests, which a worker is a copy of, has hundreds
    line = ready("/bin/sh -c 'ulimit -t; ulimit -v'", cpu_limit=7, memory_limit=most)
    assert line.perform("").body.split() == line.perform("").body.split() == [b"7", b"%d" % (most * 1024)]


def test_a_flood_of_output_is_cut_off_and_is_a_failure(ready):
    flooding = (
        """/bin/sh -c 'test "$1" != /dev/zero || echo $$ >&2; cat "$1"; test "$1" != /dev/zero || sleep 99'"""
    )
    line = ready(f"{flooding} sh {{file}}", max_result=100_000)
    found = outcome(line, '{"file": "/dev/zero"}', content_type=JSON)
    assert found == (Verdict.FAILED, "CommandFailed: its output has more than 100000 bytes (max_result)")
    assert not exists(int(line.child.output().split()[0]))
    assert line.perform("x" * 100_000, header_table=headers(file="/proc/self/fd/0")).body == b"x" * 100_000


SLEEPING = """/bin/sh -c '%s sleep 1000 & echo $$ $! >&2; wait'"""


def test_after_its_timeout_a_command_is_ended_with_all_its_processes(ready, tmp_path):
    heard = tmp_path / "heard"
    for before in (f'trap "echo >{heard}; exit" TERM;', 'trap "" TERM;', "setsid"):
        line = ready(SLEEPING % before, timeout=0.3, timeout_grace=0.4)
        assert outcome(line, "") == (Verdict.FAILED, "TaskTimeout: its timeout of 0.3 s has passed")
        pids = [int(word) for word in line.child.output().split()]
        assert len(pids) == 2
        assert [each for each in pids if exists(each)] == []
        assert line.hang_up() == ExitStatus.OK
    assert heard.exists()


def test_processes_that_a_command_leaves_are_killed_and_keep_no_worker_waiting(ready, tmp_path):
    line = ready("""/bin/sh -c 'sleep 1000 & echo $!; setsid sleep 1000 & echo $!'""")
    for _ in range(2):
        left = [int(word) for word in line.perform("").body.split()]
        assert len(left) == 2
        assert [each for each in left if exists(each)] == []
    os.mkfifo(fifo := tmp_path / "fifo")  # by which it waits for the first lines of a flood without end
    line = ready(f"/bin/sh -c '(seq 9999 >&2; echo >{fifo}; exec yes >&2) & read x <{fifo}; echo left'")
    assert line.perform("").body == b"left\n"


def test_a_command_dies_with_its_worker(ready):
    line = ready("/bin/sh -c 'echo $$ >&2; exec sleep 1000'")
    line.send("")
    wait_until(lambda: line.child.output().endswith("\n"))
    pid = int(line.child.output())
    assert exists(pid)
    line.child.signal(signal.SIGKILL)
    assert line.child.wait() == -signal.SIGKILL
    wait_until(lambda: not exists(pid))


# --- programs that cannot be started ---


def test_a_program_that_cannot_be_run_is_no_plugin(commanded, tmp_path):
    file = tmp_path / "file"
    file.write_text("#!/bin/sh\n")
    for program, complaint in [
        (tmp_path / "none", f"the command's program {tmp_path}/none does not exist"),
        (tmp_path, f"{tmp_path} is not a program that this user can execute"),
        (file, f"{file} is not a program that this user can execute"),
    ]:
        line = commanded(str(program))
        assert line.child.wait() == ExitStatus.PLUGIN
        assert line.child.output() == f"ERROR: cannot start: {complaint}\n"


@pytest.mark.parametrize(
    ("begin", "reason"),
    [
        (None, "No such file or directory"),
        ("#!/no/such/interpreter\n", "No such file or directory"),
        ("echo a shell has read this\n", "Exec format error"),
        ("\x7fELF\2\1\1" + 11 * "\0" + "\1\1", "Exec format error"),  # of another processor
    ],
)
def test_a_workitem_whose_program_has_gone_runs_later_and_its_worker_is_replaced(
    ready, tmp_path, begin, reason
):
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    line = ready(str(program))
    assert line.perform("").body == b""
    Path(program).unlink()
    if begin:
        program.write_text(begin)
        program.chmod(0o755)
    assert outcome(line, "") == (Verdict.RETRY, f"Retry: {program} cannot be started: {reason}")
    assert line.receive() == (Kind.RETIRING, b"")
