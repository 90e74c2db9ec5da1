"""The replacement of workers, one after the other: taskqueue roll."""

import os
import re

import pytest
from support.documentation import commands, example
from support.hosts import hosts
from support.processes import exists
from support.site import AS_ROOT, workers
from support.waiting import wait_until

pytestmark = pytest.mark.skipif(not AS_ROOT, reason="only root can give processes another host's name")

__all__ = ["hosts"]


def test_workers_are_replaced_one_after_the_other_and_what_runs_finishes(hosts, work):
    site = hosts.site
    pool = hosts.pool("web1", "[good]\nworkers: 3\n[gated]\nworkers: 2", stop_timeout=1)
    running = work.submit("gated", {"gate": str(site.gate())})
    busy = site.wait_for_run(running).pid
    before = workers(pool)
    rolling = site.start("roll", "-c", str(site.config))
    # All of `good` come first; of `gated`, the idle one may come before the busy one.
    rolling.wait_for("3 of 5 workers replaced")
    hosts.run("pause", "gated")
    shown = hosts.run("ps")
    assert re.search(r"^web1 rolls gated: [34] of 5 workers replaced\.$", shown, re.MULTILINE), shown
    assert re.search(r"^gated is paused, by .+ since .+\.$", shown, re.MULTILINE)
    assert "another roll is going on" in hosts.run("roll", "good", status=1)
    wait_until(lambda: "ends" not in {each["does"] for each in workers_of(hosts, "good")})
    assert exists(busy)
    assert len(workers(pool) & before) in (1, 2)
    site.gate().touch()
    assert work.result().workitem == running
    assert rolling.wait() == 0
    assert rolling.output().splitlines()[-1] == "web1: 5 of 5 workers replaced"
    assert len(workers(pool)) == 5
    assert not workers(pool) & before
    pool.wait_for("the roll has replaced 5 workers")
    work.ask("good")
    assert "roll" not in hosts.run("ps")
    assert "ended: " not in pool.output()
    assert hosts.run("roll", "nothing", status=1) == "taskqueue: no pool has a group nothing\n"

    page = [
        line.replace("digest", "good").split()[1:]
        for line in commands(example("docs/operations.md", "taskqueue roll"))
    ]
    assert [hosts.run(*words).splitlines()[-1] for words in page] == [
        "web1: 5 of 5 workers replaced",
        "web1: 3 of 3 workers replaced",
    ]


def workers_of(hosts, group):
    (pool,) = hosts.ask().pools
    return [worker for each in pool["groups"] if each["group"] == group for worker in each["workers"]]


def test_never_are_two_workers_missing_while_work_goes_on(hosts, work):
    pool = hosts.pool("web1", "[good]\nworkers: 3")
    before = workers(pool)
    least = [3]
    rolling = hosts.site.start("roll", "good", "-c", str(hosts.site.config))

    def is_over():
        work.submit("good")
        found = workers_of(hosts, "good")
        least.append(sum(each["does"] in ("idle", "works") for each in found))
        return rolling.status is not None

    wait_until(is_over, 30)
    assert rolling.status == 0
    assert min(least) >= 2, least
    assert not workers(pool) & before
    work.wait_until_empty("worker_good")


def test_a_new_worker_that_does_not_become_ready_stops_the_roll(hosts, work):
    pool = hosts.pool("web1", "[good]\nworkers: 3")
    before = workers(pool)
    module = hosts.site.plugins / "zoo.py"
    text = module.read_text()
    module.write_text("raise RuntimeError('a bad release')\n")
    said = hosts.run("roll", status=1)
    assert "web1: the roll has stopped: the new worker good/1 ended before it was ready\n" in said
    assert "replaced" in said
    assert len(workers(pool) & before) == 2
    why = "the new worker good/1 ended before it was ready."
    assert f"web1: the last roll has stopped after 0 of 3 workers: {why}" in hosts.run("ps").splitlines()
    work.ask("good")
    module.write_text(text)
    wait_until(lambda: len(workers(pool)) == 3)
    assert hosts.run("roll").endswith("web1: 3 of 3 workers replaced\n")
    assert not workers(pool) & before


def test_a_worker_that_does_not_end_is_killed_after_stop_timeout(hosts):
    pool = hosts.pool("web1", "[stubborn]\nworkers: 1", stop_timeout=1)
    (old,) = workers(pool)
    os.kill(old, 19)  # SIGSTOP: it cannot end
    assert hosts.run("roll", "stubborn").endswith("web1: 1 of 1 worker replaced\n")
    pool.wait_for("killing worker stubborn/1, which did not end by itself")
    assert not exists(old)
