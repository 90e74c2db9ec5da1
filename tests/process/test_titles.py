"""The titles that `ps` shows, and a second pool beside the first."""

import os
import shutil
import signal

import pytest
from support.processes import children, command, exists, name
from support.waiting import wait_until

from taskqueue.process import children as processes

BESIDE = "is a worker pool on the same configuration"


def test_ps_tells_the_processes_apart_and_shows_no_address(site, work):
    pool = site.pool("[good]\nworkers: 2\n[whoami]\nworkers: 1")
    dispatcher = site.dispatcher()
    work.ask("good")
    titles = sorted(command(pid) for pid in children(pool.pid))
    assert titles == [
        "taskqueue: consumer of good",
        "taskqueue: consumer of whoami",
        "taskqueue: worker good/1",
        "taskqueue: worker good/2",
        "taskqueue: worker whoami/1",
    ]
    wanted = ["taskqueue: dispatcher 1", "taskqueue: keeper", "taskqueue: scheduler"]
    wait_until(lambda: sorted(command(pid) for pid in children(dispatcher.pid)) == wanted)
    assert f"taskqueue workerpool -f -c {site.config}" in command(pool.pid)
    assert {name(pid) for pid in children(pool.pid)} >= {"tq:good", "tq:good/1"}  # as top shows them


def test_a_title_is_cut_to_the_room_there_is_and_the_environment_stays(forked):
    def rename():
        before = os.environ.copy()
        processes.set_title("a title " * 1000)
        os.write(1, f"{command(os.getpid())}\n{before == os.environ}\n".encode())
        wait_until(lambda: os.getppid() == 1, 60)
        return 0

    process = forked(rename)
    process.wait_for("True")
    title = process.output().splitlines()[0]
    assert ("a title " * 1000).startswith(title)
    assert len(title) > 20


@pytest.mark.parametrize("background", [False, True])
def test_a_second_pool_on_the_same_configuration_is_told_of_the_first(site, background):
    first = site.pool("[good]\nworkers: 1\n[whoami]\nworkers: 1")
    assert BESIDE not in first.output()
    if background:
        log = f"[logging]\ndestination: {site.open}/log\n[good]\nworkers: 1"
        site.configure(log)
        pidfile = site.directory / "pid"
        done = site.run("workerpool", "-c", os.path.relpath(site.config), "-p", str(pidfile))
        pid, said = int(pidfile.read_text()), done.stderr
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not exists(pid))
    else:
        second = site.pool()
        said = second.output()
    assert said.count(f"process {first.pid} {BESIDE}") == 1


def test_a_pool_on_another_configuration_is_told_of_nothing(site):
    site.pool("[good]\nworkers: 1")
    other = site.directory / "other.ini"
    shutil.copy(site.config, other)
    shutil.chown(other, group=site.config.group())
    second = site.start("workerpool", "-f", "-c", str(other))
    second.wait_for("ready:")
    assert BESIDE not in second.output()
