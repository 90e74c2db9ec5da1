"""The rules of workflows on a real SQLite database: each join, callback and end comes once."""

import contextlib
import random
import time
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples
from support.flows import Mill, step

from taskqueue.broker.topology import SHARDS, shard_of
from taskqueue.errors import FlowDamaged, FlowUnavailable
from taskqueue.flow.store import SqliteStore
from taskqueue.workflows import wire


@pytest.fixture
def mill(tmp_path):
    store = SqliteStore(tmp_path / "flow" / "flow.db")
    yield Mill(store)
    store.close()


DIAMOND = [step("a"), step("b", ["a"]), step("c", ["a"]), step("d", ["b", "c"])]


def test_the_end_of_a_diamond_runs_once_after_both_sides(mill):
    id_ = mill.start(*DIAMOND)
    assert mill.names() == ["a"]
    mill.do("a")
    mill.do("c")
    assert mill.names() == ["a", "b", "c"]
    mill.do("b")
    assert mill.names() == ["a", "b", "c", "d"]
    assert mill.state(id_) == "running"
    mill.do("d", result=5)
    assert mill.state(id_) == "succeeded"
    assert mill.ask("result", id_)["result"] == 5


def test_a_join_of_a_thousand_runs_once_though_every_receipt_comes_twice_in_any_order(mill):
    names = [f"s{number}" for number in range(1000)]
    id_ = mill.start(*(step(name) for name in names), step("join", names))
    items = mill.take(*names)
    receipts = [item.receipt() for item in items] * 2
    random.Random(1).shuffle(receipts)
    for start in range(0, len(receipts), 300):
        assert "join" not in mill.names() or start > 1000
        mill.apply(*receipts[start : start + 300])
    assert mill.names().count("join") == 1
    mill.do_all()
    assert mill.state(id_) == "succeeded"


def test_a_step_gets_the_results_that_it_refers_to_at_any_depth(mill):
    params = [{"$result": "a"}, {"deep": [{"$result": "b"}]}]
    mill.start(
        step("a"), step("b"), step("c", params=params), {"step": "d", "type": "x", "body": {"$result": "c"}}
    )
    mill.do("a", result={"one": [1]})
    mill.do("b", result={"$result": "a"})  # no reference: it comes from a result
    (item,) = mill.take("c")
    assert item.body["params"] == [{"one": [1]}, {"deep": [{"$result": "a"}]}]
    assert item.body["method"] == "work"
    mill.apply(item.receipt(result="text"))
    (item,) = mill.take("d")
    assert item.body == "text"
    assert item.properties.type == "x"


SUM = [
    step("list"),
    step("each", map={"$result": "list"}),
    step("sum", params=[{"$results": "each"}]),
]


def test_a_map_has_a_step_for_each_element_and_the_next_step_gets_their_results_in_order(mill):
    id_ = mill.start(
        step("list"),
        step("each", map={"$result": "list"}, params=["more"]),
        step("sum", params=[{"$results": "each"}]),
    )
    mill.do("list", result=[3, [4], {"$result": "list"}])
    assert mill.names() == ["list", "each[0]", "each[1]", "each[2]"]
    bodies = [item.body["params"] for item in mill.published[1:]]
    assert bodies == [[3, "more"], [[4], "more"], [{"$result": "list"}, "more"]]
    for name in ("each[2]", "each[0]", "each[1]"):
        mill.do(name, result=name)
    (item,) = mill.take("sum")
    assert item.body["params"] == [["each[0]", "each[1]", "each[2]"]]
    mill.apply(item.receipt())
    assert mill.state(id_) == "succeeded"
    assert mill.ask("result", id_, step="each")["result"] == ["each[0]", "each[1]", "each[2]"]


