"""Unique work: a second workitem with a key is not run, and its caller gets the first one's result."""

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.foreign import Foreign
from support.ground import Ground
from support.processes import dispatchers, run_cli
from support.waiting import wait_until

from taskqueue import AsyncClient, CallCancelled, Client, DuplicateCall, task
from taskqueue.broker.topology import CLAIMS

UNIQUE, UNIQUE_FOR, DUPLICATE_OF = "x-taskqueue-unique", "x-taskqueue-unique-for", "x-taskqueue-duplicate-of"
CLAIM = "x-taskqueue-claim"
TENANT, STATUS = "x-taskqueue-tenant", "x-taskqueue-status"
LOG = "taskqueue_claims"


class Runs:
    """Workitems that note their runs and last until they are released."""

    def __init__(self, served: Ground, name: str) -> None:
        self.ground, self.foreign = served, served.foreign
        self.gate, self.notes = served.open / f"{name}-gate", served.open / f"{name}-notes"
        self.answers = f"answers-{name}"
        self.foreign.declare(self.answers)

    def submit(self, number: int, key: str = "", **headers: object) -> None:
        """Submit the call number so and so of the task that waits for the gate."""
        request = {
            "jsonrpc": "2.0",
            "method": "wait",
            "params": [str(self.gate), str(self.notes)],
            "id": number,
        }
        table = {UNIQUE: key or self.answers} | headers
        self.foreign.publish(
            json.dumps(request),
            message_id=f"{self.answers}-{number}",
            correlation_id=f"call {number}",
            reply_to=self.answers,
            content_type="application/json",
            application_headers=table,
        )

    def answer(self):
        """Take the next answer."""
        return self.foreign.get(self.answers, 20)

    @property
    def number(self) -> int:
        """The number of runs that have begun."""
        return len(self.notes.read_text().splitlines()) if self.notes.exists() else 0


@pytest.fixture
def runs(served: Ground, request: pytest.FixtureRequest) -> Runs:
    return Runs(served, request.node.name.partition("[")[0])


def test_the_caller_of_a_duplicate_gets_the_id_and_then_the_result_of_the_first(runs: Runs) -> None:
    runs.submit(1)
    wait_until(lambda: runs.number == 1)
    runs.submit(2)
    said = runs.answer()
    assert said.correlation_id == "call 2"
    assert (said.headers[STATUS], said.headers[DUPLICATE_OF]) == ("duplicate", f"{runs.answers}-1")
    assert json.loads(said.body) == {
        "jsonrpc": "2.0", "method": "duplicate", "params": {"id": "call 2", "of": f"{runs.answers}-1"}
    }  # fmt: skip
    runs.gate.touch()
    answers = {each.correlation_id: each for each in (runs.answer(), runs.answer())}
    bodies = [json.loads(answers[f"call {number}"].body) for number in (1, 2)]
    assert [body["id"] for body in bodies] == [1, 2]
    assert bodies[0]["result"] == bodies[1]["result"]
    assert [each.headers["x-taskqueue-workitem"] for each in answers.values()] == [f"{runs.answers}-1"] * 2
    assert runs.number == 1


def test_a_key_is_free_once_its_workitem_is_over(runs: Runs) -> None:
    runs.gate.touch()
    for number in (1, 2, 3):
        runs.submit(number)
        assert runs.answer().correlation_id == f"call {number}"
    assert runs.number == 3


@pytest.mark.parametrize("forged", [{}, {CLAIM: "guessed"}])
def test_a_copy_that_is_published_past_the_dispatchers_does_not_free_the_key(runs: Runs, forged) -> None:
    name = f"{runs.answers}-1"
    key = f"known to others {len(forged)}"
    runs.notes.unlink(missing_ok=True)
    runs.gate.unlink(missing_ok=True)
    runs.submit(1, key, **{CLAIM: "guessed"})  # which the dispatcher replaces
    wait_until(lambda: runs.number == 1)
    runs.foreign.declare("answer to the copy")
    runs.foreign.publish(
        json.dumps([str(runs.notes)]),  # instead of the gate: this file is there
        "worker_wait",
        message_id=name,
        reply_to="answer to the copy",
        application_headers={UNIQUE: key, **forged},
    )
    assert runs.foreign.get("answer to the copy", 20).headers[STATUS] == "succeeded"
    runs.submit(2, key)
    assert runs.answer().headers[DUPLICATE_OF] == name
    runs.gate.touch()
    assert {runs.answer().correlation_id for _ in range(2)} == {"call 1", "call 2"}
    runs.submit(3, key)
    assert runs.answer().headers[STATUS] == "succeeded"
    assert runs.number == 2


