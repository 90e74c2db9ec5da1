"""Monitors whose record is in PostgreSQL: one records, others take over; the server comes and goes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.foreign_events import EVENTS, batch, ended, publish
from support.ground import Ground
from support.postgresql import FAR, NEAR, PASSWORD, PostgreSQL, running_server
from support.processes import Daemon, children, name, run_cli
from support.waiting import wait_until

from taskqueue.errors import RecordUnavailable
from taskqueue.monitor.record import Filter
from taskqueue.monitor.store.reading import Record

RECORDS = "INFO monitor: records"
STANDS_BY = "stands by: another monitor records"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    """A server that may be stopped."""
    with running_server() as server:
        yield server


def start(ground: Ground, url: str, *, number: int = 0, ready: str = RECORDS) -> Daemon:
    """Start a monitor, the directory of which has a number."""
    config = f"[monitor]\ndatabase: {url}\nuser: taskqueue-worker\nlisten: 127.0.0.1:0\n"
    return ground.start_command(
        *("monitor", "-f", "-c", ground.write(config), "--directory", str(ground.directory / f"m{number}")),
        ready=ready,
    )


def recorded(ground: Ground, url: str) -> dict[str, str]:
    """Return the states of the recorded workitems by id, none of which is there twice."""
    with Record(ground.directory, url) as record:
        try:
            found = record.page(Filter(), limit=100_000).workitems
        except RecordUnavailable:
            return {}
    assert len({each.id for each in found}) == len(found)
    return {each.id: each.state for each in found}


def wait_for(ground: Ground, url: str, expected: dict[str, str], timeout: float = 30) -> None:
    wait_until(lambda: recorded(ground, url) == expected, timeout, lambda: len(recorded(ground, url)))
    with Record(ground.directory, url) as record:
        assert record.gaps() == []
        minutes = record.minutes(0, time.time() + 60)
        assert sum(minute.count for minute in minutes) == len(expected)


def kill_all(monitor: Daemon) -> None:
    """Kill a monitor and its processes as the end of its host does."""
    for child in children(monitor.pid):
        os.kill(child, signal.SIGKILL)
    monitor.kill()


class Source:
    """Publishes batches of ends, numbered without gaps."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.expected: dict[str, str] = {}

    def publish(self, batches: int, size: int = 10) -> None:
        bodies = []
        for _ in range(batches):
            first = len(self.expected) + 1
            names = [f"w{number}" for number in range(first, first + size)]
            self.expected |= dict.fromkeys(names, "succeeded")
            bodies.append(batch(first, *map(ended, names)))
        self.ground.foreign.publish_many(bodies, EVENTS)


def test_another_monitor_takes_over_within_10_seconds_of_the_death_of_the_first(
    ground: Ground, server: PostgreSQL
) -> None:
    url, source = server.new_database(), Source(ground)
    first = start(ground, url)
    second = start(ground, url, number=1, ready=STANDS_BY)
    source.publish(100)
    kill_all(first)
    died = time.monotonic()
    source.publish(100)
    second.wait_for(RECORDS)
    assert time.monotonic() - died < 10
    wait_for(ground, url, source.expected)


def test_a_probe_of_a_monitor_that_stands_by_is_ok(ground: Ground, server: PostgreSQL) -> None:
    url = server.new_database()
    start(ground, url)
    start(ground, url, number=1, ready=STANDS_BY)
    done = run_cli("monitor", "--check", "--directory", str(ground.directory / "m1"))
    assert (done.returncode, done.stdout) == (0, f"MONITOR OK: {STANDS_BY}\n")


def test_without_psycopg_the_monitor_does_not_start_and_says_what_to_install(ground: Ground) -> None:
    config = ground.write("[monitor]\ndatabase: postgresql:///record\n")
    program = "import sys; sys.modules['psycopg'] = None; from taskqueue.cli import main; main()"
    command = [sys.executable, "-c", program, "monitor", "-f", "-c", config]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 78
    assert "option database: PostgreSQL needs psycopg; install python3-psycopg" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_recorder_that_is_killed_at_any_moment_misses_and_doubles_nothing(
    ground: Ground, server: PostgreSQL
) -> None:
    url, source = server.new_database(), Source(ground)
    for _ in range(5):
        monitor = start(ground, url)
        source.publish(40)
        kill_all(monitor)
        wait_until(lambda monitor=monitor: not monitor.processes(), what=monitor.processes)
    start(ground, url)
    wait_for(ground, url, source.expected, 60)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_while_the_server_is_restarted_nothing_is_missed_or_doubled(
    ground: Ground, server: PostgreSQL, how: int
) -> None:
    url, source = server.new_database(), Source(ground)
    monitor = start(ground, url)
    source.publish(100)
    server.stop(how)
    source.publish(100)
    monitor.wait_for("events cannot be recorded: record postgresql://")
    server.start()
    source.publish(1)
    wait_for(ground, url, source.expected, 60)
    assert "Traceback" not in monitor.output()