def test_an_empty_map_ends_at_once_and_a_map_of_results_too(mill):
    id_ = mill.start(
        step("list"), step("each", map={"$result": "list"}), step("again", map={"$results": "each"}),
        step("sum", params=[{"$results": "again"}]),
    )  # fmt: skip
    mill.do("list", result=[])
    (item,) = mill.take("sum")
    assert item.body["params"] == [[]]
    mill.apply(item.receipt())
    assert mill.state(id_) == "succeeded"


def test_a_map_of_no_list_fails_with_the_reason(mill):
    id_ = mill.start(step("list"), step("each", map={"$result": "list"}), step("cleanup", on="failed"))
    mill.do("list", result={"a": 1})
    assert mill.state(id_) == "failed"
    (failed,) = (each for each in mill.ask("steps", id_)["steps"] if each["step"] == "each")
    assert failed["error"]["message"] == "the result of step list is a dict; map each needs a list"
    assert mill.names()[-1] == "cleanup"


def test_failure_skips_what_waits_for_it_unless_that_allows_it(mill):
    allowing = step("d", allow_failed=["a"], params=[{"$result": "a"}])
    id_ = mill.start(step("a"), step("b", ["a"]), step("c", ["b"]), allowing)
    mill.do("a", "failed", error=wire.Error("ValueError", "no"))
    assert mill.states(id_) == {"a": "failed", "b": "skipped", "c": "skipped", "d": "queued"}
    (item,) = mill.take("d")
    assert item.body["params"] == [None]
    mill.apply(item.receipt())
    assert mill.state(id_) == "failed"
    assert mill.ask("steps", id_)["steps"][0]["error"] == {"type": "ValueError", "message": "no"}


def test_a_workflow_whose_only_failure_is_allowed_by_all_succeeds(mill):
    id_ = mill.start(step("a"), step("b", ["a"], allow_failed=["a"]))
    mill.do("a", "rejected")
    mill.do("b")
    assert mill.state(id_) == "succeeded"


def test_the_elements_of_a_map_that_may_fail_are_null_for_the_next_step(mill):
    id_ = mill.start(
        step("list"), step("each", map={"$result": "list"}),
        step("sum", params=[{"$results": "each"}], allow_failed=["each"]),
    )  # fmt: skip
    mill.do("list", result=[1, 2])
    mill.do("each[0]", "failed")
    assert "sum" not in mill.names()
    mill.do("each[1]", result="two")
    (item,) = mill.take("sum")
    assert item.body["params"] == [[None, "two"]]
    mill.apply(item.receipt())
    assert mill.state(id_) == "succeeded"


@pytest.mark.parametrize(
    ("failing", "state", "callbacks"),
    [((), "succeeded", ["good", "always"]), (["a"], "failed", ["bad", "always"])],
)
def test_callbacks_run_once_when_the_rest_has_ended(mill, failing, state, callbacks):
    id_ = mill.start(
        step("a"), step("good", on="succeeded"), step("bad", on="failed"), step("always", on="ended")
    )
    mill.do_all(failing=[*failing, "always"])
    assert mill.names() == ["a", *callbacks]
    assert mill.state(id_) == state


def test_callbacks_are_counted_among_the_waiting_steps(mill):
    id_ = mill.start(step("a"), step("b", ["a"]), step("good", on="succeeded"), step("bad", on="failed"))
    assert mill.ask("show", id_)["steps"] == {"queued": 1, "waiting": 3}


def test_retry_runs_only_the_callbacks_again_that_have_failed_if_all_else_has_succeeded(mill):
    hooks = ("good", "succeeded"), ("always", "ended"), ("bad", "failed"), ("other", "succeeded")
    id_ = mill.start(step("a"), *(step(name, on=hook) for name, hook in hooks))
    mill.do_all(failing=["good", "always"])
    answer = mill.ask("retry", id_)
    assert (answer["again"], answer["state"], mill.state(id_)) == (2, "succeeded", "succeeded")
    again = ["good", "always"]
    assert mill.names() == ["a", "good", "always", "other", *again]
    assert [item.id for item in mill.todo] == [f"{id_}.{name}.2" for name in again]
    mill.do_all()
    assert set(mill.states(id_).values()) == {"succeeded", "waiting"}  # one waits for a failure
    assert mill.ask("retry", id_)["again"] == 0
    assert mill.todo == []


