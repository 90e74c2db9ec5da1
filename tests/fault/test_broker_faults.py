"""The broker goes down under load, in order or not: every result arrives."""

import os
import signal

import pytest
from support.node import Node
from support.waiting import wait_until

WORKITEMS = 1500


def stop_in_order(broker):
    os.kill(broker.pid, signal.SIGTERM)
    wait_until(lambda: not broker.alive, 30, "the broker's end")


@pytest.mark.parametrize("go_down", [stop_in_order, Node.kill_settled])
def test_every_result_arrives_although_the_broker_is_restarted(site, work, broker, go_down):
    dispatcher = site.dispatcher("[good]\nworkers: 3")
    pool = site.pool()
    work.submit_numbers(range(WORKITEMS), seconds=0.003)
    site.wait_for_ends(WORKITEMS // 6)
    go_down(broker)
    for daemon in (dispatcher, pool):
        daemon.wait_for("lost the connection to the broker")
    broker.start()
    work.assert_all_numbers(range(WORKITEMS))
    work.wait_until_empty("taskqueue", "worker_good")
    assert pool.stop() == dispatcher.stop() == 0
    assert work.foreign.depth("worker_good") == work.foreign.depth("taskqueue") == 0
    assert "Traceback" not in pool.output() + dispatcher.output()


def test_a_workitem_that_runs_while_the_broker_restarts_is_not_run_again(site, work, broker):
    pool = site.pool("[gated]\nworkers: 2")
    items = [work.submit("gated", {"gate": str(site.gate())}) for _ in range(2)]
    wait_until(lambda: len(site.notes()) == 2)
    broker.kill_settled()
    broker.start()
    pool.wait_for("redelivered while it runs; the run continues", 30, times=2)
    site.gate().touch()
    assert set(work.results(2)) == set(items)
    assert len([note for note in site.notes() if note.word == "begin"]) == 2
    assert pool.stop() == 0
    assert work.foreign.depth("worker_gated") == 0


def test_a_result_that_comes_while_the_broker_is_down_is_published_when_it_is_up(site, work, broker):
    pool = site.pool("[gated]\nworkers: 1")
    workitem = work.submit("gated", {"gate": str(site.gate())})
    site.wait_for_run(workitem)
    broker.kill_settled()
    pool.wait_for("lost the connection to the broker", times=2)
    site.gate().touch()
    wait_until(lambda: site.notes()[-1].word == "end")
    broker.start()
    assert work.result(30).workitem == workitem
    wait_until(lambda: work.foreign.depth("worker_gated") == 0, 40)  # it is delivered again, and known
    assert pool.stop() == 0
    assert work.foreign.depth("worker_gated") == 0
    assert len(site.notes()) == 2
