"""Calls that fail, as their callers see it."""

import subprocess
import sys
import time

import pytest
from support.processes import exists
from support.waiting import wait_until

from taskqueue import (
    BadArguments,
    BrokerUnavailable,
    CallTimeout,
    Client,
    TaskFailed,
    UnknownTask,
)
from taskqueue.errors import BrokerRefused


def pids(path):
    return path.read_text().split() if path.exists() else []


ERRORS = {
    "a function that raises": (
        lambda client: client.divide(1, 0),
        TaskFailed,
        "ZeroDivisionError: division by zero",
    ),
    "no such task": (
        lambda client: client.nothing(1),
        UnknownTask,
        "queue worker_nothing does not exist: no worker serves it",
    ),
    "an argument too few": (
        lambda client: client.add(1),
        BadArguments,
        "add(a, b): missing a required argument: 'b'",
    ),
    "an argument of another name": (
        lambda client: client.add(a=1, c=2),
        BadArguments,
        "add(a, b): missing a required argument: 'b'",
    ),
    "a result that JSON cannot express": (
        lambda client: client.inexpressible(),
        TaskFailed,
        (
            "ResultUnwritable: the result, a set, cannot be sent as JSON: "
            "Object of type set is not JSON serializable"
        ),
    ),
    "arguments that JSON cannot express": (
        lambda client: client.add(1, {2}),
        TypeError,
        "add: the arguments cannot be sent as JSON: Object of type set is not JSON serializable",
    ),
    "arguments by position and by name": (
        lambda client: client.add(1, b=2),
        TypeError,
        "add: arguments go by position or by name, not both (JSON-RPC 2.0, section 4.2)",
    ),
    "a task that wants no more of it": (lambda client: client.refuse(), TaskFailed, "Reject: never that"),
    "a task that takes too long": (
        lambda client: client.images.thumbnail("slow.png"),
        TaskFailed,
        "TaskTimeout: its timeout of 0.3 s has passed",
    ),
    "a worker that dies each time": (
        lambda client: client.die(),
        TaskFailed,
        "WorkerCrashed: killed by SIGKILL; 3 crashes in all",
    ),
}


@pytest.mark.parametrize("what", ERRORS)
def test_each_error_is_a_line_for_the_user(client, what):
    call, expected, text = ERRORS[what]
    with pytest.raises(expected) as caught:
        call(client)
    print(f"{type(caught.value).__name__}: {caught.value}")
    assert type(caught.value) is expected
    assert str(caught.value) == text


def test_the_remote_traceback_is_shown_below_the_callers_own(served):
    code = f"from taskqueue import Client\nClient({served.url!r}).divide(1, 0)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30
    )
    print(done.stderr)
    assert "taskqueue.errors.TaskFailed: ZeroDivisionError: division by zero" in done.stderr
    assert "return a / b" in done.stderr.partition("TaskFailed:")[2]


def test_a_coroutine_past_its_timeout_has_ended_before_its_caller_hears_of_it(client, tmp_path):
    notes = tmp_path / "notes"
    with pytest.raises(TaskFailed, match=r"TaskTimeout: its timeout of 0\.3 s has passed"):
        client.charge(str(notes), False)
    assert (tmp_path / "notes.cancelled").exists()


def test_a_coroutine_past_its_timeout_may_clean_up_before_its_caller_hears_of_it(client, tmp_path):
    notes = tmp_path / "notes"
    with pytest.raises(TaskFailed, match=r"TaskTimeout: its timeout of 0\.3 s has passed"):
        client.tidy(str(notes))
    assert notes.read_text() == "tidied"


def test_a_timeout_reaches_the_coroutine_that_it_is_for_and_no_other_on_its_loop(client, served):
    deaths = served.pool.output().count("ended:")
    for _ in range(3):
        with pytest.raises(TaskFailed, match=r"TaskTimeout: its timeout of 0\.3 s has passed"):
            client.divided()
    assert served.pool.output().count("ended:") == deaths


@pytest.mark.parametrize("name", ["charge", "threaded"])
def test_a_worker_whose_coroutine_was_interrupted_is_replaced_with_its_threads(
    client, tmp_path, served, name
):
    notes = tmp_path / "notes"
    deaths = served.pool.output().count("ended:")
    arguments = [str(notes), True] if name == "charge" else [str(notes)]
    with pytest.raises(TaskFailed, match="TaskTimeout"):
        client.call(name, *arguments)
    process = int((tmp_path / "notes.pid").read_text())
    # With it ends what it still had to do, for long.
    wait_until(lambda: not exists(process), what=served.pool.output)
    assert served.pool.output().count("ended:") == deaths


def test_no_result_in_time_is_a_timeout_and_the_call_goes_on(async_client, tmp_path):
    gate = tmp_path / "gate"
    call = async_client.wait(str(gate))
    with pytest.raises(CallTimeout) as caught:
        call.result(timeout=0.2)
    print(caught.value)
    assert str(caught.value) == f"no result of wait within 0.2 s; call {call.id} continues"
    wait_until(lambda: call.status() == "RUNNING")
    gate.touch()
    assert call.result(10) > 0


def test_without_a_broker_a_call_fails_in_time():
    with Client("amqp://guest:guest@127.0.0.1:1/", broker_timeout=0.5) as client:
        begun = time.monotonic()
        with pytest.raises(BrokerUnavailable) as caught:
            client.add(5, 6)
    print(caught.value)
    assert time.monotonic() - begun < 5
    assert str(caught.value) == (
        "the call could not be sent within 0.5 s: "
        "the broker at 127.0.0.1:1 cannot be reached: Connection refused"
    )


def test_who_is_refused_hears_it_at_once(served):
    with Client(served.url.replace("taskqueue:", "taskqueue:not"), broker_timeout=20) as client:
        begun = time.monotonic()
        with pytest.raises(BrokerRefused, match="refused user 'taskqueue': wrong name or password"):
            client.add(5, 6)
    assert time.monotonic() - begun < 10


def test_an_alarm_of_the_broker_fails_a_call_in_time_and_what_was_given_up_is_not_sent_later(
    broker, served, tmp_path
):
    note = tmp_path / "note"
    with Client(served.url, broker_timeout=1) as client:
        assert client.add(1, 1) == 2
        broker.set_alarm(on=True)
        try:
            for _ in range(2):
                with pytest.raises(BrokerUnavailable) as caught:
                    client.wait("/", str(note))
        finally:
            broker.set_alarm(on=False)
        print(caught.value)
        assert "the broker has an alarm" in str(caught.value)
        wait_until(lambda: client.add(1, 1) == 2)
    assert len(pids(note)) <= 1  # the first may have been on its way when the alarm came
