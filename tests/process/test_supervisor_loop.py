"""Supervisors of real processes; each supervisor runs in a process of its own, as it does in life."""

import logging
import os
import signal
import socket
import sys
from pathlib import Path

import pytest
from support.processes import exists
from support.waiting import wait_until

from taskqueue.errors import ExitStatus
from taskqueue.process import children
from taskqueue.process.daemon import Signals, foreground, notify, notify_through
from taskqueue.process.supervisor_loop import Child, SupervisorLoop


class House(SupervisorLoop):
    def __init__(self, children, stop_timeout):
        super().__init__("house", stop_timeout)
        self.children = children

    def begin(self):
        self.members += [Child(name, run) for name, run in self.children.items()]


@pytest.fixture
def keep(forked):
    """Keep children running in a supervisor of its own: keep(name=function, ...)."""

    def keep(stop_timeout=20.0, **children):
        def run():
            logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s", force=True)
            return House(children, stop_timeout).run(foreground())

        return forked(run)

    return keep


def say(words):
    os.write(1, f"{words}\n".encode())


def serve():
    """Be a well-behaved daemon."""
    say(f"served by {os.getpid()}")
    notify("READY=1")
    with Signals((signal.SIGTERM, signal.SIGHUP)) as signals:
        while True:
            for number in signals.wait():
                if number == signal.SIGTERM:
                    return 0
                say("reloaded")


def wait_for_signals():
    """Be a process that has no idea of signals."""
    children.let_signals_in()
    signal.pause()


def ignore_sigterm():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say(f"served by {os.getpid()}")
    notify("READY=1")
    while True:
        signal.pause()


def servers(supervisor, number=1):
    """Return the processes that ever served, once there were so many."""
    supervisor.wait_for("served by ", number)
    wait_until(lambda: supervisor.output().endswith("\n"))
    return [
        int(line.split()[2]) for line in supervisor.output().splitlines() if line.startswith("served by ")
    ]


def test_a_supervisor_is_ready_when_all_of_its_children_are(keep):
    supervisor = keep(a=serve, b=serve)
    supervisor.wait_for("ready: a runs, b runs")
    assert supervisor.output().count("ready:") == 1


def test_a_supervisor_is_not_ready_while_a_child_is_not(keep):
    supervisor = keep(a=serve, b=lambda: say("b is here") or wait_for_signals())
    supervisor.wait_for("served by")
    supervisor.wait_for("b is here")
    supervisor.signal(signal.SIGTERM)
    supervisor.wait()
    assert "ready" not in supervisor.output()


def test_the_service_manager_is_told_when_all_children_are_ready(keep, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("")
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + manager.getsockname()[1:].decode())
        supervisor = keep(a=serve)
        assert manager.recv(1000) == b"STATUS=a: runs"
        assert manager.recv(1000) == b"READY=1"
        supervisor.signal(signal.SIGTERM)
        # the supervisor's 20 s, 5 for what it kills then, and 5 in hand
        assert manager.recv(1000) == b"STOPPING=1\nEXTEND_TIMEOUT_USEC=30000000"


def test_the_watchdog_is_told_within_half_its_time_and_no_more_by_a_supervisor_that_hangs(keep, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "600000")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("")
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + manager.getsockname()[1:].decode())
        supervisor = keep()
        supervisor.wait_for("ready:")
        manager.settimeout(0.5)
        heard = [manager.recv(1000) for _ in range(6)]
        assert heard.count(b"WATCHDOG=1") >= 4
        supervisor.signal(signal.SIGSTOP)
        with pytest.raises(TimeoutError):
            list(iter(lambda: manager.recv(1000), b""))


def test_a_watchdog_that_waits_for_another_process_is_left_alone(keep, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "100000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("")
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + manager.getsockname()[1:].decode())
        keep()
        assert manager.recv(1000) == b"READY=1"


def test_nobody_else_can_speak_to_a_supervisor(keep):
    """A socket with a name, in the abstract namespace above all, takes what every user sends."""
    supervisor = keep(a=serve)
    supervisor.wait_for("ready:")
    held = {path.readlink().name for path in Path(f"/proc/{supervisor.pid}/fd").iterdir()}
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    ours = [row for row in rows if f"socket:[{row[6]}]" in held]
    assert len(ours) >= 2
    assert [row[7:] for row in ours] == [[]] * len(ours)


def test_a_line_to_the_supervisor_that_is_closed_or_another_file_by_now_gets_nothing(tmp_path, monkeypatch):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        monkeypatch.setenv("TASKQUEUE_NOTIFY", "")
        notify_through(theirs.fileno())
        notify("READY=1")
        assert ours.recv(100) == b"READY=1"
        with (tmp_path / "other").open("wb") as other:
            os.dup2(other.fileno(), theirs.fileno())
            notify("READY=1")
            theirs.close()
            notify("READY=1")
        assert (tmp_path / "other").read_bytes() == b""


