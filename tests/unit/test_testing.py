"""The bench for users' tests: what happens in service happens on it."""

import asyncio
import json

import pytest
from support import remote
from support.documentation import example

from taskqueue import (
    BadArguments,
    BaseWorker,
    CallCancelled,
    CallTimeout,
    Retry,
    TaskFailed,
    UnknownTask,
    chain,
    node,
)
from taskqueue.amqp.properties import Properties
from taskqueue.calls.task import Task, tasks_of
from taskqueue.testing import Bench


@pytest.fixture
def bench():
    with Bench(remote, retry_delay=60.0, retry_jitter=0.0) as bench:
        yield bench


def test_a_task_is_called_and_its_errors_are_those_of_service(bench):
    assert bench.client.add(5, 6) == 11
    for call, error, text in [
        (lambda: bench.client.divide(1, 0), TaskFailed, "ZeroDivisionError: division by zero"),
        (lambda: bench.client.add(1), BadArguments, "add(a, b): missing a required argument: 'b'"),
        (bench.client.nothing, UnknownTask, "queue worker_nothing does not exist: no worker serves it"),
    ]:
        with pytest.raises(error) as caught:
            call()
        assert str(caught.value) == text
    assert [reason.header("x-taskqueue-reason") for reason, _ in bench.failed] == [
        "ZeroDivisionError: division by zero"
    ]
    assert len(bench.rejected) == 2


def test_an_async_call_waits_until_it_is_performed(bench):
    call = bench.async_client.add(5, 6)
    assert call.status() == "QUEUED"
    assert bench.run() == 2  # the dispatcher's step, and the worker's
    assert (call.status(), call.result()) == ("SUCCEEDED", 11)
    assert asyncio.run(_await(bench.async_client.add(1, 2), bench)) == 3
    assert list(bench.async_client.map("add", [(1, 2), (3, 4)])) == [3, 7]
    assert bench.client.map_reduce(["a b", "c"], map="words", reduce="count") == 3


async def _await(call, bench):
    bench.run()
    return await call


def test_a_crash_runs_it_again_until_there_were_too_many(bench, tmp_path):
    gate, note = tmp_path / "gate", tmp_path / "note"
    gate.touch()
    bench.crash("wait", 2)
    call = bench.async_client.wait(str(gate), str(note))
    bench.run()
    assert call.status() == "RETRYING"  # the first at once, the second after a second
    assert call.result(timeout=10)
    assert len(note.read_text().splitlines()) == 3
    bench.crash("add", 3)
    with pytest.raises(TaskFailed, match="WorkerCrashed: killed by SIGKILL; 3 crashes in all"):
        bench.client.add(1, 2)


def test_redelivery_runs_it_twice(bench, tmp_path):
    gate, note = tmp_path / "gate", tmp_path / "note"
    gate.touch()
    bench.redeliver("wait")
    assert bench.client.wait(str(gate), str(note))
    assert len(note.read_text().splitlines()) == 2


def test_time_passes_as_the_test_wants(tmp_path):
    class Late(BaseWorker):
        def handle_task(self, body):
            if self.workitem.attempt == 1:
                raise Retry("later", delay=3600)
            self.progress(0.5, "half")
            return body

    with Bench(plugins={"late": Late()}) as bench:
        bench.submit("late", "now")
        bench.run()
        bench.advance(3590)
        assert bench.run() == 0
        bench.advance(20)
        assert bench.run() == 1
        ((_, value),) = bench.results
        assert value == "now"
        call = bench.async_client.late()
        with pytest.raises(CallTimeout):
            call.result(timeout=60)
        assert call.result(timeout=7200)["method"] == "late"
        assert call.progress() == (0.5, "half")


def test_a_workitem_whose_time_is_over_is_not_run(bench, tmp_path):
    note = tmp_path / "note"
    properties = Properties(
        message_id="late", type="wait", content_type="application/json", expiration="5000"
    )
    bench.put("taskqueue", properties, json.dumps(["/", str(note)]).encode())
    assert bench.step()  # the dispatcher's
    bench.advance(10)
    bench.run()
    ((kept, _),) = bench.failed
    assert kept.header("x-taskqueue-reason").startswith("WorkitemExpired: ")
    assert not note.exists()


def test_a_cancelled_call_is_not_run(bench, tmp_path):
    note = tmp_path / "note"
    call = bench.async_client.wait("/", str(note))
    call.cancel()
    with pytest.raises(CallCancelled):
        call.result()
    assert not note.exists()


def test_tasks_are_the_functions_themselves_with_their_names():
    assert isinstance(node.add, Task)
    assert node.add(5, 6) == 11
    assert node.add.__doc__ == "Return the sum."
    assert [task.name for task in tasks_of("taskqueue.node")] == ["add", "echo", "sleep", "subtract"]


EXAMPLES = {
    "README.md": example("README.md", "# on the bench"),
    "docs/calling.md": example("docs/calling.md", "# on the bench"),
}


@pytest.mark.parametrize("page", EXAMPLES)
def test_the_documentations_examples_of_the_bench_run(page):
    exec(compile(EXAMPLES[page], page, "exec"), {"__name__": "example"})


def test_a_bench_refuses_a_chain(bench):
    assert bench.client.call(chain(("add", 5, 6))) == 11
    with pytest.raises(ValueError, match="a bench runs no chains"):
        bench.client.call(chain(("add", 5, 6), ("add", 7)))
