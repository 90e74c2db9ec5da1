"""Calling tasks: what a client gets, whatever becomes of the call."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import remote
from support.processes import children
from support.waiting import wait_until

import taskqueue
from taskqueue import (
    AsyncClient,
    CallCancelled,
    Client,
    TaskFailed,
)


def pids(path):
    return path.read_text().split() if path.exists() else []


# --- as documented ---


def test_a_client_calls_tasks_as_if_they_were_here(client):
    assert client.add(5, 6) == 11
    assert client.images.thumbnail("a.png") == ["a.png", 128]
    assert client.call("add", 5, 6, timeout=10) == 11
    assert client.images.thumbnail(path="b.png", width=7) == ["b.png", 7]
    assert client.later("soon") == "soon"


def test_options_of_calls_are_in_their_messages(served):
    served.foreign.declare("worker_unserved")
    with AsyncClient(served.url, tenant="acme", tags=["a", "b"]) as client:
        client.options(priority=9, delay=1).unserved()
        sent = served.foreign.get("worker_unserved", 20)
    assert (sent.headers["x-taskqueue-tenant"], sent.headers["x-taskqueue-labels"]) == ("acme", "a b")
    assert sent.priority == 9
    assert sent.headers["x-taskqueue-due"] > sent.timestamp


def test_an_async_client_gives_calls_that_tell_status_and_result(async_client, tmp_path):
    gate = tmp_path / "gate"
    busy = [async_client.wait(str(gate)) for _ in range(2)]  # as many as there are workers
    wait_until(lambda: [call.status() for call in busy] == ["RUNNING"] * 2)
    call = async_client.add(5, 6)
    wait_until(lambda: call.status() != "SENDING")
    assert (call.status(), call.done()) == ("QUEUED", False)
    gate.touch()
    assert call.result(timeout=10) == 11
    assert (call.status(), call.done(), call.wait()) == ("SUCCEEDED", True, True)
    assert [call.wait(10) and call.status() for call in busy] == ["SUCCEEDED"] * 2


def test_a_call_can_be_awaited(async_client):
    async def call_some():
        calls = [async_client.add(number, 1) for number in range(100)]
        return await asyncio.gather(*calls), [
            value async for value in async_client.map("add", [(1, 2), (3, 4)])
        ]

    assert asyncio.run(call_some()) == (list(range(1, 101)), [3, 7])


def test_map_is_in_order_and_takes_no_more_than_a_window_ahead(async_client):
    taken = []

    def arguments():
        for number in range(2500):
            taken.append(number)
            yield (number, 1)

    values = async_client.map("add", arguments())
    assert next(values) == 1
    assert len(taken) <= 1001
    assert list(values) == list(range(2, 2501))


def test_map_reduce_gives_one_task_what_the_other_returned(client, async_client):
    assert client.map_reduce(["to be", "or not to be"], map="words", reduce="count") == 6
    assert async_client.map_reduce(["to be"], map="words", reduce="count").result(10) == 2


def test_a_task_is_the_function_itself_and_is_called_elsewhere_by_the_same_signature(served, monkeypatch):
    monkeypatch.setenv("TASKQUEUE_AMQP", served.url)
    assert remote.add(5, 6) == 11
    assert remote.add.call(5, b=6) == 11
    assert remote.add.submit(5, 6).result(10) == 11
    with Client(served.url) as client:
        assert client.call(remote.add, 5, b=6) == 11


def test_direct_calls_need_no_dispatcher(served):
    with Client(served.url, direct=True) as client:
        assert client.add(5, 6) == 11


def test_workitems_that_nobody_waits_for_are_submitted_by_the_thousand(served, client, tmp_path):
    gate, notes = tmp_path / "gate", tmp_path / "notes"
    gate.touch()
    arguments = ([str(gate), str(notes)] for _ in range(50))
    assert client.submit_many("wait", arguments) == 50
    wait_until(lambda: len(pids(notes)) == 50)


# --- on the way ---


def test_status_and_progress_come_while_the_task_runs(async_client, tmp_path):
    gate = tmp_path / "gate"
    call = async_client.wait(str(gate))
    wait_until(call.progress)
    assert call.status() == "RUNNING"
    assert call.progress() == (0.4, "so far")
    gate.touch()
    assert call.result(10)


def test_a_task_that_asks_for_it_runs_again_and_succeeds(async_client, tmp_path):
    called = []
    call = async_client.stubborn(str(tmp_path / "notes"))
    call.add_done_callback(called.append)
    assert call.result(20) == "at last"
    assert pids(tmp_path / "notes") == ["run"] * 3
    wait_until(lambda: called == [call])


def test_a_running_call_is_stopped_and_its_worker_replaced_without_a_crash(served, async_client, tmp_path):
    note = tmp_path / "note"
    call = async_client.wait(str(tmp_path / "never"), str(note))
    wait_until(lambda: pids(note))
    assert call.cancel()
    with pytest.raises(CallCancelled) as caught:
        call.result(10)
    print(caught.value)
    assert (str(caught.value), call.status()) == ("cancelled by its caller", "CANCELLED")
    assert not call.cancel()
    (victim,) = pids(note)
    wait_until(lambda: not Path(f"/proc/{victim}").exists())
    wait_until(lambda: len(children(served.pool.pid)) == 3)
    assert pids(note) == [victim]
    assert f"process {victim}, ended" not in served.pool.output()


def test_a_queued_call_is_dropped_before_it_starts(async_client, tmp_path):
    gate, note = tmp_path / "gate", tmp_path / "note"
    busy = [async_client.wait(str(gate)) for _ in range(2)]
    wait_until(lambda: all(call.status() == "RUNNING" for call in busy))
    queued = [async_client.wait(str(gate), str(note)) for _ in range(3)]
    wait_until(lambda: all(call.status() == "QUEUED" for call in queued))
    for call in (*queued, busy[0]):
        call.cancel()
    assert busy[0].wait(10)  # the consumer has heard of all of them, in that order
    gate.touch()
    assert busy[1].result(10)
    for call in queued:
        with pytest.raises(CallCancelled):
            call.result(10)
    assert pids(note) == []


def test_what_was_cancelled_before_its_workers_came_is_stopped_when_it_starts(ground, tmp_path):
    ground.foreign.declare("worker_wait")
    with AsyncClient(ground.url, direct=True) as client:
        call = client.wait(str(tmp_path / "never"))
        wait_until(lambda: call.status() == "QUEUED")
        call.cancel()
        ground.work(Path(remote.__file__), "-n", "1")
        with pytest.raises(CallCancelled):
            call.result(20)
        gate = tmp_path / "gate"
        gate.touch()
        assert client.wait(str(gate)).result(10)


# --- who serves them ---


def test_the_pool_serves_the_tasks_of_installed_packages(ground):
    ground.start("dispatcher")
    note = ground.directory / "open" / "note"
    note.parent.mkdir(exist_ok=True)
    note.parent.chmod(0o777)
    ground.start(
        "workerpool", "[DEFAULT]\nworkers: 0\n[remote]\nworkers: 2\nretries: 1\n", ready="takes work"
    )
    with Client(ground.url) as client:
        assert client.add(5, 6) == 11
        assert client.images.thumbnail("a.png") == ["a.png", 128]
        with pytest.raises(TaskFailed, match="ZeroDivisionError"):
            client.divide(1, 0)
        assert client.stubborn(str(note)) == "at last"
    kept = ground.foreign.get("taskqueue_failed")
    assert len(kept.headers["x-taskqueue-history"]) == 2  # the group's one retry; the task's own are three


def test_what_waits_behind_long_tasks_of_another_queue_goes_to_another_host(ground, tmp_path):
    gate = tmp_path / "gate"
    busy = ground.work(Path(remote.__file__), "-n", "1")
    with AsyncClient(ground.url, direct=True) as client:
        long = client.wait(str(gate))
        wait_until(lambda: long.status() == "RUNNING")
        short = [client.add(number, 1) for number in range(3)]
        ground.work(Path(remote.__file__), "-n", "1")
        assert [call.result(20) for call in short] == [1, 2, 3]
        assert long.status() == "RUNNING"
        gate.touch()
        assert long.result(10)
    assert busy.stop() == 0


def test_a_module_without_tasks_and_jobs_is_refused_in_a_line(ground):
    (ground.directory / "empty.py").write_text("")
    with pytest.raises(AssertionError, match="expected a function 'handle_job', not found"):
        ground.work_anew(ground.directory / "empty.py")


def test_two_tasks_of_one_name_are_refused_in_a_line(ground):
    code = "from taskqueue import task\n@task\ndef a(): ...\n@task(name='a')\ndef b(): ...\n"
    (ground.directory / "twice.py").write_text(code)
    with pytest.raises(AssertionError, match="two tasks are called 'a': one of twice, one of twice"):
        ground.work_anew(ground.directory / "twice.py")


def test_a_type_checker_knows_the_signature_of_a_task(tmp_path):
    pytest.importorskip("mypy")
    code = """
