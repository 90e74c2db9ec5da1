"""More workers and groups than a socket or the usual limit on open files has room for."""

import os
import signal
import time

from support.processes import kill
from support.site import consumers, workers
from support.waiting import wait_until

WORKERS = 60  # whose deaths and starts, three times over, are more than a socket takes
GROUPS = 30  # for which the supervisor has 60 files open, and some others
OPEN_FILES = 48
PATIENCE = 7  # seconds; a worker that closed its socket may live on for five


def groups(number):
    """Return a configuration of so many groups of one worker each."""
    names = [f"g{each}" for each in range(number)]
    sections = "".join(f"[whoami_{name}]\nworkers: 1\n" for name in names)
    return f"[whoami]\nworkers: {', '.join(names)}\n{sections}"


def start(site, soft, hard):
    command = [
        "prlimit",
        f"--nofile={soft}:{hard}",
        *site.command("workerpool", "-f", "-c", str(site.config)),
    ]
    return site._start(command, env={"PYTHONPATH": str(site.plugins)})


def test_workers_may_die_by_the_hundred_while_their_consumer_has_no_time_to_hear_of_it(site, work):
    pool = site.pool(f"[gated]\nworkers: {WORKERS}", ready="ready:")
    wait_until(lambda: len(workers(pool)) == WORKERS and len(consumers(pool)) == 1, 60, pool.output)
    [consumer] = consumers(pool)
    os.kill(consumer, signal.SIGSTOP)
    for times in (1, 2, 3):
        for pid in wait_until(lambda: len(found := workers(pool)) == WORKERS and found, 60, pool.output):
            kill(pid)
        pool.wait_for("ended: killed by SIGKILL", 60, times=times * WORKERS)
    os.kill(consumer, signal.SIGCONT)
    for _ in range(WORKERS):
        work.submit("gated", {"gate": str(site.gate())})
    wait_until(lambda: len({note.pid for note in site.notes()}) == WORKERS, 60, pool.output)
    site.gate().touch()
    assert {result.status for result in work.results(WORKERS).values()} == {"succeeded"}
    assert consumers(pool) == {consumer}
    assert pool.stop() == 0


def test_a_pool_needs_no_higher_limit_on_open_files_than_it_may_have_and_its_workers_keep_theirs(site, work):
    site.configure(groups(GROUPS))
    pool = start(site, OPEN_FILES, 4096)
    pool.wait_for(f"ready: {GROUPS} workers in {GROUPS} groups", 60)
    assert work.ask("whoami")["open_files"] == [OPEN_FILES, 4096]
    assert "ERROR" not in pool.output()
    assert pool.stop() == 0


def test_a_configuration_that_takes_more_open_files_than_are_allowed_is_refused_at_once(site, work):
    refusal = (
        f"30 groups with up to 1 worker in one need 92 open files in a process, and the limit is {OPEN_FILES}"
    )
    site.configure(groups(GROUPS))
    refused = start(site, OPEN_FILES, OPEN_FILES)
    assert refused.wait() == 74
    assert refused.output() == (
        f"taskqueue: {refusal}: raise LimitNOFILE in the systemd unit, or `ulimit -n` before the start\n"
    )
    site.configure(groups(3))
    pool = start(site, OPEN_FILES, OPEN_FILES)
    pool.wait_for("ready: 3 workers in 3 groups")
    site.configure(groups(GROUPS))
    pool.signal(signal.SIGHUP)
    pool.wait_for(f"not reloaded: {refusal}: ")
    site.configure(groups(4))
    pool.signal(signal.SIGHUP)
    pool.wait_for("reloaded: 4 workers in 4 groups")
    assert work.ask("whoami")["open_files"] == [OPEN_FILES, OPEN_FILES]
    assert pool.stop() == 0


def test_a_worker_that_has_ended_is_not_taken_for_one_that_lives_on_by_a_supervisor_without_time(site, work):
    pool = site.pool("[good]\nworkers: 1", ready="ready:")
    first = work.ask("good")["pid"]
    pool.signal(signal.SIGSTOP)  # as where hundreds of others end at the same moment
    kill(first)
    late = time.monotonic() + PATIENCE
    wait_until(lambda: time.monotonic() > late)
    pool.signal(signal.SIGCONT)
    pool.wait_for("ended: killed by SIGKILL")
    assert work.ask("good")["pid"] != first
    assert "killing worker" not in pool.output()
    assert pool.stop() == 0


def test_many_groups_that_stop_at_once_end_by_themselves(site):
    site.configure(groups(2 * GROUPS))
    pool = start(site, 1024, 4096)
    pool.wait_for(f"ready: {2 * GROUPS} workers in {2 * GROUPS} groups", 90)
    assert pool.stop(60) == 0
    assert "kill" not in pool.output()
    assert "ERROR" not in pool.output()
