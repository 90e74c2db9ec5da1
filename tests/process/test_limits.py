"""The limits of a worker: time, processor, memory; and its replacement."""

import os

import pytest
from support.site import workers
from support.waiting import wait_until

MEBIBYTE = 1024 * 1024


def causes(work):
    """Return the history of the one workitem that is kept, as (what, error)."""
    (message,) = work.foreign.collect("taskqueue_failed", 1)
    return [(entry["what"], entry["error"]) for entry in message.headers["x-taskqueue-history"]]


# --- time ---


def test_a_handler_that_runs_too_long_gets_a_timeout_and_its_worker_lives_on(site, work):
    pool = site.pool("[slow]\nworkers: 1\ntimeout: 0.5")
    before = workers(pool)
    workitem = work.submit("slow", {"gate": str(site.gate())})
    result = work.result()
    assert (result.workitem, result.status) == (workitem, "failed")
    assert result.error == "TaskTimeout: its timeout of 0.5 s has passed"
    assert "in handle_task" in result.value["error"]["traceback"]
    assert result.headers["x-taskqueue-ended"] - result.headers["x-taskqueue-started"] >= 0.5
    assert [note.word for note in site.notes(workitem)] == ["begin", "timeout"]
    assert causes(work) == [("failed", "TaskTimeout: its timeout of 0.5 s has passed")]
    site.gate().touch()
    assert work.submit("slow", {"gate": str(site.gate())}) == work.result().workitem
    assert workers(pool) == before
    assert "ended:" not in pool.output()


def test_a_handler_that_heeds_no_timeout_is_killed_and_that_is_a_crash(site, work):
    pool = site.pool(
        "[slow]\nworkers: 2\nmax_crashes: 1\ntimeout: 0.5\ntimeout_grace: 0.5\n[gated]\nworkers: 1"
    )
    before = workers(pool)
    other = work.submit("gated", {"gate": str(site.gate())})
    bystander = site.wait_for_run(other).pid
    workitem = work.submit("slow", {"gate": str(site.gate("never")), "deaf": True})
    result = work.result()
    cause = "killed by SIGKILL: ran longer than timeout + timeout_grace = 1 s"
    assert (result.workitem, result.error) == (workitem, f"WorkerCrashed: {cause}; 1 crash in all")
    assert causes(work) == [("crashed", cause)]
    victim = site.notes(workitem)[0].pid
    wait_until(lambda: len(workers(pool)) == 3)
    assert before - workers(pool) == {victim}
    site.gate().touch()
    assert work.result().value == {"pid": bystander, "attempt": 1}


def test_the_time_of_a_workitem_begins_when_the_one_before_it_has_ended(site, work):
    site.pool("[good]\nworkers: 1\nmax_prefetch: 5\ntimeout: 2\ntimeout_grace: 0.5")
    items = {work.submit("good", {"seconds": 0.7}) for _ in range(5)}
    results = work.results(5)
    assert set(results) == items
    assert {result.status for result in results.values()} == {"succeeded"}
    assert {result.headers["x-taskqueue-attempt"] for result in results.values()} == {1}


def test_what_waits_behind_a_workitem_that_is_killed_goes_elsewhere_uncharged(site, work):
    site.pool("[slow]\nworkers: 1\nmax_prefetch: 4\nmax_crashes: 1\ntimeout: 0.4\ntimeout_grace: 0.2")
    site.gate().touch()
    deaf = work.submit("slow", {"gate": str(site.gate("never")), "deaf": True})
    others = {work.submit("slow", {"gate": str(site.gate())}) for _ in range(3)}
    results = work.results(4)
    assert results.pop(deaf).status == "failed"
    assert set(results) == others
    assert {result.status for result in results.values()} == {"succeeded"}
    assert {result.headers["x-taskqueue-attempt"] for result in results.values()} == {1}


# --- recycling ---


@pytest.mark.parametrize("depth", [1, 5])
def test_a_worker_is_replaced_after_so_many_workitems_and_nothing_is_lost(site, work, depth):
    pool = site.pool(f"[good]\nworkers: 2\nmax_prefetch: {depth}\nmax_tasks: 3")
    items = {work.submit("good", number) for number in range(60)}
    results = work.results(60)
    assert set(results) == items
    pids = [result.value["pid"] for result in results.values()]
    assert max(pids.count(pid) for pid in pids) == 3
    assert {result.value["attempt"] for result in results.values()} == {1}
    assert work.foreign.poll("results") is None
    assert len(site.notes()) == 120  # nobody was run twice
    wait_until(lambda: len(workers(pool)) == 2)
    assert "the next one starts" not in pool.output()  # neither a death nor a delay
    assert pool.stop() == 0
    assert work.foreign.depth("worker_good") == 0


def test_a_worker_that_has_grown_is_replaced_between_workitems(site, work):
    pool = site.pool("[growing]\nworkers: 1\nmax_memory: 150")
    pids = [work.ask("growing", {"mib": 60}) for _ in range(4)]
    assert pids[0] == pids[1] or pids[1] == pids[2]  # not after each
    assert len(set(pids)) >= 2
    assert "ended:" not in pool.output()
    assert work.foreign.depth("taskqueue_failed") is None


# --- memory, processor ---


def test_beyond_its_memory_limit_a_handler_fails_and_the_worker_goes_on(site, work):
    pool = site.pool("[hungry]\nworkers: 1\nmemory_limit: 400")
    for _ in range(2):
        work.submit("hungry", {})
        assert work.result().error.startswith("MemoryError")
    assert "ended:" not in pool.output()


def test_beyond_its_processor_limit_a_worker_is_killed_by_the_kernel(site, work):
    site.pool("[busy]\nworkers: 1\nmax_crashes: 1\ncpu_limit: 1\n[good]\nworkers: 1")
    work.submit("busy")
    assert work.result().error == "WorkerCrashed: killed by SIGXCPU; 1 crash in all"
    assert causes(work) == [("crashed", "killed by SIGXCPU")]
    assert work.ask("good", 1)["attempt"] == 1


def test_the_processor_limit_is_each_workitems_own(site, work):
    pool = site.pool("[good]\nworkers: 1\ncpu_limit: 1")
    pids = {work.ask("good", number)["pid"] for number in range(20)}
    assert pids == workers(pool)


def test_workers_yield_as_their_group_says(site, work):
    site.pool("[whoami]\nworkers: 1\nnice: 7")
    own = os.getpriority(os.PRIO_PROCESS, 0)  # the tests may yield themselves, and the kernel stops at 19
    assert work.ask("whoami")["nice"] == min(own + 7, 19)