def test_a_tenant_has_its_own_keys(runs: Runs) -> None:
    runs.gate.touch()
    for number, tenant in enumerate(("acme", "example")):
        runs.submit(number, **{TENANT: tenant, UNIQUE_FOR: 60})
    assert {runs.answer().correlation_id for _ in range(2)} == {"call 0", "call 1"}
    assert runs.number == 2


def test_a_duplicate_of_what_is_over_is_answered_at_once(runs: Runs) -> None:
    runs.gate.touch()
    runs.submit(1, **{UNIQUE_FOR: 60})
    assert runs.answer().headers[STATUS] == "succeeded"
    runs.submit(2, **{UNIQUE_FOR: 60})
    answer = runs.answer()
    assert (answer.headers[STATUS], answer.headers[DUPLICATE_OF]) == ("duplicate", f"{runs.answers}-1")
    error = json.loads(answer.body)["error"]
    assert (error["code"], error["message"]) == (-32002, f"duplicate of {runs.answers}-1, which is over")
    assert runs.number == 1


def test_a_key_is_free_after_the_time_that_it_is_kept(runs: Runs) -> None:
    runs.gate.touch()
    runs.submit(1, **{UNIQUE_FOR: 0.5})
    assert runs.answer().headers[STATUS] == "succeeded"
    number = iter(range(2, 1000))

    def runs_again() -> bool:
        runs.submit(next(number), **{UNIQUE_FOR: 0.5})
        return runs.answer().headers[STATUS] == "succeeded"

    wait_until(runs_again, 20)


def test_a_workitem_that_is_published_twice_runs_once(runs: Runs) -> None:
    runs.submit(1)
    runs.submit(1)
    runs.submit(2)
    assert runs.answer().headers[STATUS] == "duplicate"  # of the other id, so the first two are known by now
    runs.gate.touch()
    assert {runs.answer().correlation_id for _ in range(2)} == {"call 1", "call 2"}
    assert runs.number == 1
    assert runs.foreign.poll(runs.answers) is None


def test_a_rejected_workitem_frees_its_key(runs: Runs) -> None:
    asked = {"reply_to": runs.answers, "content_type": "application/json"}
    for number in range(2):
        request = {"jsonrpc": "2.0", "method": "nobody", "params": [], "id": number}
        runs.foreign.publish(json.dumps(request), application_headers={UNIQUE: "same"}, **asked)
        answer = runs.answer()
        assert (answer.headers[STATUS], json.loads(answer.body)["error"]["code"]) == ("rejected", -32601)
        runs.foreign.get("taskqueue_rejected")


@pytest.mark.parametrize(
    ("headers", "fault"),
    [
        ({UNIQUE: "x" * 10_000}, "x-taskqueue-unique: expected 1 to 200 characters"),
        ({UNIQUE: "two\nlines"}, "without control characters, found 'two\\nlines'"),
        ({UNIQUE: "\x1b[31m"}, "without control characters, found '\\x1b[31m'"),
        ({UNIQUE: ""}, "expected 1 to 200 characters"),
        ({UNIQUE: 5}, "expected 1 to 200 characters without control characters, found 5"),
        ({UNIQUE: {"a": 1}}, "expected 1 to 200 characters"),
        (
            {UNIQUE: "key", UNIQUE_FOR: -1},
            "x-taskqueue-unique-for is -1; expected seconds, from 0 to",
        ),
        ({UNIQUE: "key", UNIQUE_FOR: "long"}, "x-taskqueue-unique-for is 'long'; expected seconds"),
        ({UNIQUE: "key", "x-taskqueue-debounce": 1e300}, "x-taskqueue-debounce is 1e+300; expected seconds"),
        ({"x-taskqueue-debounce": 1}, "x-taskqueue-debounce needs x-taskqueue-unique"),
    ],
)
def test_a_key_that_is_none_is_rejected_with_the_reason(served: Ground, headers, fault: str) -> None:
    served.foreign.publish("[1, 2]", type="add", application_headers=headers)
    kept = served.foreign.get("taskqueue_rejected", 20)
    assert fault in kept.headers["x-taskqueue-reason"]


