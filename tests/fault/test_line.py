"""The line to the broker is cut: what runs goes on, and every result arrives."""

import pytest
from support.processes import kill
from support.proxy import Proxy
from support.waiting import wait_until

WORKITEMS = 2000
CUTS = 4  # each makes the next attempt to connect come later


def test_every_result_arrives_although_the_line_is_cut_under_load(site, work, proxy):
    dispatcher = site.dispatcher("[good]\nworkers: 3\nmax_prefetch: 3", url=proxy.url)
    pool = site.pool()
    work.submit_numbers(range(WORKITEMS), seconds=0.003)
    for cut in range(1, CUTS + 1):
        site.wait_for_ends(site.ends() + WORKITEMS // 20)
        proxy.cut()
        for daemon in (dispatcher, pool):
            daemon.wait_for("lost the connection to the broker", times=cut)
    work.assert_all_numbers(range(WORKITEMS))
    work.wait_until_empty("taskqueue", "worker_good")
    assert pool.stop() == dispatcher.stop() == 0
    assert work.foreign.depth("worker_good") == work.foreign.depth("taskqueue") == 0
    assert "Traceback" not in pool.output() + dispatcher.output()


def test_running_workitems_are_adopted_and_not_run_twice(site, work, proxy):
    pool = site.pool("[gated]\nworkers: 3", url=proxy.url)
    items = [work.submit("gated", {"gate": str(site.gate())}) for _ in range(5)]
    wait_until(lambda: len(site.notes()) == 3)
    for cut in range(1, 4):
        proxy.cut()
        pool.wait_for("redelivered while it runs; the run continues", 40, times=3 * cut)
    site.gate().touch()
    results = work.results(5)
    assert set(results) == set(items)
    assert {result.value["attempt"] for result in results.values()} == {1}
    assert len([note for note in site.notes() if note.word == "begin"]) == 5
    assert pool.stop() == 0
    assert work.foreign.depth("worker_gated") == 0


def test_a_result_finished_while_the_line_is_down_is_published_once_it_is_up(site, work, proxy):
    pool = site.pool("[gated]\nworkers: 1", url=proxy.url)
    workitem = work.submit("gated", {"gate": str(site.gate())})
    site.wait_for_run(workitem)
    proxy.refuse()
    proxy.cut()
    pool.wait_for("waits for the broker")
    site.gate().touch()
    wait_until(lambda: site.notes()[-1].word == "end")
    proxy.accept()
    assert work.result(40).workitem == workitem
    wait_until(lambda: work.foreign.depth("worker_gated") == 0, 40)  # it is delivered again, and known
    assert pool.stop() == 0
    assert work.foreign.depth("worker_gated") == 0
    assert len(site.notes()) == 2  # it was not run again


def test_a_workitem_that_fails_while_the_line_is_down_runs_again_once_it_is_up(site, work, proxy):
    retried = "[slow]\nworkers: 1\ntimeout: 1.5\nretries: 1\nretry_delay: 0.3"
    pool = site.pool(retried, url=proxy.url)
    workitem = work.submit("slow", {"gate": str(site.gate())})
    site.wait_for_run(workitem)
    proxy.refuse()
    proxy.cut()
    pool.wait_for("retry in")
    site.gate().touch()
    proxy.accept()
    result = work.result(40)
    assert (result.workitem, result.status) == (workitem, "succeeded")
    assert result.headers["x-taskqueue-attempt"] == 2
    assert pool.stop() == 0
    assert "Traceback" not in pool.output()


def test_a_worker_that_dies_while_the_line_is_down_costs_no_workitem(site, work, proxy):
    pool = site.pool("[exiting]\nworkers: 1\n[gated]\nworkers: 1", url=proxy.url)
    workitem = work.submit("gated", {"gate": str(site.gate())})
    victim = site.wait_for_run(workitem).pid
    proxy.refuse()
    proxy.cut()
    pool.wait_for("waits for the broker")
    kill(victim)
    pool.wait_for(f"process {victim}, ended: killed by SIGKILL")
    site.gate().touch()
    proxy.accept()
    assert work.result(40).workitem == workitem


def test_a_line_that_stalls_is_given_up_after_missed_heartbeats(site, work, proxy):
    pool = site.pool("[good]\nworkers: 1", url=proxy.url, heartbeat=1)
    proxy.stall()
    pool.wait_for("lost the connection to the broker", 20)
    proxy.cut()
    proxy.resume()
    waiting = work.submit("good", 1)
    assert work.result(40).workitem == waiting


@pytest.mark.parametrize("name", ["dispatcher", "workerpool"])
def test_a_line_that_stalls_keeps_nobody_from_ending(site, proxy, name):
    site.configure("[good]\nworkers: 1", url=proxy.url, stop_timeout=300, heartbeat=300)
    daemon = site.start(name, "-f", "-c", str(site.config))
    daemon.wait_for("takes work")
    proxy.stall()
    assert daemon.stop(timeout=30) == 0  # long before anything else would end it
    daemon.assert_nothing_left()


def test_after_the_last_host_the_first_is_tried_at_once(site, amqp_url, proxy):
    with Proxy(amqp_url) as last:
        proxy.refuse()
        hosts = f":{proxy.port},127.0.0.1:{last.port}/"
        dispatcher = site.dispatcher("", url=proxy.url.replace(f":{proxy.port}/", hosts))
        for other in ("scheduler", "keeper"):  # it is ready without them, and they would find no host
            dispatcher.wait_for(f"{other} stands by")
        proxy.accept()
        last.refuse()
        last.cut()
        dispatcher.wait_for(f"connected to the broker at 127.0.0.1:{proxy.port}", times=2)
    assert "trying again" not in dispatcher.output()