def test_retry_of_a_step_runs_all_callbacks_at_the_new_end(mill):
    id_ = mill.start(step("a"), step("b", ["a"], allow_failed=["a"]), step("good", on="succeeded"))
    mill.do_all(failing=["a"])
    assert mill.state(id_) == "succeeded"
    assert mill.ask("retry", id_)["again"] == 1
    mill.do_all()
    assert mill.names() == ["a", "b", "good", "a", "good"]


def test_a_workflow_of_callbacks_alone_succeeds_at_once(mill):
    id_ = mill.start(step("good", on="succeeded"))
    assert mill.state(id_) == "succeeded"
    assert mill.names() == ["good"]


def test_a_step_extends_its_workflow_before_it_counts(mill):
    id_ = mill.start(step("a"), step("b", ["a"]), step("end", on="ended"))
    (item,) = mill.take("a")
    more = [step("c"), step("d", ["c", "b"], params=[{"$result": "a"}])]
    receipt = item.receipt(result=7, extend=more)
    mill.apply(receipt, receipt)
    assert sorted(mill.names()) == ["a", "b", "c"]
    mill.do("b")
    mill.do("c")
    (item,) = mill.take("d")
    assert item.body["params"] == [7]
    assert mill.state(id_) == "running"
    mill.apply(item.receipt())
    assert mill.state(id_) == "succeeded"
    assert mill.names()[-1] == "end"


def test_an_extension_with_faults_fails_its_step_with_all_of_them(mill):
    id_ = mill.start(step("a"))
    mill.do("a", extend=[step("b", ["nobody"]), step("a"), {"step": "c", "type": 5}])
    (failed,) = mill.ask("steps", id_)["steps"]
    assert failed["state"] == "failed"
    assert [word in failed["error"]["message"] for word in ("nobody", "a: the workflow", "c: expected")] == [
        True
    ] * 3


def test_a_result_that_is_wanted_but_cannot_be_passed_on_fails_its_step(mill):
    id_ = mill.start(step("a"), step("b", params=[{"$result": "a"}]), step("free"))
    (a, free) = mill.take("a", "free")
    large = {"result": None, "size": 2_000_000}
    mill.apply(replace(a.receipt(), **large), replace(free.receipt(), **large))
    assert mill.states(id_) == {"a": "failed", "b": "skipped", "free": "succeeded"}
    message = mill.ask("steps", id_)["steps"][0]["error"]["message"]
    assert message.startswith("the result of step a has 2,000,000 bytes; at most 1,048,576 are passed on. ")
    assert "Set result_store in the configuration of its workers" in message


def test_cancel_ends_what_is_not_queued_and_nothing_starts_any_more(mill):
    id_ = mill.start(*DIAMOND, step("always", on="ended"), step("bad", on="failed"))
    mill.do("a")
    (b, c) = mill.take("b", "c")
    assert mill.ask("cancel", id_)["state"] == "cancelled"
    assert sorted(mill.ledger.cancels()) == sorted((b.id, c.id))
    assert not mill.ledger.is_cancelling
    mill.apply(b.receipt())
    mill.ledger.cancel_again()
    assert mill.ledger.cancels() == [c.id]
    mill.apply(c.receipt("cancelled"))
    mill.ledger.cancel_again()
    assert not mill.ledger.is_cancelling
    assert mill.names() == ["a", "b", "c", "always"]
    assert mill.states(id_)["d"] == "cancelled"
    assert mill.state(id_) == "cancelled"
    assert "has ended" in mill.ask("cancel", id_)["error"]