from typing import assert_type
from taskqueue import Call, Client, AsyncClient, task

@task
def add(a: int, b: int) -> int:
    return a + b

@task(name="half", timeout=1.0)
def halve(a: int) -> float:
    return a / 2

assert_type(add(5, 6), int)
assert_type(add.call(5, 6), int)
assert_type(add.submit(5, b=6), Call[int])
assert_type(halve.call(5), float)
assert_type(Client().call(add, 5, 6), int)
assert_type(AsyncClient().submit(halve, 1), Call[float])
assert_type(AsyncClient().submit(halve, 1).result(timeout=1), float)
add.call("5", 6)  # error
add.submit(5)  # error
Client().call(add, 5, "6")  # error
"""
    file = tmp_path / "typed.py"
    file.write_text(code)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports", "silent"]
    command += ["--cache-dir", str(tmp_path / "cache"), str(file)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(Path(taskqueue.__file__).parents[1])},
    )
    wrong = [number for number, line in enumerate(code.splitlines(), 1) if line.endswith("# error")]
    found = sorted({int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error:" in line})
    assert found == wrong, done.stdout + done.stderr


ZEROTASK = """
from taskqueue.node import Node
from taskqueue import task

@task
def shout(foo):
    return foo.upper()

Node().start()
"""


def test_a_node_serves_the_tasks_of_its_script(served, daemon, tmp_path):
    script = tmp_path / "shouting.py"
    script.write_text(ZEROTASK)
    node = daemon([sys.executable, str(script)], env={"TASKQUEUE_AMQP": served.url})
    node.wait_for("takes work")
    with Client(served.url) as client:
        assert client.shout("hey") == "HEY"
    assert node.stop() == 0


def test_a_node_without_a_script_says_so():
    code = "from taskqueue.node import Node; Node().start()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.endswith(
        "TargetError: Node().start() serves the tasks of a script, and Python was started without one\n"
    )


@pytest.mark.parametrize("timeout", [float("inf"), 1e300])
def test_an_endless_timeout_is_none(client, async_client, timeout):
    assert client.call("add", 5, 6, timeout=timeout) == 11
    assert async_client.add(5, 6).result(timeout=timeout) == 11


def test_a_timeout_that_is_no_number_is_refused(client, async_client):
    with pytest.raises(ValueError, match="expected a timeout in seconds, found nan"):
        client.call("add", 5, 6, timeout=float("nan"))
    with pytest.raises(ValueError, match="expected a timeout in seconds, found nan"):
        async_client.add(5, 6).result(timeout=float("nan"))
