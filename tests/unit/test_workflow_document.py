"""Documents of workflows are checked whole, and nothing that a message contains ends its reader."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples, share_of

from taskqueue.errors import BadFlowMessage, BadWorkflow
from taskqueue.flow.ledger import decoded
from taskqueue.workflows import document, wire
from taskqueue.workflows.wire import MOST_DEPTH, Receipt

ID = "0123456789abcdef" * 2


def deep(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def read(*steps, **others):
    return document.read({"workflow": "test", "id": ID, "steps": list(steps)} | others)


def faults(*steps, **others):
    with pytest.raises(BadWorkflow) as caught:
        read(*steps, **others)
    assert str(caught.value).splitlines() == list(caught.value.faults)
    return list(caught.value.faults)


def step(name, **others):
    return {"step": name, "type": "work", **others}


def test_references_at_any_depth_are_edges():
    found = read(step("a"), step("b"), step("c", params={"x": [{"y": {"$result": "a"}}]}, after=["b"]))
    assert found.steps[2].after == {"b": False, "a": False}
    assert found.steps[2].references == {"a": False}


def test_an_object_with_more_than_a_reference_is_none():
    assert read(step("a", params=[{"$result": "nobody", "x": 1}])).steps[0].references == {}


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([step("a", after=["b"])], "step a: there is no step 'b'"),
        ([step("a"), step("a")], "step a: two steps have this name"),
        ([step("a b")], "step 1: expected a name of 1 to 100 of letters, digits, _ - and ., found 'a b'"),
        ([step("a[0]")], "step 1: expected a name of 1 to 100 of letters, digits, _ - and ., found 'a[0]'"),
        ([step("a", params=[], body=1)], "step a: expected params or body, found both"),
        ([step("a", params=5)], "step a, params: expected a list or an object, found 5"),
        ([step("a", after=["a"])], "step a: it waits for itself"),
        ([step("a", after="b")], "step a, after: expected a list of names of steps"),
        (
            [step("a"), step("b", params=[{"$results": "a"}])],
            "step b: a is no map: expected $result",
        ),
        (
            [step("a"), step("m", map={"$result": "a"}), step("b", params=[{"$result": "m"}])],
            "step b: m is a map: expected $results",
        ),
        ([step("a", map=[1])], 'step a, map: expected {"$result": NAME} or {"$results": NAME}, found a list'),
        ([step("a"), step("b", on="ended", after=["a"])], "step b: it waits for the workflow's end"),
        ([step("a", on="never")], "step a, on: expected failed, succeeded, ended, found 'never'"),
        ([step("b", on="ended"), step("a", after=["b"])], "step a: b is a callback, for which"),
        ([step("a", allow_failed=["b"]), step("b")], "step a, allow_failed: it does not wait for 'b'"),
        ([step("a", prams=[])], "step a: there is no 'prams'; known are after, allow_failed, body"),
        ([step("a", options={"priorty": 1})], "step a, options: there is no option 'priorty'"),
        ([step("a", options=[])], "step a, options: expected an object, found a list"),
        ([step("a", params=deep(MOST_DEPTH + 1))], "step a, params: nested deeper than 100"),
        ([{"step": "a", "type": "x y"}], "step a: expected a type, the name of a task"),
        ([7], "step 1: expected an object, found 7"),
    ],
)  # fmt: skip
def test_each_fault_is_told_in_a_line(steps, expected):
    (fault,) = faults(*steps)
    assert fault.startswith(expected)


def test_a_cycle_is_told_with_its_steps_and_without_those_behind_it():
    steps = [step("a", after=["c"]), step("b", after=["a"]), step("c", after=["b"]), step("d", after=["c"])]
    (fault,) = faults(*steps)
    assert fault == "steps wait for each other in a cycle: a -> b -> c -> a"


def test_all_faults_are_told_at_once_up_to_a_hundred():
    told = faults(step("a", params=3), step("b", after=["x", "y"]), id="5", tenant=7, workflow="", more=1)
    assert len(told) == 7
    assert len(faults(*(step(f"s{number}", after=["x"]) for number in range(1000)))) == 101


def test_a_long_chain_is_read_and_more_than_a_hundred_thousand_steps_are_refused():
    chain = [
        step(f"s{number}", after=[f"s{number - 1}"] if number else []) for number in range(share_of(100_000))
    ]
    assert len(read(*chain).steps) == len(chain)
    assert faults(*[step("s")] * 100_000)[0] == "step s: two steps have this name"
    assert faults(*[step("s")] * 100_001) == ["steps: expected at most 100,000, found 100,001"]


RECEIPT = Receipt(ID, "a[3]", 2, "database.secret.7", "failed", 1.5, error=wire.Error("ValueError", "no"))


def test_a_receipt_is_read_as_it_was_written():
    for receipt in (
        RECEIPT,
        Receipt(ID, "a", 1, "p", "succeeded", 2.0, result='{"x":["\\u0000",null]}', extend=[]),
    ):
        assert decoded(0, wire.decode(receipt.encode()), "").receipts == (receipt,)


@pytest.mark.parametrize(
    "change",
    [
        {"workflow": "x"}, {"workflow": 5}, {"step": "a\n"}, {"step": "a[01]"}, {"run": -1}, {"run": True},
        {"run": 10**30}, {"proof": "x" * 101}, {"status": "odd"}, {"status": []}, {"ended": "x"},
        {"ended": True}, {"ended": 10**400}, {"result": deep(MOST_DEPTH + 1)},
        {"result": "x" * 1_100_000}, {"size": -1},
        {"error": []}, {"error": {"type": 5}}, {"extend": {}},
    ],
)  # fmt: skip
def test_a_receipt_with_a_field_that_is_none_is_refused(change):
    plain = json.loads(RECEIPT.encode()) | change
    with pytest.raises(BadFlowMessage):
        decoded(0, wire.decode(json.dumps(plain).encode()), "")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"x": NaN}', b'{"x": 1e', b"\xff\xfe", b"[" * 200_000, b'{"a":' * 200_000,
     json.dumps({"kind": "start", "steps": deep(MOST_DEPTH + 30)}).encode(), b"x" * (16 * 1024 * 1024 + 1)],
)  # fmt: skip
def test_a_body_that_is_no_message_is_refused(body):
    with pytest.raises(BadFlowMessage):
        wire.decode(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([
        "step", "type", "params", "body", "map", "after", "allow_failed", "on", "options", "$result",
        "$results", "priority", "tenant", "tags",
    ]), inner, max_size=5),
    max_leaves=15,
)  # fmt: skip


@examples(300)
@given(
    steps=st.lists(JSON, max_size=4), others=st.dictionaries(st.sampled_from(["id", "tenant", "open"]), JSON)
)
def test_whatever_a_document_contains_it_is_read_or_refused(steps, others):
    with contextlib.suppress(BadWorkflow):
        found = read(*steps, **others)
        assert all(each.name for each in found.steps)