def test_sigterm_ends_the_children_and_then_the_supervisor(keep):
    supervisor = keep(a=serve, b=serve)
    pids = servers(supervisor, 2)
    supervisor.wait_for("ready:")
    supervisor.signal(signal.SIGTERM)
    assert supervisor.wait() == ExitStatus.OK
    assert not any(map(exists, pids))
    assert supervisor.output().endswith("stopping: running work has 20 s to finish\nstopped\n")


def test_a_supervisor_without_members_waits_for_its_end(keep):
    supervisor = keep()
    supervisor.wait_for("ready:")
    supervisor.signal(signal.SIGINT)
    assert supervisor.wait() == ExitStatus.OK


def test_a_child_that_is_killed_is_followed_at_once(keep):
    supervisor = keep(a=serve)
    [pid] = servers(supervisor)
    os.kill(pid, signal.SIGKILL)
    supervisor.wait_for(f"a, process {pid}, ended: killed by SIGKILL; the next one starts now")
    _, follower = servers(supervisor, 2)
    assert exists(follower)


@pytest.mark.parametrize("status", [0, 3])
def test_a_child_that_ends_again_and_again_is_followed_ever_later(keep, status):
    supervisor = keep(a=lambda: status)
    supervisor.wait_for(f"ended: exit status {status}; the next one starts now", 1)
    supervisor.wait_for(f"ended: exit status {status}; the next one starts in 0.25 s", 1)
    assert supervisor.output().count("ended") == 2
    supervisor.signal(signal.SIGTERM)
    assert supervisor.wait() == ExitStatus.OK


def test_what_a_child_left_behind_is_killed(keep):
    def leave_somebody():
        if os.fork() == 0:
            signal.alarm(20)  # in no case longer than the test
            say(f"served by {os.getpid()}")
        wait_for_signals()

    supervisor = keep(a=leave_somebody)
    [left] = servers(supervisor)
    os.kill(os.getpgid(left), signal.SIGKILL)
    wait_until(lambda: not exists(left))
    supervisor.signal(signal.SIGTERM)  # the follower leaves somebody behind, too
    assert supervisor.wait() == ExitStatus.OK


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (ExitStatus.REFUSED, "the broker refuses it"),
        (ExitStatus.CONFIG, "the configuration cannot be read"),
        (ExitStatus.PRIVILEGES, "it cannot become its user or be isolated"),
    ],
)
def test_a_child_that_says_why_it_cannot_begin_ends_the_supervisor(keep, status, reason):
    supervisor = keep(a=serve, b=lambda: status)
    assert supervisor.wait() == status
    assert f"ended: {reason} (exit status {status})" in supervisor.output()


def test_once_ready_the_same_end_is_followed_by_another_start(keep):
    def serve_until_reload():
        say(f"served by {os.getpid()}")
        notify("READY=1")
        with Signals((signal.SIGTERM, signal.SIGHUP)) as signals:
            return 0 if signal.SIGTERM in signals.wait() else ExitStatus.REFUSED

    supervisor = keep(a=serve_until_reload)
    supervisor.wait_for("ready:")
    supervisor.signal(signal.SIGHUP)
    supervisor.wait_for("ended: the broker refuses it (exit status 77); the next one starts now")
    servers(supervisor, 2)


def test_sighup_is_passed_on(keep):
    supervisor = keep(a=serve, b=serve)
    supervisor.wait_for("ready:")
    supervisor.signal(signal.SIGHUP)
    supervisor.wait_for("reloaded", 2)


def test_who_does_not_end_in_time_is_killed(keep):
    supervisor = keep(0.1, a=ignore_sigterm, b=serve)
    pids = servers(supervisor, 2)
    supervisor.wait_for("ready:")
    supervisor.signal(signal.SIGTERM)
    assert supervisor.wait() == ExitStatus.OK
    assert not any(map(exists, pids))
    assert "killing 1 processes that did not end in time" in supervisor.output()


def test_a_second_sigterm_ends_everything_at_once(keep):
    supervisor = keep(a=ignore_sigterm)
    [pid] = servers(supervisor)
    supervisor.wait_for("ready:")
    supervisor.signal(signal.SIGTERM)
    supervisor.wait_for("stopping: ")
    assert exists(pid)
    supervisor.signal(signal.SIGTERM)
    assert supervisor.wait() == ExitStatus.OK
    assert not exists(pid)
    assert "stopping at once" in supervisor.output()


def test_the_children_die_with_a_supervisor_that_is_killed(keep):
    supervisor = keep(a=serve, b=ignore_sigterm)
    pids = servers(supervisor, 2)
    supervisor.signal(signal.SIGKILL)
    wait_until(lambda: not any(map(exists, pids)))
