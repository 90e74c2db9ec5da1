"""Chains whose steps travel in a header: no process keeps them."""

import json

import pytest
from support.foreign import Foreign
from support.ground import Ground
from support.processes import run_cli
from support.waiting import wait_until

from taskqueue import AsyncClient, CallCancelled, Client, TaskFailed, chain, group

TASKS = """
import time
from pathlib import Path
from taskqueue import task, Extend

@task
def add(a, b):
    return a + b

@task
def note(value, path):
    with Path(path).open("a") as notes:
        notes.write(f"{value}\\n")
    return value

@task
def wait(value, begun, gate):
    Path(begun).touch()
    while not Path(gate).exists():
        time.sleep(0.02)
    return value

@task(retries=0)
def read(value, path):
    return value + Path(path).read_text()

@task(retries=0)
def divide(a, b):
    return a / b

@task
def repeat(text, number):
    return text * number

@task
def grow(value):
    return Extend(value)
"""


@pytest.fixture(scope="module")
def chaining(shared: Ground) -> Ground:
    path = shared.directory / "links.py"
    path.write_text(TASKS)
    shared.work_anew(path, "-n", "2")
    shared.start("dispatcher")
    return shared


@pytest.fixture
def client(chaining: Ground):
    with AsyncClient(chaining.url) as client:
        yield client


def test_each_step_gets_the_result_of_the_one_before_it(client: AsyncClient) -> None:
    assert client.submit(chain(("add", 2, 2), ("add", 4), ("add", 8))).result(20) == 16
    assert client.submit(chain(("add", "a", "b"))).result(20) == "ab"


def test_a_chain_has_a_thousand_steps(client: AsyncClient) -> None:
    assert client.submit(chain(("add", 0, 1), *[("add", 1)] * 999)).result(100) == 1000


def test_a_client_waits_for_the_last_step(chaining: Ground) -> None:
    with Client(chaining.url) as client:
        assert client.call(chain(("add", [1], [2]), ("add", [3])), timeout=20) == [1, 2, 3]


def test_the_steps_of_a_chain_are_workitems_with_ids_and_options_of_their_own(chaining: Ground) -> None:
    foreign = Foreign(chaining.url)
    foreign.declare("worker_unserved")
    with AsyncClient(chaining.url, tenant="acme") as client:
        call = client.submit(chain(("add", 1, 2), ("unserved", 3), ("add", 4)))
        message = foreign.get("worker_unserved")
        assert json.loads(message.body)["params"] == [3, 3]
        assert message.message_id == f"{call.id}.1"
        assert message.correlation_id == call.id
        assert message.headers["x-taskqueue-tenant"] == "acme"
        assert json.loads(message.headers["x-taskqueue-chain"])["number"] == 2
    foreign.close()


@pytest.mark.parametrize(
    ("first", "second", "failure"),
    [
        (("add", 1, 0), ("divide", 0), ("ZeroDivisionError", "division by zero")),
        (("add", "x", ""), ("repeat", 1024 * 1024), ("ResultUnwritable", "the result has 1,048,")),
    ],
)
def test_a_chain_fails_with_the_step_that_fails(client: AsyncClient, chaining, first, second, failure):
    notes = chaining.open / f"after-{second[0]}"
    with pytest.raises(TaskFailed, match=failure[1]) as caught:
        client.submit(chain(first, second, ("note", str(notes)))).result(20)
    assert caught.value.type == failure[0]
    assert not notes.exists()


def test_a_step_of_a_chain_adds_no_others(client: AsyncClient) -> None:
    with pytest.raises(TaskFailed, match="its workitem is no step of a workflow"):
        client.submit(chain(("add", 1, 2), "grow")).result(20)


def test_a_cancelled_chain_goes_on_to_no_other_step(client: AsyncClient, chaining: Ground) -> None:
    begun, gate, notes = (chaining.open / name for name in ("begun", "gate", "notes"))
    call = client.submit(chain(("add", 1, 2), ("wait", str(begun), str(gate)), ("note", str(notes))))
    wait_until(begun.exists, 20)
    assert call.cancel()
    with pytest.raises(CallCancelled):
        call.result(20)
    gate.touch()
    assert not notes.exists()


def test_a_dead_letter_that_is_retried_goes_on_with_its_chain(client: AsyncClient, chaining: Ground) -> None:
    text, notes = chaining.open / "text", chaining.open / "read"
    call = client.submit(chain(("add", "a", "b"), ("read", str(text)), ("note", str(notes))))
    with pytest.raises(TaskFailed, match="No such file"):
        call.result(20)
    text.write_text("c")
    run_cli("failed", "retry", f"{call.id}.1", "--amqp", chaining.url)
    wait_until(lambda: notes.exists() and notes.read_text() == "abc\n", 20)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (
            chain(group("add", "add"), "add"),
            "its parts are not all calls; start it as a workflow",
        ),
        (chain(*["add"] * 3000), "a header has at most 65,536"),
    ],
)
def test_a_chain_that_a_header_cannot_express_is_refused(client: AsyncClient, wrong, complaint) -> None:
    with pytest.raises(ValueError, match=complaint):
        client.submit(wrong)


@pytest.mark.parametrize(
    "header",
    [
        *("[]", "{}", "x" * 70_000, "[" * 10_000, 5),
        '{"id": "a", "number": 1, "steps": [5]}',
        '{"id": "a", "number": 1, "steps": [{"type": "", "params": [], "options": {}}]}',
        '{"id": "a", "number": 1, "steps": [{"type": "add", "params": [], "options": {"delay": "a"}}]}',
    ],
)
def test_a_malformed_chain_fails(chaining: Ground, header) -> None:
    foreign = Foreign(chaining.url)
    foreign.declare("answers")
    foreign.publish(
        json.dumps({"jsonrpc": "2.0", "method": "add", "params": [1, 2], "id": 1}),
        reply_to="answers",
        content_type="application/json",
        application_headers={"x-taskqueue-chain": header},
    )
    assert "x-taskqueue-chain: " in json.loads(foreign.get("answers").body)["error"]["message"]
    foreign.close()