def test_a_workitem_without_an_id_outlives_a_dispatcher_that_has_asked_for_its_key(ground: Ground) -> None:
    ground.foreign.declare("worker_echo")
    ground.foreign.declare(LOG, arguments=dict(CLAIMS.arguments))
    with Foreign(ground.url) as holder:
        entries = holder.hold(LOG)  # in the place of a keeper, which answers
        daemon = ground.start("dispatcher")
        ground.foreign.publish(b"x", type="echo", message_id=None, application_headers={UNIQUE: "key"})
        holder.drain(lambda: any("ask" in str(each.body)[:20] for each in entries))
        (dispatcher,) = dispatchers(daemon.pid)
        os.kill(dispatcher, signal.SIGKILL)
        daemon.wait_for("takes work", times=2)
    assert ground.foreign.get("worker_echo", 60).properties["message_id"]


# --- clients ---


def test_a_client_that_waits_gets_the_value_of_the_first_call(served: Ground, runs: Runs) -> None:
    with AsyncClient(served.url, unique="the same") as first, Client(served.url) as second:
        calls = [first.wait(str(runs.gate), str(runs.notes)) for _ in range(2)]
        wait_until(lambda: runs.number == 1)
        wait_until(lambda: any(call.duplicate_of for call in calls))
        original, duplicate = sorted(calls, key=lambda call: call.duplicate_of)
        assert duplicate.duplicate_of == original.id
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(second.options(unique="the same").wait, str(runs.gate), str(runs.notes))
            is_duplicate = f"it is a duplicate of {original.id}"
            wait_until(lambda: served.dispatcher.output().count(is_duplicate) == 2)
            runs.gate.touch()
            assert original.result(20) == duplicate.result(20) == waiting.result(20)
    assert runs.number == 1


def test_a_key_stays_taken_while_its_call_waits_for_a_retry(served: Ground, runs: Runs) -> None:
    with AsyncClient(served.url, unique="stubborn") as client:
        calls = [client.stubborn(str(runs.notes)) for _ in range(3)]  # each succeeds at the third run
        assert [call.result(20) for call in calls] == ["at last"] * 3
        assert runs.number == 3
        assert client.stubborn(str(runs.notes)).result(20) == "at last"  # the key is free again
    assert runs.number == 4


def test_a_cancelled_call_frees_its_key_and_ends_its_duplicates(served: Ground, runs: Runs) -> None:
    with AsyncClient(served.url, unique="cancelled") as client:
        calls = [client.wait(str(runs.gate), str(runs.notes)) for _ in range(2)]
        wait_until(lambda: any(call.duplicate_of for call in calls))
        original, duplicate = sorted(calls, key=lambda call: call.duplicate_of)
        original.cancel()
        for call in (original, duplicate):
            with pytest.raises(CallCancelled):
                call.result(20)
        runs.gate.touch()
        assert client.wait(str(runs.gate)).result(20)


def test_a_call_whose_first_one_is_over_raises(served: Ground) -> None:
    with Client(served.url, unique="sum", unique_for=60) as client:
        assert client.add(1, 2) == 3
        with pytest.raises(DuplicateCall, match="which is over"):
            client.add(1, 2)


def test_a_client_without_a_dispatcher_cannot_ask_for_a_key(served: Ground) -> None:
    with Client(served.url, direct=True, unique="sum") as client, pytest.raises(ValueError, match="past it"):
        client.add(1, 2)


@task(name="add", unique=["a"], unique_for=60)
def add(a: int, b: int) -> int:
    return a + b


def test_a_task_can_be_unique_by_arguments(served: Ground) -> None:
    with AsyncClient(served.url) as client:
        assert client.submit(add, 71, 1).result(20) == 72
        assert client.submit(add, 72, 1).result(20) == 73
        with pytest.raises(DuplicateCall):
            client.submit(add, b=5, a=71).result(20)
        assert client.options(unique="other").submit(add, 71, 1).result(20) == 72


# --- the command, and the record ---


