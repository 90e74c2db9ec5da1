"""Open workflows, which take further steps until they are closed, and the results of several last steps."""

import pytest
from support.flows import Mill, step

from taskqueue.flow.store import SqliteStore


@pytest.fixture
def mill(tmp_path):
    store = SqliteStore(tmp_path / "flow" / "flow.db")
    yield Mill(store)
    store.close()


END = step("end", on="ended")


def test_an_open_workflow_does_not_end_before_it_is_closed(mill):
    id_ = mill.start(step("a"), END, open=True)
    mill.do("a")
    assert (mill.state(id_), mill.names()) == ("running", ["a"])
    mill.ask("extend", id_, steps=[step("b", ["a"])])
    mill.do("b")
    assert mill.state(id_) == "running"
    assert mill.ask("close", id_)["open"] is False
    assert (mill.state(id_), mill.names()) == ("succeeded", ["a", "b", "end"])
    mill.ask("close", id_)  # once more
    assert mill.names() == ["a", "b", "end"]


def test_a_closed_workflow_ends_with_its_steps(mill):
    id_ = mill.start(step("a"), END, open=True)
    mill.ask("close", id_)
    assert mill.state(id_) == "running"
    mill.do("a", status="failed")
    assert (mill.state(id_), mill.names()) == ("failed", ["a", "end"])


def test_an_open_workflow_needs_no_step(mill):
    id_ = mill.start(open=True)
    assert mill.state(id_) == "running"
    mill.ask("close", id_)
    assert mill.state(id_) == "succeeded"
    assert (
        "steps: expected at least one step, found none"
        in mill.apply(
            {"kind": "start", "workflow": "a", "id": "0" * 32, "steps": [], "open": False}, shard=None
        )[0]["faults"]
    )


def test_an_open_workflow_that_is_cancelled_has_ended(mill):
    id_ = mill.start(step("a"), END, open=True)
    (item,) = mill.take("a")
    mill.ask("cancel", id_)
    mill.apply(item.receipt("cancelled"))
    assert (mill.state(id_), mill.names()) == ("cancelled", ["a", "end"])


def test_open_is_true_or_false(mill):
    (answer,) = mill.apply(
        {"kind": "start", "workflow": "a", "id": "0" * 32, "steps": [step("a")], "open": 1}
    )
    assert answer["faults"] == ["open: expected true or false, found 1"]


def test_the_results_of_several_last_steps_are_a_list_in_their_order(mill):
    id_ = mill.start(step("first"), *(step(name, ["first"]) for name in ("c", "a", "b")), END)
    mill.do_all(lambda item: item.step)
    assert mill.ask("result", id_)["result"] == ["c", "a", "b"]
    assert mill.ask("result", id_)["steps"] == ["c", "a", "b"]


def test_results_that_are_too_large_together_are_refused(mill):
    id_ = mill.start(*(step(f"s{number}") for number in range(17)))
    mill.do_all(lambda _: "x" * 1_000_000)
    answer = mill.ask("result", id_)
    assert (
        answer["failure"]["message"] == "the results have 17,000,034 bytes; at most 16,777,216 are passed on"
    )
