"""The daemons in the background: detached, with a pid file, found and stopped by it."""

import os
import signal
from pathlib import Path

import pytest
from support.processes import children, environment, exists, tree
from support.waiting import wait_until

LEADS = "scheduler: leads 0 schedules, keeper: stands by"


@pytest.fixture
def background(site):
    """Start a daemon in the background: background(name); it is stopped after the test."""
    pids = []

    def start(name):
        pidfile, log = site.directory / f"{name}.pid", site.open / f"{name}.log"
        site.configure(f"[good]\nworkers: 1\n[logging]\ndestination: {log}")
        done = site.run(name, "-c", str(site.config), "-p", str(pidfile))
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        pids.append(int(pidfile.read_text()))
        return pids[-1], pidfile, log

    yield start
    family = [each for pid in filter(exists, pids) for each in tree(pid)]
    for pid in filter(exists, pids):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(map(exists, family)))  # they write into a directory that is removed next


@pytest.mark.parametrize("name", ["workerpool", "dispatcher"])
def test_it_starts_refuses_a_second_one_and_ends_on_sigterm(site, background, name):
    pid, pidfile, log = background(name)
    assert exists(pid)
    assert os.getsid(pid) != os.getsid(0)
    files = [str(Path(f"/proc/{pid}/{file}").readlink()) for file in ("cwd", "fd/0", "fd/1", "fd/2")]
    assert files == ["/", "/dev/null", "/dev/null", "/dev/null"]
    assert "ready: " in log.read_text()  # the command returned only then

    second = site.run(name, "-c", str(site.config), "-p", str(pidfile))
    assert second.returncode == 73
    assert f"already running: process {pid} holds {pidfile}" in second.stderr
    assert len(second.stderr.splitlines()) == 1
    assert int(pidfile.read_text()) == pid

    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not exists(pid))
    assert not pidfile.exists()
    assert not pidfile.with_suffix(".status").exists()
    assert log.read_text().rstrip().endswith("stopped")
    assert "password" not in environment(pid)


def test_a_pid_file_left_by_a_killed_daemon_is_not_in_the_way(site, background):
    pid, pidfile, _ = background("dispatcher")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not exists(pid))
    assert pidfile.exists()
    again, _, _ = background("dispatcher")
    assert again != pid
    os.kill(again, signal.SIGTERM)
    wait_until(lambda: not pidfile.exists())


@pytest.mark.parametrize(
    ("name", "status", "queue"),
    [
        ("workerpool", "good: takes work", "worker_good"),
        ("dispatcher", f"dispatcher 1: takes work, {LEADS}", "taskqueue"),
    ],
)
def test_what_a_daemon_does_stands_beside_its_pid_file(background, work, broker, name, status, queue):  # noqa: PLR0917
    pid, pidfile, _ = background(name)
    told = pidfile.with_suffix(".status")
    wait_until(lambda: told.read_text() == f"{status}\n", what=told.read_text)
    processes = children(pid)
    for process in processes:  # so that what it has to do is still there when the alarm comes
        os.kill(process, signal.SIGSTOP)
    work.foreign.publish_many(map(str, range(2000)), queue, type="good")
    broker.set_alarm(on=True)
    for process in processes:
        os.kill(process, signal.SIGCONT)
    try:
        halted = status.replace("takes work", "takes nothing new: the broker has an alarm")
        # The broker tells of the alarm who publishes; some publish their state alone, every few seconds.
        wait_until(lambda: told.read_text() == f"{halted}\n", 40, told.read_text)
    finally:
        broker.set_alarm(on=False)
    wait_until(lambda: told.read_text() == f"{status}\n", what=told.read_text)


def test_a_pool_in_the_background_works(background, work):
    background("workerpool")
    assert work.ask("good", "far away")["echo"] == "far away"


def test_a_faulty_configuration_is_told_to_who_starts_it(site):
    site.configure("[good]\nworkers: many many")
    done = site.run("workerpool", "-c", str(site.config), "-p", str(site.directory / "pid"))
    assert done.returncode == 78
    assert "section [good], option workers: expected" in done.stderr
    assert not (site.directory / "pid").exists()


def test_a_refused_password_is_told_to_who_starts_it(site):
    logging = f"[logging]\ndestination: {site.open}/log"
    site.configure(f"[good]\nworkers: 1\n{logging}", url=wrong_password(site.url))
    pidfile = site.directory / "pid"
    done = site.run("workerpool", "-c", str(site.config), "-p", str(pidfile))
    assert done.returncode == 77
    [reason] = done.stderr.splitlines()
    assert reason.startswith("cannot start: the broker at 127.0.0.1:")
    assert reason.endswith("wrong name or password")


@pytest.mark.parametrize("name", ["workerpool", "dispatcher"])
def test_a_start_that_failed_has_ended_when_that_is_told(site, name):
    site.configure("[good]\nworkers: 1", url=wrong_password(site.url))
    pidfile = site.directory / "pid"
    done = site.run(name, "-c", str(site.config), "-p", str(pidfile))
    assert done.returncode == 77
    assert not pidfile.exists()


def wrong_password(url):
    user, _, rest = url.partition(":")[2].partition(":")
    return f"amqp:{user}:wrong@{rest.partition('@')[2]}"
