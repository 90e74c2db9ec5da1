"""What a flow process tells of a workflow's graph, for its picture, and its list of workflows."""

import pytest
from support.flows import Mill, step

from taskqueue.broker.topology import SHARDS
from taskqueue.flow.picture import MOST_DRAWN, MOST_EDGES
from taskqueue.flow.postgresql import PostgresqlStore
from taskqueue.flow.store import SqliteStore
from taskqueue.workflows import wire


@pytest.fixture
def mill(tmp_path, database):
    store = SqliteStore(tmp_path / "flow" / "flow.db") if database is None else PostgresqlStore(database)
    yield Mill(store)
    store.close()


def edges(answer):
    return {each["step"]: each["after"] for each in answer["steps"]}


def test_the_edges_of_a_graph_are_still_known_after_its_end(mill):
    steps = step("a"), step("b", ["a"]), step("c", ["a"]), step("d", ["b", "c"]), step("e", on="ended")
    id_ = mill.start(*steps)
    expected = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"], "e": []}
    assert edges(mill.ask("graph", id_)) == expected
    mill.do_all()
    answer = mill.ask("graph", id_)
    assert edges(answer) == expected
    assert answer["workflow"]["state"] == "succeeded"
    assert [(each["state"], each["workitem"]) for each in answer["steps"]] == [
        ("succeeded", f"{id_}.{name}") for name in "abcde"
    ]
    assert all(each["ended"] for each in answer["steps"])
    assert (answer["steps_left_out"], answer["edges_left_out"]) == (0, 0)


def test_the_elements_of_a_map_are_counted_by_state(mill):
    id_ = mill.start(step("a"), {"step": "m", "type": "x", "map": {"$result": "a"}}, step("z", ["m"]))
    mill.do("a", result=[1, 2, 3])
    mill.do("m[1]")
    mapped = mill.ask("graph", id_)["steps"][1]
    assert (mapped["is_map"], mapped["workitem"], mapped["after"]) == (True, "", ["a"])
    assert mapped["elements"].pop("succeeded") == 1
    assert sum(mapped["elements"].values()) == 2
    assert edges(mill.ask("graph", id_))["z"] == ["m"]


def test_a_step_that_an_element_adds_is_drawn_below_its_map(mill):
    id_ = mill.start(step("a"), {"step": "m", "type": "x", "map": {"$result": "a"}}, open=True)
    mill.do("a", result=[1, 2])
    mill.ask("extend", id_, steps=[step("more", ["m[0]", "m[1]", "a"])])
    assert edges(mill.ask("graph", id_))["more"] == ["m", "a"]


def test_a_graph_is_bounded_and_says_what_it_leaves_out(mill):
    names = [f"s{number}" for number in range(MOST_DRAWN)]
    id_ = mill.start(*(step(name) for name in names), step("join", names))
    answer = mill.ask("graph", id_)
    assert (len(answer["steps"]), answer["steps_left_out"]) == (MOST_DRAWN, 1)
    first = [f"a{number}" for number in range(60)]
    id_ = mill.start(*(step(name) for name in first), *(step(f"b{number}", first) for number in range(60)))
    answer = mill.ask("graph", id_)
    assert sum(map(len, edges(answer).values())) == MOST_EDGES
    assert answer["edges_left_out"] == 60 * 60 - MOST_EDGES


def listed(mill, **wanted):
    """Return the tenants of the workflows of all shards, and how often an answer had to be continued."""
    tenants, continued = [], 0
    for shard in range(SHARDS):
        before = None
        while True:
            (answer,) = mill.apply(wire.command("list", before=before, **wanted), shard=shard)
            tenants += [each["tenant"] for each in answer["workflows"]]
            before = answer["before"]
            if before is None:
                break
            continued += 1
    return sorted(tenants), continued


def test_workflows_are_listed_by_tenant_and_those_that_have_not_ended(mill):
    for number in range(20):
        mill.start(step("a"), tenant=["north", "south", ""][number % 3], open=number < 5)
    mill.do_all()
    assert len(listed(mill)[0]) == 20
    assert listed(mill, open=True) == (["", "north", "north", "south", "south"], 0)
    assert listed(mill, tenants=["north"]) == (["north"] * 7, 0)
    assert listed(mill, open=True, tenants=["", "south"])[0] == ["", "south", "south"]
    one_by_one, continued = listed(mill, limit=1)
    assert (len(one_by_one), continued) == (20, 20)
    (refused,) = mill.apply(wire.command("list", tenants="north"), shard=0)
    assert refused == {"error": "list: expected tenants, a list of texts"}
