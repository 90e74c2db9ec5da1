"""Workflows as their authors write them: their documents, and what is refused where it is written."""

import json
import re

import pytest

from taskqueue import Batch, Extend, Workflow, chain, group, task


@task(priority=3)
def add(a, b): ...


@task(unique=["a"])
def once(a, b): ...


def test_a_step_names_those_whose_results_it_needs():
    flow = Workflow("import", tenant="ground")
    pages = flow.add("fetch", "https://example.org", 5, step="pages")
    parts = flow.map("parse", pages.result, "de")
    flow.add("merge", parts.results, {"deep": [pages.result]}, after=[pages], allow_failed=parts)
    flow.add("notify", on="failed")
    assert flow.document() == {
        "workflow": "import",
        "tenant": "ground",
        "steps": [
            {"step": "pages", "type": "fetch", "params": ["https://example.org", 5]},
            {"step": "parse", "type": "parse", "params": ["de"], "map": {"$result": "pages"}},
            {
                "step": "merge",
                "type": "merge",
                "params": [{"$results": "parse"}, {"deep": [{"$result": "pages"}]}],
                "after": ["pages", "parse"],
                "allow_failed": ["parse"],
            },
            {"step": "notify", "type": "notify", "params": [], "on": "failed"},
        ],
    }
    assert json.loads(json.dumps(flow.document())) == flow.document()


def test_a_name_is_that_of_the_task_with_a_number_from_the_second_on():
    flow = Workflow("names")
    names = [flow.add(each, 1, 2).name for each in ("add", add, "x" * 100, "x" * 100, "add")]
    assert names == ["add", "add-2", "x" * 100, "x" * 98 + "-2", "add-3"]


def test_arguments_go_by_position_or_by_name_and_a_body_is_neither():
    flow = Workflow("arguments")
    first = flow.add("add", a=1, b=2)
    flow.add(add, first.result, b=2)
    flow.add("digest", body={"path": first.result})
    flow.map("digest", first.result, is_body=True)
    contents = [{name: step[name] for name in step.keys() & {"params", "body", "map"}} for step in flow.steps]
    assert contents == [
        {"params": {"a": 1, "b": 2}},
        {"params": {"a": {"$result": "add"}, "b": 2}},
        {"body": {"path": {"$result": "add"}}},
        {"body": None, "map": {"$result": "add"}},
    ]


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (lambda flow, _: flow.add("add", 1, b=2), "add: arguments go by position or by name, not both"),
        (lambda flow, _: flow.add("digest", 1, body=2), "digest: a workitem has a body or arguments"),
        (lambda flow, _: flow.add("add", object()), "add: the arguments cannot be sent as JSON: Object of"),
        (lambda flow, _: flow.add("add", float("nan")), "add: the arguments cannot be sent as JSON: "),
        (lambda flow, step: flow.add("add", step), "<step first> is no value; its result is"),
        (lambda flow, step: flow.add("add", *step.result), "the result of step 'first' is known only"),
        (lambda flow, step: flow.add("add", step.result[0]), "the result of step 'first' is known only"),
        (lambda flow, step: flow.add("add", step.result or 5), "the result of step 'first' is known only"),
        (lambda flow, step: flow.add(once, step.result, 5), "once: its calls are unique by an argument"),
        (lambda flow, _: flow.add("digest", 5).results, "no attribute 'results'"),
        (lambda flow, _: flow.options(colour="red"), "there is no option 'colour'"),
    ],
)  # fmt: skip
def test_a_fault_of_a_step_is_told_where_it_is_added(wrong, complaint):
    flow = Workflow("faults")
    with pytest.raises((TypeError, AttributeError), match=re.escape(complaint)):
        wrong(flow, flow.add("first"))
    assert len(flow) in (1, 2)


def test_the_options_of_a_step_are_its_own_else_those_of_its_task():
    flow = Workflow("options")
    flow.add(add, 1, 2)
    urgent = flow.options(priority=9, tags=["red"], delay=5)
    urgent.add(add, 1, 2)
    urgent.options(tenant="a").add("subtract", 1, 2)
    assert [step.get("options") for step in flow.steps] == [
        {"priority": 3},
        {"priority": 9, "tags": ["red"], "delay": 5},
        {"priority": 9, "tags": ["red"], "delay": 5, "tenant": "a"},
    ]


def test_arguments_are_taken_as_they_are_when_a_step_is_added():
    flow, numbers = Workflow("copies"), [1]
    flow.add("sum", numbers)
    numbers.append(2)
    assert flow.steps[0]["params"] == [[1]]


def test_a_map_over_a_list_is_a_step_for_each_of_its_elements():
    flow = Workflow("known")
    parts = flow.map("parse", ["a", "b"], 5)
    flow.add("merge", parts.results)
    assert [(step["step"], step["params"]) for step in flow.steps] == [
        ("parse", ["a", 5]),
        ("parse-2", ["b", 5]),
        ("merge", [[{"$result": "parse"}, {"$result": "parse-2"}]]),
    ]


def shape(flow):
    return {step["step"]: (step["params"], step.get("after", [])) for step in flow.steps}


def ref(name):
    return {"$result": name}


def test_each_step_of_a_chain_gets_the_result_of_the_one_before_it_first():
    flow = chain((add, 2, 2), ("add", 4), "show", name="sums")
    assert flow.document()["workflow"] == "sums"
    assert shape(flow) == {
        "add": ([2, 2], []),
        "add-2": ([ref("add"), 4], []),
        "show": ([ref("add-2")], []),
    }
    assert flow.result.as_json() == ref("show")


def test_a_step_after_a_group_gets_the_list_of_its_results():
    flow = group(("add", 1, 1), ("add", 2, 2))
    flow.add("sum", flow.results)
    assert shape(flow)["sum"] == ([[ref("add"), ref("add-2")]], [])
    nested = chain("first", group("a", chain("b", "c")), "last")
    assert shape(nested) == {
        "first": ([], []),
        "a": ([ref("first")], []),
        "b": ([ref("first")], []),
        "c": ([ref("b")], []),
        "last": ([[ref("a"), ref("c")]], ["a", "c"]),
    }


def test_a_step_after_an_empty_group_waits_for_the_step_before_it():
    flow = chain("first", group(), group(), "last")
    assert shape(flow)["last"] == ([[]], ["first"])


def test_a_chain_has_at_least_one_part():
    with pytest.raises(ValueError, match="a chain has at least one part"):
        chain()


def test_a_batch_stays_open():
    assert Batch("calls").document() == {"workflow": "calls", "steps": [], "open": True}


def test_what_a_step_returns_to_add_others_has_its_result_beside_them():
    more = Extend({"pages": 2})
    page = more.add("fetch", 2, step="fetch")
    more.add("parse", page.result, step="parse", after="first")
    assert json.loads(more.encode()) == {
        "result": {"pages": 2},
        "extend": [
            {"step": "fetch", "type": "fetch", "params": [2]},
            {"step": "parse", "type": "parse", "params": [{"$result": "fetch"}], "after": ["first"]},
        ],
    }
    with pytest.raises(TypeError):
        Extend(object()).encode()


def test_steps_that_are_added_later_have_names_of_their_own():
    graphs = [Extend(), Extend()]
    names = {graph.add(type_).name for graph in graphs for type_ in ("add", "add", "x" * 100)}
    assert len(names) == 6
    assert max(map(len, names)) == 100
    assert sum(re.fullmatch(r"add-[0-9a-f]{12}(-2)?", name) is not None for name in names) == 4