def test_retry_runs_what_has_failed_again_and_goes_on_from_there(mill):
    id_ = mill.start(*DIAMOND, step("bad", on="failed"), step("good", on="succeeded"))
    mill.do("a")
    (b,) = mill.take("b")
    mill.do("c", "failed")
    mill.apply(b.receipt())
    assert mill.state(id_) == "failed"
    mill.do("bad")
    assert mill.ask("retry", id_)["again"] == 1
    assert mill.state(id_) == "running"
    mill.apply(b.receipt())  # of the past
    (again,) = mill.take("c")
    assert again.id == f"{id_}.c.2"
    mill.apply(again.receipt())
    mill.do("d")
    mill.do("good")
    assert mill.state(id_) == "succeeded"
    assert mill.names() == ["a", "b", "c", "bad", "c", "d", "good"]


def test_retry_runs_only_the_failed_elements_of_a_map_again(mill):
    id_ = mill.start(
        step("list"), step("each", map={"$result": "list"}), step("sum", params=[{"$results": "each"}])
    )
    mill.do("list", result=[1, 2, 3])
    mill.do_all(lambda item: item.step, failing=["each[1]"])
    assert mill.states(id_)["sum"] == "skipped"
    mill.ask("retry", id_)
    mill.do_all(lambda item: item.body["params"])
    assert mill.state(id_) == "succeeded"
    assert Counter(mill.names())["each[1]"] == 2
    assert mill.published[-1].body["params"] == [["each[0]", [2], "each[2]"]]


def test_a_cancelled_workflow_goes_on_after_retry_in_the_order_of_its_graph(mill):
    id_ = mill.start(step("a"), step("b", ["a"], allow_failed=["a"]))
    (a,) = mill.take("a")
    mill.ask("cancel", id_)
    mill.apply(a.receipt("cancelled"))
    mill.ask("retry", id_)
    assert [item.step for item in mill.todo] == ["a"]
    mill.do_all()
    assert mill.state(id_) == "succeeded"


def test_a_step_that_is_retried_from_the_dead_letters_goes_on_with_its_workflow(mill):
    id_ = mill.start(*DIAMOND, step("e", ["c"]), step("good", on="succeeded"))
    mill.do("a")
    (b,) = mill.take("b")
    mill.do("c", "failed")
    mill.apply(b.receipt("failed"))
    assert mill.state(id_) == "failed"
    mill.apply(b.receipt("succeeded"))
    assert mill.state(id_) == "failed"  # c has still failed
    assert mill.states(id_)["d"] == "skipped"
    (c,) = (item for item in mill.published if item.step == "c")
    mill.apply(c.receipt("succeeded"))
    mill.do_all()
    assert mill.state(id_) == "succeeded"
    assert Counter(mill.names()) == Counter(("a", "b", "c", "d", "e", "good"))


def test_an_element_that_is_retried_from_the_dead_letters_goes_on_with_its_map(mill):
    id_ = mill.start(
        step("list"), step("each", map={"$result": "list"}), step("sum", params=[{"$results": "each"}])
    )
    mill.do("list", result=[1, 2])
    (one, two) = mill.take("each[0]", "each[1]")
    mill.apply(one.receipt("failed"), two.receipt("failed"))
    assert mill.state(id_) == "failed"
    mill.apply(one.receipt(result=1))
    assert mill.state(id_) == "failed"
    mill.apply(two.receipt(result=2))
    (item,) = mill.take("sum")
    assert item.body["params"] == [[1, 2]]
    mill.apply(item.receipt())
    assert mill.state(id_) == "succeeded"


def test_a_receipt_without_the_proof_of_its_step_counts_for_nothing(mill):
    one = mill.start(step("a"), step("b"))
    other = mill.start(step("a"))
    a, b = (item for item in mill.published if item.workflow == one)
    (foreign,) = (item for item in mill.published if item.workflow == other)
    for proof in ("", "x", "a.b.c", foreign.headers["x-taskqueue-proof"], b.headers["x-taskqueue-proof"]):
        a.headers["x-taskqueue-proof"] = proof
        mill.apply(a.receipt())
    assert mill.states(one) == {"a": "queued", "b": "queued"}
    assert len(mill.refused) == 5


