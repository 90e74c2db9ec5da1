"""The record as a user sees it, where workitems of several tenants have one id."""

import time

import pytest
from support.recorded import CONSUMER, DISPATCHER, batch

from taskqueue.messages.events import Begun, Ended, LogLine, Progress, Routed
from taskqueue.monitor.record import Filter
from taskqueue.monitor.store.reading import Record
from taskqueue.monitor.store.store import Store
from taskqueue.monitor.web.rights import ADMIN, Rights
from taskqueue.monitor.web.view import View

NOW = time.time()


def ann(directory):
    return View(Record(directory), Rights("ann", tenants=frozenset(("south",)), bodies=True))


@pytest.mark.parametrize("is_one_write", [True, False])
@pytest.mark.parametrize("other", ["north", ""])
def test_an_id_that_two_tenants_use_at_once_names_two_workitems(tmp_path, other, is_one_write):
    first = [
        Routed("x", "digest", NOW - 50, 1, tenant=other, head="secret"),
        Begun("x", "digest", 1, NOW - 47, "digest/1", tenant=other),
        LogLine("x", NOW - 46, "digest/1", "stdout", "secret line", other),
        Progress("x", NOW - 46, 0.7, "secret progress", other),
    ]
    second = [
        Routed("x", "digest", NOW - 40, 1, tenant="south", head="mine"),
        LogLine("x", NOW - 39, "digest/1", "stdout", "own line", "south"),
        Begun("x", "digest", 1, NOW - 39, "digest/1", tenant="south"),
    ]
    ends = [
        Ended("x", "digest", 1, "failed", "failed", NOW - 20, NOW - 46, error="secret error",
              traceback="secret traceback", tenant=other),
        LogLine("x", NOW - 19, "digest/1", "stdout", "own last line", "south"),
        Ended("x", "digest", 1, "succeeded", "succeeded", NOW - 18, NOW - 39, tenant="south"),
    ]  # fmt: skip
    batches = [
        (1, batch(DISPATCHER, 0, first)),
        (2, batch(DISPATCHER, 4, second)),
        (3, batch(CONSUMER, 0, ends)),
    ]
    with Store(tmp_path) as store:
        for some in [batches] if is_one_write else [[each] for each in batches]:
            store.write(some)
    view = ann(tmp_path)
    told = repr((view.find("x"), view.page(Filter(), None, 10), view.logs("x", -1, 10), view.types()))
    assert "secret" not in told
    assert (view.find("x").workitem.state, view.find("x").workitem.head) == ("succeeded", "mine")
    assert [line.text for line in view.logs("x", -1, 10)] == ["own line", "own last line"]
    everything = View(Record(tmp_path), Rights("root", ADMIN, bodies=True))
    assert {each.tenant: each.state for each in everything.page(Filter(), None, 10).workitems} == {
        other: "failed", "south": "succeeded"
    }  # fmt: skip
    assert everything.find("x").workitem.tenant == "south", "the newest"
    others = View(Record(tmp_path), Rights("bob", tenants=frozenset((other,))))
    assert others.find("x").runs[0].error == "secret error"
    assert [line.text for line in others.logs("x", -1, 10)] == ["secret line"]


def test_an_id_that_another_tenant_used_days_ago_shows_nothing_of_his(tmp_path):
    """Workitems so far apart have rows of their own."""
    ago = NOW - 3 * 86400
    first = [
        Routed("x", "digest", ago - 9, 1, tenant="north", head="secret"),
        LogLine("x", ago - 1, "digest/1", "stdout", "secret line", "north"),
        Ended("x", "digest", 1, "failed", "failed", ago, ago - 2, error="secret error",
              traceback="secret traceback", tenant="north"),
    ]  # fmt: skip
    second = [
        LogLine("x", NOW - 6, "digest/1", "stdout", "own line", "south"),
        Ended("x", "digest", 1, "failed", "failed", NOW - 5, NOW - 7, error="own error", tenant="south"),
    ]
    with Store(tmp_path / "record") as store:
        store.write([(1, batch(CONSUMER, 0, first))])
        store.write([(2, batch(DISPATCHER, 0, [Routed("x", "digest", NOW - 10, 1, tenant="south")]))])
        view = ann(tmp_path / "record")
        assert view.logs("x", -1, 10) == []
        assert view.find("x").runs == ()
        store.write([(3, batch(CONSUMER, len(first), second))])
    assert [run.error for run in view.find("x").runs] == ["own error"]
    assert [line.text for line in view.logs("x", -1, 10)] == ["own line"]
