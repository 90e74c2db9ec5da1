"""Receipts: the end of a step's workitem, however it comes, is told to its workflow."""

import json
import time
import uuid
import zlib

import pytest
from support.ground import Ground
from support.processes import run_cli
from support.waiting import wait_until

from taskqueue import AsyncClient
from taskqueue.config import AmqpSettings
from taskqueue.monitor.cancelling import cancel

PROOF = "8f3c.0123456789abcdef"
MOST = 1024 * 1024
FLOW_ARGUMENTS = {"x-queue-type": "quorum", "x-single-active-consumer": True}

POOL = """
[DEFAULT]
workers: 1
retries: 0
[evaluate]
[tell]
"""
MORE_TASKS = """

@task
def grow():
    from taskqueue import Extend
    more = Extend(["page"])
    more.add("add", 1, 2, step="add")
    return more
"""


class Steps:
    """Publishes steps, and takes their receipts."""

    def __init__(self, ground: Ground) -> None:
        self.ground, self.foreign = ground, ground.foreign

    def publish(self, type_, body, **fields):
        """Publish a step; return its workflow's id."""
        workflow = uuid.uuid4().hex
        headers = fields.pop("headers", {})
        ids = {"x-taskqueue-workflow": workflow, "x-taskqueue-step": "one[3]", "x-taskqueue-run": 2}
        self.foreign.publish(
            body if isinstance(body, bytes) else json.dumps(body),
            **{"type": type_, "content_type": "application/json", "message_id": f"{workflow}.one", **fields},
            application_headers={**ids, "x-taskqueue-proof": PROOF, **headers},
        )
        return workflow

    def receipt(self, workflow, timeout=20):
        """Take the receipt; return it without the fields that all of them have."""
        message = self.foreign.get(f"taskqueue_flow_{zlib.crc32(workflow.encode()) % 4}", timeout)
        assert (message.content_type, message.delivery_mode) == ("application/json", 2)
        found = json.loads(message.body)
        assert abs(found.pop("ended") - time.time()) < 60
        origin = {name: found.pop(name) for name in ("kind", "workflow", "step", "run", "proof")}
        assert origin == {"kind": "receipt", "workflow": workflow, "step": "one[3]", "run": 2, "proof": PROOF}
        return found

    def run(self, type_, body, **fields):
        """Publish a step; return its receipt."""
        return self.receipt(self.publish(type_, body, **fields))


def call(task, *params):
    return {"jsonrpc": "2.0", "method": task, "params": params, "id": "a"}


@pytest.fixture(scope="module")
def flowing(shared: Ground) -> Ground:
    """A ground with tasks and plugins for steps, and with queues from which one can get."""
    path = shared.directory / "remote.py"
    source = shared.directory.parent / "samples" / "remote.py"
    path.write_text(source.read_text() + MORE_TASKS)
    shared.work_anew(path, "-n", "2")
    for number in range(4):
        shared.foreign.declare(f"taskqueue_flow_{number}")
    shared.start("workerpool", POOL)
    shared.dispatcher = shared.start("dispatcher")
    return shared


@pytest.fixture
def steps(flowing: Ground) -> Steps:
    return Steps(flowing)


def test_the_queue_of_a_shard_is_declared_by_whoever_needs_it_first(ground: Ground) -> None:
    ground.start("dispatcher")
    steps = Steps(ground)
    steps.foreign.declare("taskqueue_rejected")
    workflow = steps.publish("no type", {})
    assert steps.foreign.get("taskqueue_rejected").message_id == f"{workflow}.one"
    limit = {} if steps.foreign.server_version().startswith("3.") else {"x-delivery-limit": -1}
    queue = f"taskqueue_flow_{zlib.crc32(workflow.encode()) % 4}"
    wait_until(lambda: steps.foreign.depth(queue) == 1, 20, lambda: queue)
    steps.foreign.declare(queue, arguments=FLOW_ARGUMENTS | limit)  # refused unless it has these


@pytest.mark.parametrize(
    ("type_", "body", "told"),
    [
        ("add", call("add", "a", "b"), {"result": "ab"}),
        ("add", [1, 2], {"result": 3}),
        ("later", call("later", {"deep": [None, 1.5]}), {"result": {"deep": [None, 1.5]}}),
        ("add", {"jsonrpc": "2.0", "method": "add", "params": [1, 2]}, {"result": None}),
        ("evaluate", "'a text'", {"result": "a text"}),
        ("evaluate", "b'bytes'", {"size": 5}),
        ("evaluate", "'x' * (1024 * 1024 - 2)", {"result": "x" * (MOST - 2)}),
        ("evaluate", "'x' * (1024 * 1024 - 1)", {"size": MOST - 1}),
        ("evaluate", "['x' * (1024 * 1024)]", {"size": MOST + 4}),
        ("later", call("later", "x" * MOST), {"size": MOST + len('{"jsonrpc":"2.0","result":"","id":"a"}')}),
    ],
)  # fmt: skip
def test_the_receipt_of_a_success_has_the_result_if_it_is_json_and_small(steps: Steps, type_, body, told):
    assert steps.run(type_, body) == {"status": "succeeded"} | told