def test_a_start_that_comes_twice_starts_once_and_other_steps_under_its_id_are_refused(mill):
    id_ = mill.start(step("a"))
    again = {"kind": "start", "workflow": "test", "id": id_, "steps": [step("a")]}
    assert mill.apply(again) == [{"id": id_, "started": False}]
    (answer,) = mill.apply(again | {"steps": [step("b")]})
    assert "already" in answer["error"]
    assert mill.names() == ["a"]


def test_more_steps_are_added_to_a_workflow_that_has_ended_and_it_runs_again(mill):
    id_ = mill.start(step("a"), step("end", on="ended"))
    mill.do_all()
    assert mill.state(id_) == "succeeded"
    assert mill.ask("extend", id_, steps=[step("b", ["a"])])["state"] == "running"
    mill.ask("extend", id_, steps=[step("b", ["a"])])  # once more
    mill.do_all()
    assert mill.names() == ["a", "end", "b", "end"]
    assert mill.ask("extend", id_, steps=[step("c", ["nobody"])])["faults"] == [
        "step c: there is no step 'nobody'"
    ]


def test_workflows_are_removed_after_their_time_and_none_before(mill):
    ended, running = mill.start(*DIAMOND), mill.start(step("x"))
    mill.take("x")
    mill.do_all()
    assert not mill.ledger.remove_old(3600.0)
    assert mill.state(ended) == "succeeded"
    assert not mill.ledger.remove_old(-1.0)
    assert "no workflow" in mill.ask("show", ended)["error"]
    assert mill.state(running) == "running"
    store = mill.ledger.store
    assert [store.rows(f"SELECT count(*) FROM {table}") for table in ("step", "edge", "removed")] == [
        [(1,)], [(0,)], [(0,)]
    ]  # fmt: skip


def test_a_second_process_that_takes_a_shard_fences_the_first_one_out(mill, tmp_path):
    id_ = mill.start(step("a"), step("b", ["a"]))
    (a,) = mill.take("a")
    with contextlib.closing(SqliteStore(tmp_path / "flow" / "flow.db")) as store:
        other = Mill(store)
        incoming = mill.incoming(a.receipt())
        done = mill.ledger.apply([incoming], room=10)
        assert incoming.shard in done.lost
        assert not done.drawn
        assert other.states(id_)["a"] == "queued"
        other.apply(a.receipt())
        assert other.names() == ["b"]


def test_a_process_that_has_lost_a_shard_notes_nothing_of_its_steps(mill, tmp_path):
    """The other one publishes them again, as receipts are lost: noted now, they would wait for these."""
    start = mill.incoming(
        {"kind": "start", "workflow": "w", "id": "ab" * 16, "steps": [step("a"), step("b")]}
    )
    one, other = (each.run for each in mill.ledger.apply([start], room=10).drawn)
    with contextlib.closing(SqliteStore(tmp_path / "flow" / "flow.db")) as store:
        ledger = Mill(store).ledger
        mill.ledger.apply([], noted=[one], refused=[(other, "too large")])
        assert sorted(each.run for each in ledger.apply([], room=10).drawn) == [one, other]


def test_the_queue_of_another_shard_is_no_way_around_the_process_that_keeps_a_workflow(mill):
    id_ = mill.start(step("a"), step("b", ["a"]))
    (a,) = mill.take("a")
    other = (shard_of(id_) + 1) % SHARDS
    mill.apply(a.receipt(), shard=other)
    assert mill.refused == [f"a receipt of step a of workflow {id_}, in taskqueue_flow_{other}"]
    (answer,) = mill.apply(wire.command("cancel", id_), shard=other)
    assert (
        answer["error"]
        == f"workflow {id_} belongs to taskqueue_flow_{shard_of(id_)}; it came in that of {other}"
    )
    assert mill.states(id_) == {"a": "queued", "b": "waiting"}


