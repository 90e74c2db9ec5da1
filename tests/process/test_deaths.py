"""Consumer, supervisor and dispatcher are killed with -9: no workitem is lost, no process is left."""

from support.processes import dispatchers, exists, kill
from support.site import consumer_of, consumers, workers
from support.waiting import wait_until


def test_a_killed_consumer_is_replaced_with_its_workers(site, work, broker):
    pool = site.pool("[gated]\nworkers: 2\n[good]\nworkers: 1")
    bystander = work.ask("good")["pid"]
    items = [work.submit("gated", {"gate": str(site.gate())}) for _ in range(2)]
    victims = {site.wait_for_run(workitem).pid for workitem in items}
    own = consumer_of(broker, "gated", consumers(pool))
    kill(own)
    pool.wait_for(f"consumer, process {own}, ended: killed by SIGKILL; the next one starts now")
    wait_until(lambda: not any(map(exists, victims)))
    for workitem in items:
        site.wait_for_run(workitem, times=2)
    site.gate().touch()
    assert set(work.results(2)) == set(items)
    assert work.ask("good")["pid"] == bystander
    assert len(consumers(pool)) == 2
    assert pool.stop() == 0
    assert work.foreign.depth("worker_gated") == 0


def test_a_killed_supervisor_leaves_no_process_and_loses_no_workitem(site, work):
    pool = site.pool("[gated]\nworkers: 2\n[good]\nworkers: 2")
    items = [work.submit("gated", {"gate": str(site.gate())}) for _ in range(5)]
    wait_until(lambda: len(site.notes()) == 2)
    pool.kill()
    pool.assert_nothing_left()
    site.gate().touch()
    site.pool()
    results = work.results(5)
    assert set(results) == set(items)
    assert {result.status for result in results.values()} == {"succeeded"}


def test_a_killed_dispatcher_process_is_replaced(site, work):
    dispatcher = site.dispatcher("[good]\nworkers: 1")
    site.pool()
    (victim,) = dispatchers(dispatcher.pid)
    work.submit_numbers(range(2000))
    kill(victim)
    dispatcher.wait_for(f"process {victim}, ended: killed by SIGKILL; the next one starts now")
    work.assert_all_numbers(range(2000))


def test_a_killed_dispatcher_daemon_leaves_no_process_and_loses_no_workitem(site, work):
    dispatcher = site.dispatcher("[good]\nworkers: 1")
    assert len(dispatchers(dispatcher.pid)) == 1
    work.submit_numbers(range(2000))
    dispatcher.kill()
    dispatcher.assert_nothing_left()
    site.dispatcher()
    site.pool()
    work.assert_all_numbers(range(2000))


def test_a_killed_up_leaves_no_process(site):
    site.configure("[good]\nworkers: 2")
    everything = site.start("up", "-c", str(site.config))
    everything.wait_for("ready: dispatcher runs, workerpool runs")
    everything.kill()
    everything.assert_nothing_left()


def test_workers_die_with_a_consumer_that_dies_with_the_supervisor(site):
    pool = site.pool("[good]\nworkers: 3")
    family = workers(pool) | consumers(pool)
    assert len(family) == 4
    pool.kill()
    wait_until(lambda: not any(map(exists, family)))