def test_submit_prints_the_result_of_the_first_one(served: Ground, runs: Runs) -> None:
    options = ("--amqp", served.url, "--unique", "by command", "--wait", "--timeout", "30")
    body = json.dumps([str(runs.gate), str(runs.notes)])
    before = served.dispatcher.output().count("duplicate of")
    with ThreadPoolExecutor() as pool:
        printed = [pool.submit(run_cli, "submit", *options, "wait", body) for _ in range(2)]
        wait_until(lambda: runs.number == 1)
        wait_until(lambda: served.dispatcher.output().count("duplicate of") > before)
        runs.gate.touch()
        ended = [each.result() for each in printed]
    assert [each.returncode for each in ended] == [0, 0]
    assert len({each.stdout for each in ended}) == runs.number == 1


def test_submit_says_whose_result_it_cannot_have(served: Ground) -> None:
    options = ("--amqp", served.url, "--unique", "over", "--unique-for", "60", "--wait", "--timeout", "30")
    first, second = (run_cli("submit", *options, "--format", "json", "add", "[1, 2]") for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 1)
    again = run_cli("submit", *options, "add", "[1, 2]")
    assert (again.returncode, again.stdout) == (1, "")
    name = json.loads(first.stdout)["id"]
    assert again.stderr.count("\n") == 1
    assert f"was not run: it is a duplicate of {name}, whose result is not passed on" in again.stderr


def test_submit_without_a_key_refuses_what_needs_one(served: Ground) -> None:
    ended = run_cli("submit", "--amqp", served.url, "--unique-for", "5", "add", "[1, 2]")
    assert (ended.returncode, ended.stderr.count("--unique-for and --debounce are for --unique.")) == (2, 1)


# --- debounce ---


def test_of_debounced_workitems_the_last_one_runs_and_answers_for_all(runs: Runs) -> None:
    runs.gate.touch()
    for number in (1, 2, 3):
        runs.submit(number, **{"x-taskqueue-debounce": 1.5})
    answers = [runs.answer() for _ in range(5)]
    results = [each for each in answers if each.headers[STATUS] == "succeeded"]
    assert {each.headers["x-taskqueue-workitem"] for each in results} == {f"{runs.answers}-3"}
    assert {each.correlation_id for each in results} == {"call 1", "call 2", "call 3"}
    superseded = {each.correlation_id for each in answers if each.headers[STATUS] == "duplicate"}
    assert superseded == {"call 1", "call 2"}
    assert runs.number == 1


def test_a_debounced_workitem_waits_for_the_end_of_the_one_that_runs(runs: Runs) -> None:
    runs.submit(1)
    wait_until(lambda: runs.number == 1)
    runs.submit(2, **{"x-taskqueue-debounce": 0.3})
    runs.ground.dispatcher.wait_for(f"waits on: {runs.answers}-1 has its key")
    runs.gate.touch()
    assert [runs.answer().correlation_id for _ in range(2)] == ["call 1", "call 2"]
    assert runs.number == 2


def test_a_key_is_listed_and_can_be_released(served: Ground, runs: Runs) -> None:
    def unique(*arguments: str) -> tuple[int, str]:
        ended = run_cli("unique", *arguments, "--amqp", served.url)
        return ended.returncode, ended.stdout + ended.stderr

    runs.submit(1, "to be released", **{TENANT: "acme"})
    wait_until(lambda: runs.number == 1)
    runs.submit(2, "to be released", **{TENANT: "acme"})
    assert runs.answer().headers[STATUS] == "duplicate"
    status, said = unique(
        "list", "--tenant", "acme", "--type", "wait", "--key", "to be released", "--format", "json"
    )
    (key,) = json.loads(said)
    assert status == 0
    assert (key["key"], key["workitem"], key["state"]) == (
        "to be released",
        f"{runs.answers}-1",
        "in progress",
    )
    assert key["followers"] == 1
    assert "to be released" in unique("list")[1]
    assert unique("list", "--type", "nothing") == (0, "No key is in use.\n")
    assert unique("release", "wait", "to be released") == (
        1,
        "taskqueue: nobody has that key\n",
    )  # of no tenant
    freed = unique("release", "wait", "to be released", "--tenant", "acme")
    assert freed == (0, f"released; {runs.answers}-1 had it\n")
    answer = runs.answer()
    assert (answer.correlation_id, answer.headers[STATUS]) == ("call 2", "cancelled")
    runs.submit(3, "to be released", **{TENANT: "acme"})
    wait_until(lambda: runs.number == 2)
    runs.gate.touch()
    assert {runs.answer().correlation_id for _ in range(2)} == {"call 1", "call 3"}
