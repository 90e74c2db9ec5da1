"""Changes of a host beside its processes: it freezes, loses a user, a plugin, its names."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.processes import kill, tree
from support.site import AS_ROOT, consumers, workers
from support.waiting import wait_until

WORKITEMS = 600
HEARTBEAT = 1  # second; the broker gives a silent connection up after three

as_root = pytest.mark.skipif(not AS_ROOT, reason="only root can become other users")


def connections(broker):
    return int(broker.evaluate("length(rabbit_networking:local_connections())"))


def test_a_host_that_freezes_until_its_work_went_elsewhere_comes_back_and_loses_nothing(site, work, broker):
    dispatcher = site.dispatcher("[good]\nworkers: 2", heartbeat=HEARTBEAT)
    pools = [site.pool() for _ in range(3)]
    work.submit_numbers(range(WORKITEMS), seconds=0.01)
    site.wait_for_ends(WORKITEMS // 6)
    before = connections(broker)
    frozen = tree(pools[0].pid)
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    # the broker takes the work of the silent host back, and the others do all of it
    work.assert_all_numbers(range(WORKITEMS))
    wait_until(lambda: connections(broker) == before - 2, 20, "the end of the frozen host's connections")
    for pid in frozen:
        os.kill(pid, signal.SIGCONT)
    pools[0].wait_for("lost the connection to the broker")
    wait_until(lambda: connections(broker) == before, 40, "the frozen host's return")
    work.submit_numbers(range(WORKITEMS), seconds=0.002)
    work.assert_all_numbers(range(WORKITEMS))
    work.wait_until_empty("taskqueue", "worker_good")
    assert [pool.stop() for pool in pools] == [0, 0, 0]
    assert dispatcher.stop() == 0
    assert "Traceback" not in "".join(each.output() for each in (*pools, dispatcher))
    assert work.foreign.depth("worker_good") == 0


@pytest.fixture
def passing_user() -> Iterator[str]:
    """A Unix user that the test may delete."""
    name = "tq-passing"
    subprocess.run(["useradd", "--system", "--no-create-home", name], check=True)
    yield name
    subprocess.run(["userdel", "--force", name], check=False, capture_output=True)


@as_root
def test_a_group_whose_user_is_deleted_goes_on_and_says_why_it_cannot_be_reloaded(site, work, passing_user):
    pool = site.pool(f"[good]\nworkers: 1\n[whoami]\nworkers: 1\nuser: {passing_user}")
    uid = work.ask("whoami")["uids"][0]
    subprocess.run(["userdel", "--force", passing_user], check=True)
    (worker,) = [pid for pid in workers(pool) if Path(f"/proc/{pid}").stat().st_uid == uid]
    kill(worker)
    pool.wait_for(f"user {passing_user!r}", 20)
    work.ask("good")
    pool.signal(signal.SIGHUP)
    pool.wait_for("not reloaded, the configuration has faults")
    pool.wait_for("section [whoami], option user: expected a Unix user that exists")
    work.ask("good")
    assert "Traceback" not in pool.output()
    assert pool.stop() == 0


def test_a_plugin_that_is_removed_while_its_pool_runs_is_served_as_soon_as_it_is_back(site, work):
    pool = site.pool("[good]\nworkers: 1\n[whoami]\nworkers: 1")
    work.ask("whoami")
    (info,) = site.plugins.glob("zoo*.dist-info")
    away = info.with_suffix(".away")
    info.rename(away)
    for worker in workers(pool):
        kill(worker)
    pool.wait_for("no plugin 'whoami' is installed")
    pool.wait_for("no plugin 'good' is installed")
    waiting = work.submit("whoami")
    away.rename(info)
    assert work.result(40).workitem == waiting  # nobody had to reload anything
    work.ask("good")
    assert "Traceback" not in pool.output()


def test_a_plugin_that_is_replaced_by_one_that_cannot_be_imported_stops_no_other(site, work):
    pool = site.pool("[good]\nworkers: 1\n[quick]\nworkers: 1")
    (module,) = site.plugins.glob("zoo_chaos.py")
    text = module.read_text()
    module.write_text("import no_such_module\n")
    before = workers(pool)
    for worker in before:
        kill(worker)
    pool.wait_for("no_such_module", 20)
    work.ask("good")
    module.write_text(text)
    wait_until(lambda: len(workers(pool)) == 2 and len(consumers(pool)) == 2, 60)
    assert pool.stop() == 0