def test_steps_are_published_again_whose_receipts_were_in_a_deleted_queue(mill):
    id_ = mill.start(step("a"), step("b", ["a"]))
    shard = shard_of(id_)
    assert mill.ledger.take(shard, missing_since=time.time() - 60) == 0  # it was published after that
    assert mill.ledger.take(shard, missing_since=time.time() - 7) == 1  # its event may have come so late
    mill.apply()
    assert [item.id for item in mill.published] == [f"{id_}.a"] * 2
    mill.apply(*(item.receipt() for item in mill.published))
    assert mill.names() == ["a", "a", "b"]


def test_a_database_of_a_later_release_is_refused_and_one_that_cannot_be_opened_is_tried_again(tmp_path):
    with contextlib.closing(SqliteStore(tmp_path / "flow.db")) as store, store.transaction():
        store.execute("UPDATE version SET number = 99")
    with pytest.raises(FlowDamaged, match="have version 99; expected at most 1"):
        SqliteStore(tmp_path / "flow.db")
    (tmp_path / "other.db").write_bytes(b"no database" * 1000)
    with pytest.raises(FlowUnavailable, match="file is not a database"):
        SqliteStore(tmp_path / "other.db")
    with pytest.raises(FlowUnavailable, match="File exists"):
        SqliteStore(tmp_path / "other.db" / "flow.db")


@st.composite
def graphs(draw):
    """Return steps with edges to earlier ones, and what each comes to."""
    steps, ends = [], {}
    for number in range(draw(st.integers(1, 8))):
        before = [each["step"] for each in steps if "on" not in each]
        after = draw(st.lists(st.sampled_from(before), unique=True)) if before else []
        allowed = [name for name in after if draw(st.booleans())]
        name = f"s{number}"
        steps.append(step(name, after, **({"allow_failed": allowed} if allowed else {})))
        ends[name] = draw(st.sampled_from(["succeeded"] * 3 + ["failed", "rejected"]))
    steps += [step("good", on="succeeded"), step("bad", on="failed"), step("end", on="ended")]
    return steps, ends


def expected(steps, ends):
    """Return the steps that run, and the state of the workflow, by the definition of a graph."""
    came_to, fatal = {}, False
    for each in steps:
        if "on" in each:
            continue
        allowed = each.get("allow_failed", [])
        runs = all(came_to[name] == "succeeded" or name in allowed for name in each.get("after", []))
        came_to[each["step"]] = ends[each["step"]] if runs else "skipped"
    for name, state in came_to.items():
        waiting = [each for each in steps if name in each.get("after", [])]
        if state in ("failed", "rejected"):
            fatal |= not waiting or any(name not in each.get("allow_failed", []) for each in waiting)
    ran = [name for name, state in came_to.items() if state != "skipped"]
    return sorted([*ran, "bad" if fatal else "good", "end"]), "failed" if fatal else "succeeded"


@examples(150)
@given(graph=graphs(), random=st.randoms(use_true_random=False))
def test_in_any_graph_each_step_runs_once_when_it_may_whatever_the_order_of_receipts(
    graph, random, tmp_path_factory
):
    steps, ends = graph
    # Hypothesis may leave an example in its middle.
    with contextlib.closing(SqliteStore(tmp_path_factory.mktemp("flow") / "flow.db")) as store:
        mill = Mill(store)
        id_ = mill.start(*steps)
        sent = []
        while mill.todo:
            item = mill.todo.pop(random.randrange(len(mill.todo)))
            sent.append(item.receipt(ends.get(item.step, "succeeded")))
            mill.apply(*random.sample(sent, random.randrange(len(sent) + 1)), sent[-1], sent[-1])
        names, state = expected(steps, ends)
        assert sorted(mill.names()) == names
        assert mill.state(id_) == state
        mill.ask("retry", id_)
        mill.do_all()
        assert mill.state(id_) == "succeeded"
        for table, rows in (("edge", 0), ("workflow", 1)):
            assert store.rows(f"SELECT count(*) FROM {table}") == [(rows,)]
