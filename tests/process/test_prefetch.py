"""Short workitems are taken ahead, long ones are left to whoever can begin them."""

import json
import re
import signal
import time

import pytest
from support.processes import children, kill
from support.site import workers
from support.waiting import wait_until

SHORT = 400
FEWER = 150


def ready(foreign):
    """Return how many workitems the broker has not handed over."""
    return foreign.depth("worker_good") or 0


def begun(site):
    """Return how many runs have begun."""
    return sum(note.word == "begin" for note in site.notes())


def run_short_ones(site, work):
    """Have a pool learn that workitems for the plugin `gated` are short."""
    site.gate("open").touch()
    for _ in range(SHORT):
        work.submit("gated", {"gate": str(site.gate("open"))})
    work.results(SHORT)


def test_short_workitems_are_taken_ahead(site, work):
    pool = site.pool("[good]\nworkers: 1")
    for number in range(SHORT):
        work.submit("good", number)
    assert len(work.results(SHORT)) == SHORT
    # Still short, but longer than it takes to submit one.
    items = {work.submit("good", {"seconds": 0.01}) for _ in range(FEWER)}
    # With one at a time, the broker would have handed over at most one that has not begun.
    wait_until(lambda: FEWER - ready(work.foreign) > begun(site) - SHORT + 1)
    assert set(work.results(FEWER)) == items
    assert pool.stop() == 0


def test_of_long_workitems_a_worker_has_one_at_a_time(site, work):
    pool = site.pool("[good]\nworkers: 2")
    items = {work.submit("good", {"seconds": 0.3}) for _ in range(8)}
    wait_until(lambda: ready(work.foreign) == 6)
    assert set(work.results(8)) == items
    assert pool.stop() == 0


def test_what_each_of_many_short_workitems_says_is_logged_with_its_id(site, work):
    items = [work.submit("talking") for _ in range(SHORT)]
    pool = site.pool("[talking]\nworkers: 2\noutput_rate: 10000")
    work.results(SHORT)
    assert pool.stop() == 0
    said = re.findall(r"I am (workitem\d+) \[.* workitem=(workitem\d+)\]", pool.output())
    said += re.findall(r"still am (workitem\d+) \[.* workitem=(workitem\d+)\]", pool.output())
    assert sorted(said) == sorted([(item, item) for item in items] * 2)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_was_taken_ahead_goes_to_another_host_when_workitems_become_long(site, work, workers):
    first = site.pool(f"[gated]\nworkers: {workers}")
    site.gate("open").touch()
    for _ in range(SHORT):
        work.submit("gated", {"gate": str(site.gate("open"))})
    long = [work.submit("gated", {"gate": str(site.gate("later"))}) for _ in range(workers)]
    short = {work.submit("gated", {"gate": str(site.gate("open"))}) for _ in range(30)}
    wait_until(lambda: {note.workitem for note in site.notes()} >= set(long))
    second = site.start("workerpool", "-f", "-c", str(site.config))
    second.wait_for("takes work")
    results = work.results(SHORT + 30)
    assert short <= set(results)
    assert not set(long) & set(results)
    site.gate("later").touch()
    assert set(work.results(workers)) == set(long)
    assert children(first.pid)
    assert {note.word for note in site.notes(long[0])} == {"begin", "end"}
    assert len(site.notes(long[0])) == 2  # nobody ran it twice
    assert [first.stop(), second.stop()] == [0, 0]


def test_what_waits_for_a_worker_that_is_being_replaced_is_not_given_back(site, work):
    work.foreign.declare("worker_hesitant", arguments={"x-queue-type": "quorum"})  # it counts deliveries
    entrance = site.gate("entrance")
    entrance.touch()
    pool = site.pool(f"[hesitant]\nworkers: 3\nenter_gate: {entrance}")
    for workitem in ("first", "one", "other"):
        body = json.dumps({"gate": str(site.gate(workitem[0]))})
        work.foreign.publish(body, "worker_hesitant", message_id=workitem)
    victims = [site.wait_for_run(workitem).pid for workitem in ("first", "one", "other")][1:]
    entrance.unlink()
    for pid in victims:
        kill(pid)
    pool.wait_for("the hesitant one is at the gate", times=5)
    site.gate("f").touch()
    wait_until(lambda: len(site.notes()) == 5)  # the third worker has one of the two, and the other waits
    end = time.monotonic() + 1  # in which the consumer looks ten times for what it had better give back
    wait_until(lambda: time.monotonic() > end)
    entrance.touch()
    wait_until(lambda: len(site.notes()) == 6)
    site.gate("o").touch()
    results = work.results(3)
    for workitem in ("one", "other"):
        assert results[workitem].value["x-taskqueue-crashes"] == 1
        assert results[workitem].value.get("x-delivery-count", 0) == 0
    assert pool.stop() == 0


def test_a_stopping_pool_gives_back_what_it_took_ahead(site, work):
    pool = site.pool("[gated]\nworkers: 1")
    run_short_ones(site, work)
    long = work.submit("gated", {"gate": str(site.gate("later"))})
    behind = [work.submit("gated", {"gate": str(site.gate("open"))}) for _ in range(20)]
    site.wait_for_run(long)
    pool.signal(signal.SIGTERM)
    wait_until(lambda: work.foreign.depth("worker_gated") == len(behind))
    site.gate("later").touch()
    assert pool.wait() == 0
    assert work.result().workitem == long
    assert not any(site.notes(workitem) for workitem in behind)
    site.pool()
    assert set(work.results(len(behind))) == set(behind)


def test_a_cancellation_with_a_tenant_leaves_those_of_others(site, work):
    def submit(workitem, tenant):
        body = json.dumps({"gate": str(site.gate())})
        headers = {"x-taskqueue-tenant": tenant}
        work.foreign.publish(body, "worker_gated", message_id=workitem, application_headers=headers)

    def cancel(workitem, **headers):
        work.foreign.publish_to(
            "taskqueue_cancel", "", "", correlation_id=workitem, application_headers=headers
        )

    def statuses(number):
        return {name: result.status for name, result in work.results(number).items()}

    site.pool("[gated]\nworkers: 4")
    work.foreign.declare("worker_gated")
    for workitem, tenant in (("a", "south"), ("b", "north"), ("c", "south"), ("d", "north")):
        submit(workitem, tenant)
        site.wait_for_run(workitem)
    for workitem, tenant in (("e", "south"), ("f", "south"), ("a", "north"), ("b", ""), ("c", "south")):
        cancel(workitem, **{"x-taskqueue-tenant": tenant})
    cancel("d")
    assert statuses(2) == {"c": "cancelled", "d": "cancelled"}
    submit("e", "south")
    assert statuses(1) == {"e": "cancelled"}
    submit("f", "north")
    site.gate().touch()
    assert statuses(3) == dict.fromkeys("abf", "succeeded")


def test_what_is_cancelled_behind_another_has_no_run_and_costs_no_worker(site, work):
    pool = site.pool("[gated]\nworkers: 2")
    run_short_ones(site, work)
    long, other, behind = [work.submit("gated", {"gate": str(site.gate("later"))}) for _ in range(3)]
    first, second = site.wait_for_run(long), site.wait_for_run(other)
    for workitem in (behind, other):
        work.foreign.publish_to("taskqueue_cancel", "", b"", correlation_id=workitem)
    wait_until(lambda: second.pid not in workers(pool))  # its consumer has heard of both
    site.gate("later").touch()
    results = work.results(3)
    assert results[long].value["pid"] == first.pid
    assert [results[each].status for each in (other, behind)] == ["cancelled"] * 2
    assert site.notes(behind) == []
    assert pool.stop() == 0
