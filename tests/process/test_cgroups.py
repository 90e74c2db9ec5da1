"""Workers in control groups of their own: they end with their programs, and use no more than they may."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import pytest
from support.processes import exists, kill
from support.site import AS_ROOT, workers
from support.waiting import wait_until

from taskqueue.process.cgroups import Boundaries, Cgroups
from taskqueue.process.children import Exit

MEBIBYTE = 1024 * 1024


def mounted():
    """Return where the hierarchy of control groups is; "" if nowhere."""
    found = subprocess.run(
        ["findmnt", "-n", "-t", "cgroup2", "-o", "TARGET"], capture_output=True, text=True, check=False
    )
    return found.stdout.split("\n")[0]


def group_of(pid):
    """Return the directory of a process's control group."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return Path(mounted() + next(line[3:] for line in lines if line.startswith("0::")))


@pytest.fixture
def root():
    """The root of the hierarchy, in which this machine lets root make control groups."""
    if not AS_ROOT:
        pytest.skip("only root can make control groups")
    if not mounted():
        pytest.skip("this machine has no cgroup2 mounted")
    own = group_of(os.getpid())
    if (own / "cgroup.type").exists():
        pytest.skip(f"this machine runs its processes in control groups of its own: {own}")
    return own


@pytest.fixture
def controllers(root):
    """The controllers that are free for version 2; they may belong to version 1 on this machine."""
    return (root / "cgroup.controllers").read_text().split()


@pytest.fixture
def all_controllers(controllers):
    missing = {"cpu", "memory", "pids"}.difference(controllers)
    if missing:
        pytest.skip(f"cgroup2 has no controllers {', '.join(sorted(missing))} on this machine")


def test_all_that_a_worker_started_ends_with_it_and_the_neighbours_have_no_control_group(root, site, work):
    pool = site.pool("[forking]\nworkers: 1\ntasks_max: 100\n[whoami]\nworkers: 1")
    left = work.ask("forking", {"child": "daemon"})
    own = group_of(left["parent"])
    assert group_of(left["child"]) == own
    assert (own.parent.parent, own.name) == (root, "forking-1.1")
    assert group_of(pool.pid) == group_of(work.ask("whoami")["pid"]) == root
    kill(left["parent"])
    wait_until(lambda: not exists(left["child"]))
    again = work.ask("forking", {"child": "daemon"})
    assert group_of(again["parent"]).name == "forking-1.2"
    wait_until(lambda: not own.exists())
    assert pool.stop() == 0
    assert not exists(again["child"])
    assert not own.parent.exists()
    assert "left behind" not in pool.output()


def test_a_pool_that_was_killed_leaves_nothing_to_the_next_one(root, site, work):
    sections = "[forking]\nworkers: 1\ncpu_weight: 50"
    pool = site.pool(sections)
    left = work.ask("forking", {"child": "daemon"})["child"]
    base = group_of(left).parent
    kill(pool.pid)
    pool.wait()
    wait_until(lambda: len((base / "forking-1.1/cgroup.procs").read_text().split()) == 1)
    assert exists(left)
    pool = site.pool(sections)
    wait_until(lambda: not exists(left))
    assert not base.exists()
    assert pool.stop() == 0


def test_without_a_memory_controller_the_limit_is_one_of_each_process(controllers, site, work):
    if "memory" in controllers:
        pytest.skip("cgroup2 has the memory controller on this machine")
    pool = site.pool("[hungry]\nworkers: 1\nmemory_max: 300M")
    pool.wait_for(
        "option memory_max of hungry is without effect: control groups here have no memory.max; "
        "RLIMIT_DATA limits each of their processes instead"
    )
    work.submit("hungry", {})
    assert work.result().error.startswith("MemoryError")
    assert pool.stop() == 0
    assert "ended:" not in pool.output()


def test_a_worker_out_of_memory_is_a_crash_of_its_workitem_and_the_groups_others_live_on(
    all_controllers, site, work
):
    pool = site.pool("[growing]\nworkers: 2\nmax_crashes: 1\nmemory_max: 64M")
    before = workers(pool)
    work.submit("growing", {"mib": 200})
    cause = "killed by SIGKILL: out of memory, memory_max is 64 MiB"
    assert work.result().error == f"WorkerCrashed: {cause}; 1 crash in all"
    [entry] = work.foreign.collect("taskqueue_failed", 1)[0].headers["x-taskqueue-history"]
    assert (entry["what"], entry["error"]) == ("crashed", cause)
    assert 56 * MEBIBYTE < entry["peak_memory"] <= 64 * MEBIBYTE
    pool.wait_for(f"ended: {cause}; the next one starts")
    wait_until(lambda: len(workers(pool)) == 2)
    assert len(before & workers(pool)) == 1
    assert work.ask("growing", {"mib": 1}) in workers(pool)
    assert pool.stop() == 0


def say(number):
    print(number, flush=True)


def inside(cgroup, run):
    """Return the work of a worker in a control group: it starts a program with its own session, and runs."""

    def work():
        cgroup.enter()
        child = os.fork()
        if child == 0:
            os.setsid()
            signal.pause()
        say(child)
        run()

    return work


def eat():
    kept = []
    while True:
        kept.append(b"x" * MEBIBYTE)


def spin():
    while True:
        pass


def swarm():
    number = 0
    with contextlib.suppress(BlockingIOError):
        while number < 100:
            if os.fork() == 0:
                signal.pause()
            number += 1
    say(number)
    signal.pause()


@pytest.fixture
def cgroups(all_controllers):
    made = Cgroups()
    yield made
    made.close()
    assert not list(group_of(os.getpid()).glob(f"taskqueue.*.{os.getpid()}"))


def test_the_kernel_bounds_a_worker_with_its_programs_and_tells_why_it_killed_them(cgroups, forked):
    most = Boundaries(memory_max=64 * MEBIBYTE, cpu_max=0.25, cpu_weight=50, tasks_max=20, io_weight=200)
    assert list(cgroups.plan({"eager": most, "other": Boundaries()})) == []
    assert cgroups.make("other/1", Boundaries()) is None
    made = [cgroups.make(f"eager/{number}", most) for number in (1, 2, 3)]
    eater, _, swarmer = children = [
        forked(inside(each, run)) for each, run in zip(made, (eat, spin, swarm), strict=True)
    ]
    assert eater.wait(60) == -signal.SIGKILL
    end = made[0].explain(Exit(eater.pid, -signal.SIGKILL, 1))
    assert end.cause == "killed by SIGKILL: out of memory, memory_max is 64 MiB"
    assert 56 * MEBIBYTE < end.peak_memory <= 64 * MEBIBYTE
    wait_until(lambda: not exists(int(eater.output())))
    stat = made[1].path / "cpu.stat"
    wait_until(lambda: "nr_throttled 0" not in stat.read_text(), 30, stat.read_text)
    assert (made[1].path / "cpu.weight").read_text() == "50\n"
    assert (made[1].path / "io.weight").read_text() == "default 200\n"
    wait_until(lambda: len(swarmer.output().split()) == 2, 30)
    assert swarmer.output().split()[1] == "18"
    for each, child in zip(made[1:], children[1:], strict=True):
        assert made[1].explain(Exit(child.pid, -signal.SIGKILL, 1)).cause == "killed by SIGKILL"
        cgroups.end(each)
        assert child.wait() == -signal.SIGKILL
        wait_until(lambda child=child: not exists(int(child.output().split()[0])))
    cgroups.end(made[0])
