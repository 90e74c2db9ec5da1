"""The pool lives on and tries again if there is no room for another process."""

import resource
import subprocess

from support.processes import kill
from support.site import AS_ROOT, workers
from support.waiting import wait_until

# Root has no such limit.
AS_NOBODY = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if AS_ROOT else []


def limit_processes(pid, number):
    """Let a process start no child while its user has so many processes; -1 for no limit."""
    subprocess.run([*AS_NOBODY, "prlimit", f"--pid={pid}", f"--nproc={number}:"], check=True)


def test_a_worker_that_cannot_be_started_is_started_once_there_is_room(site, work, daemon):
    site.configure("[good]\nworkers: 2")
    site.config.chmod(0o644)
    command = site.command("workerpool", "-f", "-c", str(site.config))
    pool = daemon([*AS_NOBODY, *command], env={"PYTHONPATH": str(site.plugins)})
    pool.wait_for("ready:")
    wait_until(lambda: len(workers(pool)) == 2)
    limit_processes(pool.pid, 1)
    kill(min(workers(pool)))
    pool.wait_for("cannot be started: Resource temporarily unavailable; trying again in")
    assert len(workers(pool)) == 1
    assert work.ask("good", "still there")["echo"] == "still there"
    limit_processes(pool.pid, resource.getrlimit(resource.RLIMIT_NPROC)[0])
    wait_until(lambda: len(workers(pool)) == 2, 20)
    assert pool.stop() == 0
    pool.assert_nothing_left()


def test_a_consumer_has_as_many_open_files_as_its_workers_take(site, work, daemon):
    site.configure("[good]\nworkers: 30")
    few = ["prlimit", "--nofile=100:1000"]  # of those that a process may have without asking for more
    pool = daemon(
        [*few, *site.command("workerpool", "-f", "-c", str(site.config))],
        env={"PYTHONPATH": str(site.plugins)},
    )
    pool.wait_for("ready:")
    wait_until(lambda: len(workers(pool)) == 30)
    assert work.ask("good")["attempt"] == 1
    assert pool.stop() == 0
    assert "ended:" not in pool.output()
