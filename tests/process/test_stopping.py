"""SIGTERM: what runs may finish until the deadline; then, or at the second signal, it is killed."""

import os
import signal
import time

import pytest
from support.processes import exists
from support.site import consumers
from support.waiting import wait_until


def test_a_running_workitem_finishes_and_nothing_is_left_unacknowledged(site, work):
    pool = site.pool("[gated]\nworkers: 2")
    items = [work.submit("gated", {"gate": str(site.gate())}) for _ in range(5)]
    wait_until(lambda: len(site.notes()) == 2)
    running = {note.workitem for note in site.notes()}
    pool.signal(signal.SIGTERM)
    pool.wait_for("stopping: running work has 20 s to finish")
    wait_until(lambda: work.foreign.consumers("worker_gated") == 0)
    assert pool.status is None
    site.gate().touch()
    assert pool.wait() == 0
    pool.assert_nothing_left()
    assert set(work.results(2)) == running
    assert work.foreign.depth("worker_gated") == len(items) - 2
    assert pool.output().count("the gated one is torn down") == 2
    assert "ended:" not in pool.output()


def test_what_a_worker_says_at_its_end_is_logged_however_late(site, work):
    pool = site.pool(f"[gated]\nworkers: 1\nexit_gate: {site.gate()}")
    pool.signal(signal.SIGTERM)
    pool.wait_for("the gated one wants to leave")
    site.gate().touch()
    assert pool.wait() == 0
    assert "the gated one is torn down" in pool.output()
    assert "ended:" not in pool.output()


def test_a_consumer_that_is_told_to_stop_is_followed_by_another(site, work):
    pool = site.pool("[good]\nworkers: 2")
    (old,) = consumers(pool)
    os.kill(old, signal.SIGTERM)
    wait_until(lambda: consumers(pool) not in (set(), {old}))
    assert work.ask("good")["attempt"] == 1


def test_an_idle_pool_ends_at_once_and_waits_for_nobody(site):
    pool = site.pool("[good]\nworkers: 3")
    begun = time.monotonic()
    assert pool.stop() == 0
    assert time.monotonic() - begun < 3
    assert "waits for a worker" not in pool.output().partition("takes work")[2]
    pool.assert_nothing_left()


def test_ctrl_c_stops_like_sigterm(site, work):
    pool = site.pool("[gated]\nworkers: 1")
    workitem = work.submit("gated", {"gate": str(site.gate())})
    site.wait_for_run(workitem)
    pool.signal(signal.SIGINT)
    pool.wait_for("stopping: ")
    site.gate().touch()
    assert pool.wait() == 0
    assert work.result().workitem == workitem


def test_what_does_not_finish_in_time_is_killed_and_delivered_later(site, work):
    pool = site.pool("[gated]\nworkers: 1", stop_timeout=0.5)
    workitem = work.submit("gated", {"gate": str(site.gate())})
    victim = site.wait_for_run(workitem).pid
    assert pool.stop() == 0
    assert "that did not end in time" in pool.output()
    assert not exists(victim)
    pool.assert_nothing_left()
    site.gate().touch()
    site.pool()
    result = work.result()
    assert (result.workitem, result.value["attempt"]) == (workitem, 1)  # a stop is no crash


def test_a_worker_that_tries_to_leave_its_process_group_is_killed_in_time_too(site, work):
    pool = site.pool("[escaping]\nworkers: 1", stop_timeout=0.5)
    victim = site.wait_for_run(work.submit("escaping", "stay")).pid
    assert pool.stop() == 0
    assert not exists(victim)
    pool.assert_nothing_left()


@pytest.mark.parametrize("command", ["workerpool", "up"])
def test_the_second_sigterm_ends_at_once(site, work, command):
    site.configure("[gated]\nworkers: 1", stop_timeout=300)
    daemon = site.start(command, "-c", str(site.config), *(["-f"] if command == "workerpool" else []))
    workitem = work.submit("gated", {"gate": str(site.gate())})
    site.wait_for_run(workitem)
    daemon.signal(signal.SIGTERM)
    daemon.wait_for("stopping: ")
    daemon.signal(signal.SIGTERM)
    assert daemon.wait(10) == 0
    assert "stopping at once" in daemon.output()
    daemon.assert_nothing_left()
    assert work.foreign.get("worker_gated").properties["message_id"] == workitem


def test_a_dispatcher_that_stops_has_nothing_unacknowledged(site, work):
    dispatcher = site.dispatcher("")
    work.foreign.declare("worker_good")
    work.foreign.publish_many((str(number) for number in range(5000)), type="good")
    assert dispatcher.stop() == 0
    dispatcher.assert_nothing_left()
    assert work.foreign.depth("taskqueue") + work.foreign.depth("worker_good") == 5000


def test_up_stops_all_that_it_started(site, work):
    site.configure("[good]\nworkers: 2")
    everything = site.start("up", "-c", str(site.config))
    everything.wait_for("ready: dispatcher runs, workerpool runs")
    work.dispatch("good", 1)
    assert work.result().status == "succeeded"
    assert everything.stop() == 0
    everything.assert_nothing_left()
    assert "ended:" not in everything.output()


def test_a_pool_that_is_stopped_while_it_starts_ends(site):
    site.configure("[good]\nworkers: 4")
    pool = site.start("workerpool", "-f", "-c", str(site.config))
    wait_until(lambda: "workerpool" in pool.output())
    assert pool.stop() == 0
    pool.assert_nothing_left()
