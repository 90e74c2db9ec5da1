"""What producers, workers and users do that nobody expects of them: each comes to one clear end."""

import json
import secrets
import tracemalloc
from dataclasses import replace

import pytest
from support.flows import Mill, step

from taskqueue.amqp.properties import Properties
from taskqueue.broker.chains import following
from taskqueue.broker.publisher import Publication
from taskqueue.broker.receipts import receipt_of
from taskqueue.broker.subscription import Delivery
from taskqueue.broker.topology import shard_of
from taskqueue.broker.trust import Trust
from taskqueue.errors import BadFlowMessage
from taskqueue.flow import arguments, outbox
from taskqueue.flow.reading import read
from taskqueue.flow.store import SqliteStore
from taskqueue.messages.content import JSON
from taskqueue.messages.results import SUCCEEDED, Failure
from taskqueue.unique.wire import Result
from taskqueue.workflows import wire
from taskqueue.workflows.definition import EXTENDED


@pytest.fixture
def mill(tmp_path):
    store = SqliteStore(tmp_path / "flow" / "flow.db")
    yield Mill(store)
    store.close()


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity"])
def test_a_number_that_json_cannot_have_is_refused_where_it_is_read(number):
    with pytest.raises(BadFlowMessage, match="no JSON"):
        wire.decode(f'{{"kind":"start","workflow":"a","steps":[{{"params":[{number}]}}]}}'.encode())


def test_a_tenant_that_is_null_is_a_fault_and_no_trouble_of_the_database(mill):
    id_ = secrets.token_hex(16)
    document = {"kind": "start", "workflow": "a", "id": id_, "steps": [step("a")], "tenant": None}
    assert mill.apply(document)[0]["faults"] == ["tenant: expected a text without control characters"]