@pytest.fixture
def line() -> Iterator[tuple[int, Callable[[str], None]]]:
    """A host of its own for a server: a process in its network, and what sets the line to it up or down."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("only root makes networks, by iproute2")
    with subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"]
    ) as holder:
        inside = ["nsenter", f"--net=/proc/{holder.pid}/ns/net"]
        own = Path("/proc/self/ns/net").readlink()
        wait_until(lambda: Path(f"/proc/{holder.pid}/ns/net").readlink() != own, what="the network")
        near = f"tqpg{os.getpid()}"

        def run(*words: str) -> None:
            subprocess.run(words, check=True)

        try:
            run(
                *("ip", "link", "add", near, "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
            )
            run("ip", "address", "add", f"{NEAR}/30", "dev", near)
            run("ip", "link", "set", near, "up")
            run(*inside, "ip", "address", "add", f"{FAR}/30", "dev", "eth0")
            run(*inside, "ip", "link", "set", "eth0", "up")
            yield holder.pid, lambda state: run(*inside, "ip", "link", "set", "eth0", state)
        finally:
            holder.kill()  # its network, and with it the line, ends


def test_a_host_that_is_lost_without_a_word_is_noticed_and_another_monitor_goes_on(
    ground: Ground, line: tuple[int, Callable[[str], None]]
) -> None:
    """Packets are dropped: nobody is told that the connection is gone."""
    network, set_line = line
    with running_server(network) as server:
        near, source = server.new_database(), Source(ground)
        far = f"postgresql://postgres@{FAR}:{server.port}/record0"
        first = start(ground, far)
        second = start(ground, near, number=1, ready=STANDS_BY)
        source.publish(100)
        wait_for(ground, near, source.expected)
        set_line("down")
        source.publish(100)
        second.wait_for(RECORDS)
        first.wait_for("events cannot be recorded: record postgresql://")
        wait_for(ground, near, source.expected)
        set_line("up")
        first.wait_for(STANDS_BY)
        source.publish(1)
        wait_for(ground, near, source.expected)


def test_a_server_that_is_away_at_the_start_is_waited_for(ground: Ground, server: PostgreSQL) -> None:
    url = server.new_database()
    server.stop()
    monitor = start(ground, url, ready="events cannot be recorded: record postgresql://")
    monitor.wait_for("declared queue taskqueue_events")
    publish(ground, batch(1, ended("a")))
    server.start()
    wait_for(ground, url, {"a": "succeeded"}, 60)
    assert "Traceback" not in monitor.output()


@pytest.mark.parametrize("wrong", ["password", "database"])
def test_a_wrong_password_or_database_ends_the_monitor_with_one_line(
    ground: Ground, server: PostgreSQL, wrong: str
) -> None:
    role = f"locked_{wrong}"
    server.query(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")
    secret = "notthisone" if wrong == "password" else PASSWORD.replace(" ", "%20")
    place = f"127.0.0.1:{server.port}/{'postgres' if wrong == 'password' else 'absent'}"
    monitor = start(
        ground,
        f"postgresql://{role}:{secret}@{place}",
        ready=f"CRITICAL monitor: record postgresql://{role}@",
    )
    assert monitor.wait() == 77
    lines = [line for line in monitor.output().splitlines() if "CRITICAL" in line]
    assert len(lines) == 1
    assert monitor.output().count("FATAL") == 1
    assert "the broker refuses it" not in monitor.output()
    assert "notthisone" not in monitor.output()
    assert PASSWORD not in monitor.output()


def test_the_password_is_only_in_the_processes_that_need_it(ground: Ground, server: PostgreSQL) -> None:
    server.query("CREATE ROLE writer LOGIN SUPERUSER PASSWORD 'verysecret'")
    server.query("CREATE ROLE viewer LOGIN SUPERUSER PASSWORD 'lesssecret'")
    database = server.new_database().split("/")[3].partition("?")[0]
    place = f"127.0.0.1:{server.port}/{database}"
    url = f"postgresql://writer:verysecret@{place}\ndatabase_reader: postgresql://viewer:lesssecret@{place}"
    monitor = start(ground, url)
    publish(ground, batch(1, ended("a")))
    wait_for(ground, f"postgresql://viewer:lesssecret@{place}", {"a": "succeeded"})
    for process in (monitor.pid, *children(monitor.pid)):
        about = Path(f"/proc/{process}")
        assert b"verysecret" not in (about / "cmdline").read_bytes() + (about / "environ").read_bytes()
        is_recorder = name(process) == "tq:recorder"
        assert (b"verysecret" in memory(process)) == is_recorder, name(process)
    assert "secret" not in monitor.output()


def memory(process: int) -> bytes:
    """Return what a process can read and write."""
    found = bytearray()
    with Path(f"/proc/{process}/mem").open("rb", 0) as file:
        for line in Path(f"/proc/{process}/maps").read_text().splitlines():
            span, rights, *_ = line.split()
            first, end = (int(part, 16) for part in span.split("-"))
            if rights.startswith("rw") and end < 1 << 47:
                file.seek(first)
                found += file.read(end - first)
    return bytes(found)