def test_the_result_of_a_step_goes_to_its_workflow_only(steps: Steps) -> None:
    for queue, reply_to in (("results", {}), ("asked", {"reply_to": "asked"})):
        steps.foreign.declare(queue)
        steps.run("add", call("add", 1, 2), correlation_id="of a step", **reply_to)
        ordinary = {"type": "add", "content_type": "application/json", "correlation_id": "ordinary"}
        steps.foreign.publish(json.dumps(call("add", 1, 2)), **ordinary, **reply_to)
        assert steps.foreign.get(queue).correlation_id == "ordinary"


def test_a_step_may_add_others(steps: Steps) -> None:
    step = {"step": "add", "type": "add", "params": [1, 2]}
    assert steps.run("grow", call("grow")) == {"status": "succeeded", "result": ["page"], "extend": [step]}


def test_only_a_step_may_add_others(steps: Steps) -> None:
    with AsyncClient(steps.ground.url) as client:
        error = client.submit("grow")
        error.wait(20)
    assert "returned Extend, but its workitem is no step of a workflow" in str(error.error())


@pytest.mark.parametrize(
    ("type_", "body", "failure"),
    [
        ("divide", call("divide", 1, 0), ("failed", "ZeroDivisionError", "division by zero")),
        ("evaluate", "{1, 2}", ("failed", "ResultUnwritable", "handle_task returned a set")),
        ("refuse", call("refuse"), ("rejected", "Reject", "never that")),
        ("divide", call("divide", 1), ("rejected", "BadArguments", "divide(a, b): missing a required")),
        ("die", call("die"), ("failed", "WorkerCrashed", "killed by SIGKILL")),
        ("no type", "{}", ("rejected", "Unroutable", "'no type'")),
    ],
)  # fmt: skip
def test_the_receipt_of_a_failure_has_its_cause(steps: Steps, type_, body, failure) -> None:
    told = steps.run(type_, body)
    assert (told["status"], told["error"]["type"]) == failure[:2]
    assert failure[2] in told["error"]["message"]
    assert told.keys() == {"status", "error"}


def test_a_step_that_has_expired_is_failed(steps: Steps) -> None:
    told = steps.run("add", call("add", 1, 2), headers={"x-taskqueue-deadline": time.time() - 1})
    assert (told["status"], told["error"]["type"]) == ("failed", "WorkitemExpired")


def test_a_cancelled_step_is_told(steps: Steps) -> None:
    notes = steps.ground.open / "begun"
    workflow = steps.publish("wait", call("wait", str(steps.ground.open / "never"), str(notes)))
    wait_until(notes.exists, 20)
    cancel(AmqpSettings.from_url(steps.ground.url), [(f"{workflow}.one", None)])
    told = steps.receipt(workflow)
    assert (told["status"], told["error"]["type"]) == ("cancelled", "CallCancelled")


def test_a_duplicate_is_told(steps: Steps) -> None:
    gate = steps.ground.open / "gate"
    unique = {"x-taskqueue-unique": "one"}
    first = steps.publish("wait", call("wait", str(gate)), headers=unique)
    second = steps.publish("wait", call("wait", str(gate)), headers=unique)
    told = steps.receipt(second)
    assert told["status"] == "duplicate"
    assert first in told["error"]["message"]
    gate.touch()
    assert steps.receipt(first)["status"] == "succeeded"


def test_a_dead_letter_that_is_retried_goes_on_with_its_workflow(steps: Steps) -> None:
    notes = steps.ground.open / "retried"
    workflow = steps.publish("evaluate", f"open({str(notes)!r}).read()")
    assert steps.receipt(workflow)["status"] == "failed"
    shown = run_cli("failed", "show", workflow, "--amqp", steps.ground.url).stdout
    assert workflow in shown
    assert PROOF not in shown
    notes.write_text("found")
    run_cli("failed", "retry", f"{workflow}.one", "--amqp", steps.ground.url)
    assert steps.receipt(workflow) == {"status": "succeeded", "result": "found"}


def test_a_handler_does_not_see_the_proof(steps: Steps) -> None:
    told = steps.run("tell", {})
    assert told["result"]["headers"] == ["x-taskqueue-run", "x-taskqueue-step", "x-taskqueue-workflow"]


@pytest.mark.parametrize(
    "headers",
    [
        {"x-taskqueue-workflow": "nobody's"},
        {"x-taskqueue-step": "a step\n"},
        {"x-taskqueue-run": "one"},
        {"x-taskqueue-run": -1},
        {"x-taskqueue-proof": "x" * 101},
        {"x-taskqueue-proof": None},
    ],
)
def test_a_workitem_with_malformed_headers_of_a_step_is_an_ordinary_one(steps: Steps, headers) -> None:
    steps.foreign.declare("results")
    workflow = steps.publish("add", call("add", 20, 3), headers=headers)
    assert json.loads(steps.foreign.get("results").body)["result"] == 23
    assert steps.foreign.poll(f"taskqueue_flow_{zlib.crc32(workflow.encode()) % 4}") is None