def test_receipts_of_a_message_are_together_no_larger_than_any_other_message():
    """Decoded, they would take many times their size; RabbitMQ 3 takes messages of 128 MiB."""

    def nobody(_: object) -> None:
        raise AssertionError

    line = b'{"kind":"receipt","extend":[' + b"0," * (wire.MOST_DOCUMENT // 4) + b"0]}"
    properties = Properties(content_type=wire.RECEIPTS).encode()
    delivery = Delivery(1, 0, False, properties, b"\n".join([line] * 2))
    with pytest.raises(BadFlowMessage, match=r"receipts of 16,777,\d+ bytes; at most 16,777,216 are read"):
        read(delivery, 0, Trust.__new__(Trust), "database", nobody)


def test_a_proof_of_odd_characters_is_none(mill):
    mill.start(step("a"))
    (item,) = mill.take("a")
    database, _, no = item.receipt().proof.split(".")
    mill.apply(replace(item.receipt(), proof=f"{database}.é.{no}"))
    mill.apply(replace(item.receipt(), proof=f"{database}.e.²"))
    assert [reason.partition("has ")[2] for reason in mill.refused] == ["no proof", "no proof"]


def test_a_callback_that_is_retried_from_the_dead_letters_runs_no_second_time(mill):
    id_ = mill.start(step("a"), step("tell", on="failed"))
    mill.do("a", "failed")
    (tell,) = mill.take("tell")
    mill.apply(tell.receipt("failed"))
    mill.apply(tell.receipt(result=1))
    assert mill.names() == ["a", "tell"]
    assert mill.states(id_) == {"a": "failed", "tell": "succeeded"}
    assert mill.state(id_) == "failed"


def test_a_retry_of_a_workflow_in_which_nothing_has_failed_changes_nothing(mill):
    id_ = mill.start(step("a"), step("tell", on="succeeded"))
    mill.do("a")
    mill.do("tell")
    answer = mill.ask("retry", id_)
    assert (answer["again"], answer["state"], mill.names()) == (0, "succeeded", ["a", "tell"])


def test_a_workflow_that_has_succeeded_does_not_succeed_again_by_a_step_that_might_fail(mill):
    id_ = mill.start(step("a"), step("b", ["a"], allow_failed=["a"]), step("tell", on="succeeded"))
    (a,) = mill.take("a")
    mill.apply(a.receipt("failed"))
    mill.do("b")
    mill.do("tell")
    mill.apply(a.receipt(result=1))
    assert mill.names() == ["a", "b", "tell"]
    assert mill.states(id_)["a"] == mill.state(id_) == "succeeded"


def test_a_callback_that_extends_its_workflow_fails_as_that_has_ended(mill):
    id_ = mill.start(step("a"), step("tell", on="ended"))
    mill.do("a")
    mill.do("tell", extend=[step("b")])
    assert mill.states(id_) == {"a": "succeeded", "tell": "failed"}
    assert mill.state(id_) == "succeeded"


def test_a_further_step_cannot_wait_for_a_callback_which_would_wait_for_it(mill):
    id_ = mill.start(step("tell", on="ended"), open=True)
    answer = mill.ask("extend", id_, steps=[step("b", ["tell"])])
    assert answer["faults"] == ["step b: tell is a callback, for which no step can wait"]


def test_a_result_that_is_named_too_often_in_arguments_is_not_passed_on(mill):
    id_ = mill.start(step("a"), step("b", params=[[{"$result": "a"}] * 1000]))
    mill.do("a", result="x" * 1_000_000)
    (found,) = [each for each in mill.ask("steps", id_)["steps"] if each["step"] == "b"]
    assert found["error"]["message"].startswith("the arguments of step b have 1,000,0")


def test_a_retry_keeps_what_it_runs_again_from_being_cancelled(mill):
    id_ = mill.start(step("a"), step("b"))
    (a,) = mill.take("a")
    mill.apply(a.receipt("failed"))
    mill.apply(wire.command("cancel", id_), wire.command("retry", id_))
    assert mill.states(id_) == {"a": "queued", "b": "queued"}
    assert mill.ledger.cancels() == []


def test_a_workitem_that_is_on_its_way_when_its_workflow_is_cancelled_is_cancelled_too(mill):
    id_ = secrets.token_hex(16)
    start = {"kind": "start", "workflow": "a", "id": id_, "steps": [step("a")]}
    (drawn,) = mill.ledger.apply([mill.incoming(start)], room=10).drawn
    mill.ledger.apply([mill.incoming(wire.command("cancel", id_))])
    assert mill.ledger.cancels() == []  # the broker has not confirmed it
    mill.ledger.apply([], noted=[drawn.run])
    assert mill.ledger.is_cancelling
    assert mill.ledger.cancels() == [f"{id_}.a"]
    assert not mill.ledger.is_cancelling


def test_a_step_that_is_ready_while_there_is_no_room_is_published_without_another_message(mill):
    id_ = secrets.token_hex(16)
    mill.ledger.apply([], room=10)  # nothing is ready
    start = {"kind": "start", "workflow": "a", "id": id_, "steps": [step("a")]}
    assert mill.ledger.apply([mill.incoming(start)], room=0).is_more
    (drawn,) = mill.ledger.apply([], room=10).drawn
    assert drawn.id == f"{id_}.a"


def test_large_arguments_of_many_steps_are_read_a_few_at_a_time(mill, monkeypatch):
    monkeypatch.setattr(outbox, "_MOST_BYTES", 3_200_000)  # a tenth, as all that follows
    large = "x" * 1_200_000
    for _ in range(8):
        start = {"kind": "start", "workflow": "a", "id": secrets.token_hex(16)}
        mill.ledger.apply([mill.incoming(start | {"steps": [step("a", params=[large])]})])
    tracemalloc.start()
    try:
        done = mill.ledger.apply([], room=1000)
        assert tracemalloc.get_traced_memory()[1] < 9 * len(large)  # 12 of all rows at once
    finally:
        tracemalloc.stop()
    assert (len(done.drawn), done.is_more) == (3, True)


def test_a_join_of_many_large_results_fails_and_few_of_them_are_read_at_once(mill, monkeypatch):
    monkeypatch.setattr(arguments, "MOST_PASSED", 1_600_000)  # a tenth, as all that follows
    names = [f"s{number}" for number in range(100)]
    id_ = mill.start(*map(step, names), step("join", params=[{"$result": name} for name in names]))
    large = "x" * 100_000
    *others, last = mill.todo
    for item in others:
        mill.apply(item.receipt(result=large))
    receipt = last.receipt(result=large)
    tracemalloc.start()
    try:
        mill.apply(receipt)
        assert tracemalloc.get_traced_memory()[1] < 50 * len(large)  # 100 of all results at once
    finally:
        tracemalloc.stop()
    assert mill.states(id_)["join"] == "failed"


STEP = {
    "x-taskqueue-workflow": "a" * 32,
    "x-taskqueue-step": "a",
    "x-taskqueue-run": 1,
    "x-taskqueue-proof": "p",
}


@pytest.mark.parametrize("body", [b'{"extend":[1e999]}', b'{"extend":1}', b"\xff", b"[" * 2000])
def test_a_step_whose_further_steps_cannot_be_read_fails(body):
    properties = Properties(message_id="m").with_headers(STEP)
    receipt = receipt_of(properties, Result(SUCCEEDED, EXTENDED, body), "", 1.0)
    found = json.loads(receipt.body)
    assert (found["status"], found["error"]["type"]) == ("failed", "BadWorkflow")
    assert receipt.queue == f"taskqueue_flow_{shard_of('a' * 32)}"


@pytest.mark.parametrize(
    ("user", "publisher", "is_signed"),
    [(None, None, False), ("ours", "ours", True), ("ours", "another", False), ("ours", None, False)],
)
def test_only_the_receipt_of_a_workitem_that_our_user_has_published_is_signed(user, publisher, is_signed):
    properties = Properties(user_id=user).with_headers({**STEP, "x-taskqueue-user": publisher})
    assert receipt_of(properties, Result(SUCCEEDED, JSON, b"1"), "", 1.0).is_signed is is_signed


@pytest.mark.parametrize("depth", [200, 980, 985, 990, 991, 992, 993, 994, 995, 996, 5000])
def test_a_chain_of_any_depth_fails_its_workitem_and_not_its_consumer(depth):
    one = '{"type":"t","params":[],"options":{}}'
    header = f'{{"id":"c","number":1,"steps":[{one},{"[" * depth}{"]" * depth}]}}'
    properties = Properties(message_id="m").with_headers({"x-taskqueue-chain": header})
    first = following(properties, Result(SUCCEEDED, JSON, b"1"))
    assert isinstance(first, Publication)  # the other step is read in its turn
    assert isinstance(following(Properties.decode(first.properties), Result(SUCCEEDED, JSON, b"1")), Failure)
