"""A worker is killed: the workitem it was performing runs again, and nobody else notices."""

import os
import re
import signal
import time
from pathlib import Path

from support.processes import kill
from support.site import consumers, workers
from support.waiting import wait_until

from taskqueue.process.children import Slot


def test_an_idle_worker_that_is_killed_is_replaced_at_once(site, work):
    pool = site.pool("[good]\nworkers: 2")
    before, consumer = workers(pool), consumers(pool)
    victim = min(before)
    kill(victim)
    pool.wait_for(f"process {victim}, ended: killed by SIGKILL; the next one starts now")
    wait_until(lambda: len(workers(pool)) == 2)
    assert len(workers(pool) & before) == 1
    assert consumers(pool) == consumer
    assert work.ask("good", 1)["attempt"] == 1


def test_the_workitem_of_a_killed_worker_runs_again(site, work):
    pool = site.pool("[gated]\nworkers: 1")
    workitem = work.submit("gated", {"gate": str(site.gate())})
    first = site.wait_for_run(workitem)
    kill(first.pid)
    second = site.wait_for_run(workitem, times=2)
    site.gate().touch()
    result = work.result()
    assert (result.workitem, result.status) == (workitem, "succeeded")
    assert result.value == {"pid": second.pid, "attempt": 2}
    pool.wait_for("worker crashed (killed by SIGKILL); crash 1, retry in 0 s [group=gated")
    assert pool.stop() == 0
    assert work.foreign.depth("worker_gated") == 0


def test_a_crash_is_not_charged_to_the_neighbours(site, work):
    site.pool("[gated]\nworkers: 3")
    items = [work.submit("gated", {"gate": str(site.gate())}) for _ in range(6)]
    wait_until(lambda: len(site.notes()) == 3)  # three run, three wait for them
    victim = site.notes()[0]
    kill(victim.pid)
    site.wait_for_run(victim.workitem, times=1)
    site.gate().touch()
    results = work.results(6)
    assert set(results) == set(items)
    attempts = {workitem: result.value["attempt"] for workitem, result in results.items()}
    assert attempts == dict.fromkeys(items, 1) | {victim.workitem: 2}
    ends = [note.workitem for note in site.notes() if note.word == "end"]
    assert sorted(ends) == sorted(items)  # none twice


def test_a_workitem_that_kills_every_worker_is_given_up_and_kept(site, work):
    pool = site.pool("[segfaulting]\nworkers: 1\n[exiting]\nworkers: 1\n[good]\nworkers: 1")
    faults = work.submit("segfaulting", {"some": "body"})
    exits = work.submit("exiting", {"how": "os._exit", "status": 9})
    results = work.results(2)
    assert results[faults].error == "WorkerCrashed: killed by SIGSEGV; 3 crashes in all"
    assert results[exits].error == "WorkerCrashed: exit status 9; 3 crashes in all"
    assert [note.attempt for note in site.notes(faults)] == [1, 2, 3]
    wait_until(lambda: work.foreign.depth("taskqueue_failed") == 2)
    kept = {
        message.properties["message_id"]: message for message in work.foreign.collect("taskqueue_failed", 2)
    }
    assert kept[faults].body == '{"some": "body"}'
    assert "killed by SIGSEGV" in kept[faults].headers["x-taskqueue-reason"]
    assert "exit status 9" in kept[exits].headers["x-taskqueue-reason"]
    assert work.ask("good", 1)["attempt"] == 1
    assert pool.stop() == 0
    assert [work.foreign.depth(f"worker_{name}") for name in ("segfaulting", "exiting")] == [0, 0]


def test_a_workitem_that_its_worker_never_read_is_not_charged_with_its_death(site, work):
    pool = site.pool("[good]\nworkers: 1\nmax_crashes: 1")
    (victim,) = workers(pool)
    work.ask("good")
    os.kill(victim, signal.SIGSTOP)
    wait_until(lambda: ") T " in Path(f"/proc/{victim}/stat").read_text())
    work.submit("good")
    wait_until(lambda: work.foreign.depth("worker_good") == 0)
    kill(victim)
    result = work.result()
    assert result.status == "succeeded"
    assert result.value["attempt"] == 1
    assert "crashed" not in pool.output()


def test_a_frozen_worker_does_not_disturb_the_connection(site, work):
    pool = site.pool("[good]\nworkers: 2", heartbeat=1)
    frozen = min(workers(pool))
    os.kill(frozen, signal.SIGSTOP)
    for number in range(20):
        work.submit("good", number)
    results = work.results(19)  # one is with the frozen worker
    assert {result.value["pid"] for result in results.values()}.isdisjoint({frozen})
    os.kill(frozen, signal.SIGCONT)
    assert work.result().value["pid"] == frozen
    assert "lost the connection" not in pool.output()


def test_whoever_cannot_start_is_tried_again_at_once_and_then_ever_later(site, work):
    pool = site.pool("[unready]\nworkers: 1", ready="ready:")
    pool.wait_for("the next one starts in 1 s")
    delays = re.findall(
        r"its plugin cannot be loaded or set up \(exit status 65\); the next one starts (.*) \[",
        pool.output(),
    )
    assert delays[:4] == ["now", "in 0.25 s", "in 0.5 s", "in 1 s"]


def test_the_delay_grows_to_a_minute_and_no_further():
    slot = Slot("somebody")
    delays = []
    for pid in range(1, 31):
        slot.fill(pid)
        delays.append(slot.vacate(expected=False))
    assert delays[0] == 0
    assert delays[1:] == sorted(delays[1:])
    assert set(delays[10:]) == {60.0}


def test_whoever_lived_for_a_while_is_followed_at_once():
    slot = Slot("somebody")
    for pid in range(1, 5):
        slot.fill(pid)
        slot.vacate(expected=False)
    slot.fill(5)
    slot.started = time.monotonic() - 60
    assert slot.vacate(expected=False) == 0
