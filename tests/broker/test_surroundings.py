"""Every command does its work, or says in a line why not, whoever starts it (support/launch.py)."""

import json
import os
import secrets
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from support import launch
from support.ground import Ground
from support.launch import MIXTURES, SURROUNDINGS
from support.processes import Daemon, exists, tree
from support.site import AS_ROOT
from support.waiting import wait_until

CONFIG = """
[workerpool]
stop_timeout: 20
[DEFAULT]
workers: 0
[echo]
workers: 1
[evaluate]
workers: 1
max_crashes: 1
timeout: 0.3
"""
JOBS = """
import os
def get_jobs():
    yield from range(20)
def handle_job(i):
    with open({journal!r}, "a") as file:
        file.write(f"{{i}}\\n")
"""
LOST = {"stdout full": "No space left on device", "stdout a broken pipe": "Broken pipe"}
TAKES_ROOT = {"a user without a name", "an unreadable directory"}
SLEEP, DIE = b"__import__('time').sleep(60)", b"__import__('os').kill(__import__('os').getpid(), 9)"
ODD = {"name": "caf\u00e9 \u20ac \udce9"}

Names = tuple[str, ...]


def among(surroundings: Iterable[Names]) -> pytest.MarkDecorator:
    """Run a test in each of these."""
    root = pytest.mark.skipif(not AS_ROOT, reason="takes root")
    return pytest.mark.parametrize(
        "surroundings",
        [
            pytest.param(names, marks=root if TAKES_ROOT.intersection(names) else (), id=", ".join(names))
            for names in surroundings
        ],
    )


everywhere = among((name,) for name in SURROUNDINGS)
mixed = among(MIXTURES)


@pytest.fixture(scope="module")
def served(shared: Ground) -> Iterator[Ground]:
    """The ground of the module, with daemons that somebody in good order has started."""
    daemons = shared.start("dispatcher"), shared.start("workerpool", CONFIG)
    yield shared
    for each in daemons:
        each.clean_up()


@pytest.fixture(scope="module")
def alone(new_ground: Callable[[], AbstractContextManager[Ground]]) -> Iterator[Ground]:
    """A ground where only what a test starts is at work."""
    with new_ground() as ground:
        ground.foreign.declare("taskqueue")
        yield ground


@pytest.fixture
def started() -> Iterator[list[Daemon]]:
    """The processes that a test has started; they are ended after it."""
    daemons: list[Daemon] = []
    yield daemons
    for each in daemons:
        each.clean_up()


def command(ground: Ground, surroundings: Names, *arguments: str) -> list[str]:
    """Return the command line of a taskqueue command in these surroundings."""
    return [str(ground.python), launch.__file__, *surroundings, "--", *ground.command(*arguments)]


def run(ground: Ground, surroundings: Names, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        command(ground, surroundings, *arguments),
        env={**os.environ, **ground.environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


def begin(ground: Ground, surroundings: Names, *arguments: str) -> Daemon:
    """Start a command that keeps running."""
    return Daemon(command(ground, surroundings, *arguments), ground.directory, env=ground.environment)


def is_lost(stream: str, surroundings: Names) -> bool:
    """Tell whether nobody sees what is written to stream "1", stdout, or "2", stderr."""
    word = {"1": "stdout", "2": "stderr"}[stream]
    return any(word in name or ("closed" in name and stream in name) for name in surroundings)


def assert_told(done: subprocess.CompletedProcess[str], surroundings: Names, status: int, line: str) -> None:
    """Fail unless a command ended with this status and said this line, and no other."""
    told = [] if is_lost("2", surroundings) else [line]
    assert (done.returncode, done.stderr.splitlines(), done.stdout) == (status, told, "")


# --- commands that end ---


def check(ground: Ground, surroundings: Names, shown: str, *arguments: str) -> str:
    """Fail unless a command shows what it should, or says that it cannot; return what it showed."""
    done = run(ground, surroundings, *arguments)
    for name in LOST.keys() & set(surroundings):
        assert_told(done, surroundings, 74, f"taskqueue: standard output: {LOST[name]}")
        return ""
    assert done.returncode == 0, done.stderr
    assert "taskqueue: " not in done.stderr
    assert "Traceback" not in done.stderr
    if is_lost("1", surroundings):
        assert done.stdout == ""
        return ""
    assert shown in done.stdout
    return done.stdout


@everywhere
def test_a_configuration_is_shown_or_it_is_told_why_not(served: Ground, surroundings: Names) -> None:
    check(served, surroundings, "Groups", "config", "-c", served.write(CONFIG))


@everywhere
def test_a_result_is_shown_with_all_its_characters(served: Ground, surroundings: Names) -> None:
    arguments = ("submit", "echo", json.dumps(ODD), "--wait", "--timeout", "20")
    shown = check(served, surroundings, "\\udce9", *arguments)
    assert not shown or json.loads(shown) == ODD


@mixed
@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (("plugins",), "samples 1.0"),
        (("submit", "thing", "1"), ""),
        (("failed", "list"), "No failed message is kept."),
        (("rejected", "purge", "--yes"), "purged 0"),
        (("failed", "--help"), "Usage: "),
    ],
    ids=["plugins", "submit", "failed", "rejected", "help"],
)
def test_other_commands_show_what_they_should_or_say_why_not(
    served: Ground, surroundings: Names, arguments: tuple[str, ...], shown: str
) -> None:
    check(served, surroundings, shown, *arguments)


@everywhere
def test_a_fault_is_one_line_and_its_status(served: Ground, surroundings: Names) -> None:
    done = run(served, surroundings, "submit", "echo", "1", "--amqp", "amqp://a:b@127.0.0.1:1/")
    told = "taskqueue: the broker at 127.0.0.1:1 cannot be reached: Connection refused"
    assert_told(done, surroundings, 69, told)


@mixed
def test_a_wrong_command_line_has_its_status(served: Ground, surroundings: Names) -> None:
    done = run(served, surroundings, "submit", "echo", "1", "--timeout", "1")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["master", "spawn"])
@mixed
def test_the_commands_of_taskmaster_begin_and_end_so_too(
    served: Ground, surroundings: Names, name: str
) -> None:
    entry = f"import sys; from taskqueue.cli.taskmaster import {name}; sys.argv[0] = 'tm-{name}'; {name}()"
    words = command(served, surroundings)
    words[words.index("-m") :] = ["-c", entry, "--help"]
    done = subprocess.run(
        words, env={**os.environ, **served.environment}, capture_output=True, text=True, check=False
    )
    for lost in LOST.keys() & set(surroundings):
        assert_told(done, surroundings, 74, f"taskqueue: standard output: {LOST[lost]}")
        return
    assert (done.returncode, done.stderr) == (0, "")
    assert is_lost("1", surroundings) or f"Usage: tm-{name} " in done.stdout


def test_a_body_from_a_closed_stdin_is_refused(served: Ground) -> None:
    done = run(served, ("0 closed",), "submit", "echo")
    assert done.returncode == 2
    assert "BODY cannot be read from standard input: Bad file descriptor." in done.stderr


@pytest.mark.parametrize("name", ["config", "feed", "dispatcher"])
def test_a_relative_path_in_a_removed_directory_is_one_line(served: Ground, name: str) -> None:
    arguments = {
        "config": ["-c", "relative.ini"],
        "feed": ["jobs.py"],
        "dispatcher": ["-p", "pid", "-c", served.write(f"[logging]\ndestination: {served.open}/log\n")],
    }
    done = run(served, ("a removed directory",), name, *arguments[name])
    gone = "taskqueue: the current directory is gone: change to one that exists"
    assert_told(done, (), 74, gone)


# --- daemons ---


@mixed
@pytest.mark.parametrize("names", [("dispatcher", "workerpool"), ("up",)])
def test_daemons_work_and_keep_limits_and_know_of_crashes(
    alone: Ground, started: list[Daemon], surroundings: Names, names: Names
) -> None:
    for name in names:
        stay = [] if name == "up" else ["-f"]
        started.append(begin(alone, surroundings, name, *stay, "-c", alone.write(CONFIG)))
    results = [submit(alone, body) for body in (b"6 * 7", SLEEP, DIE)]
    assert results[0] == 42
    assert [result["error"]["type"] for result in results[1:]] == ["TaskTimeout", "WorkerCrashed"]
    for each in started:
        assert_streams_are_in_order(each)
        assert each.stop() == 0, each.output()
        assert "Traceback" not in each.output()
        each.assert_nothing_left()


def submit(ground: Ground, body: bytes) -> Any:
    """Return the result; daemons at nice 19 get a processor only while other tests leave one."""
    ground.foreign.publish(body, type="evaluate", content_type="text/plain")
    return json.loads(ground.foreign.get("results", timeout=80).body)


def assert_streams_are_in_order(daemon: Daemon) -> None:
    """Fail unless each process has files that are no secret ones as its standard streams."""
    for pid in tree(daemon.pid):
        links = [Path(f"/proc/{pid}/fd/{number}").readlink() for number in range(3)]
        assert not [link for link in links if "memfd" in str(link) or "socket" in str(link)], links


@mixed
def test_a_daemon_goes_to_the_background(alone: Ground, surroundings: Names) -> None:
    name = secrets.token_hex(4)
    pidfile, log = alone.open / f"{name}.pid", alone.open / f"{name}.log"
    config = alone.write(f"{CONFIG}[logging]\ndestination: {log}\n")
    done = run(alone, surroundings, "dispatcher", "-c", config, "-p", str(pidfile))
    assert (done.returncode, done.stderr) == (0, "")
    pid = int(pidfile.read_text())
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not exists(pid))
    assert "Traceback" not in log.read_text()


# --- a broker of one's own ---


@among(
    [
        ("signals blocked", "SIGCHLD ignored", "SIGTERM and SIGALRM ignored"),
        ("a removed directory", "0, 1 and 2 closed"),
        ("a thousand million open files", "nice 19", "1 closed"),
    ]
)
def test_a_private_broker_works(alone: Ground, started: list[Daemon], surroundings: Names) -> None:
    env = {**alone.environment, "TASKQUEUE_AMQP": ""}
    words = command(alone, surroundings, "up", "-c", alone.write(CONFIG))
    started.append(Daemon(words, alone.directory, env=env))
    address = started[0].directory / "taskqueue/broker/address"
    wait_until(address.exists, 60, started[0].output)
    arguments = ("submit", "evaluate", "6 * 7", "--wait", "--timeout", "30", "--amqp", address.read_text())
    assert run(alone, (), *arguments).stdout == "42\n"
    assert started[0].stop() == 0
    started[0].assert_nothing_left()


@pytest.mark.skipif(not AS_ROOT, reason="takes root")
def test_without_a_home_it_is_told_what_lacks_a_place(alone: Ground) -> None:
    env = {**os.environ, "TASKQUEUE_AMQP": ""}
    place = "expected XDG_STATE_HOME or HOME, found neither, and user id 54321 has no home"
    for arguments, told in (
        (["up"], f"taskqueue: no place for a private broker: {place}\n"),
        (["submit", "echo", "1"], "taskqueue: no broker: expected --amqp, TASKQUEUE_AMQP, or "),
        (["control", "key"], "taskqueue: no place for a control key: expected a configuration file, "),
    ):
        words = command(alone, ("a user without a name",), *arguments)
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 78
        assert done.stderr.startswith(told)
        assert len(done.stderr.splitlines()) == 1


# --- feeds ---


@pytest.fixture
def jobs(alone: Ground) -> Path:
    """A module of twenty jobs, which note their numbers in a file `handled` beside it."""
    for path in alone.open.glob("jobs*"):
        path.unlink()
    file = alone.open / "jobs.py"
    file.write_text(JOBS.format(journal=str(alone.open / "jobs.handled")))
    return file


def assert_handled(jobs: Path) -> None:
    assert sorted(map(int, jobs.with_suffix(".handled").read_text().split())) == list(range(20))


@mixed
def test_a_feed_and_its_workers_do_their_jobs(
    alone: Ground, started: list[Daemon], jobs: Path, surroundings: Names
) -> None:
    started.append(begin(alone, surroundings, "work", str(jobs), "-n", "1"))
    done = run(alone, surroundings, "feed", str(jobs), "--state", str(jobs.with_suffix(".state")))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert_handled(jobs)
    assert started[0].stop() == 0
    assert "Traceback" not in started[0].output()


@mixed
def test_a_run_does_its_jobs(alone: Ground, jobs: Path, surroundings: Names) -> None:
    done = run(alone, surroundings, "run", str(jobs), "1", "--state", str(jobs.with_suffix(".state")))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert_handled(jobs)


@pytest.mark.parametrize("name", ["feed", "run"])
def test_a_full_progress_file_is_told_once_and_the_feed_goes_on(
    alone: Ground, started: list[Daemon], jobs: Path, name: str
) -> None:
    if name == "feed":
        started.append(begin(alone, (), "work", str(jobs), "-n", "1"))
    arguments = [str(jobs), *(["1"] if name == "run" else []), "--state", str(jobs.with_suffix(".state"))]
    done = run(alone, (), name, *arguments, "--progress-file", "/dev/full")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("progress file /dev/full: No space left on device; the feed continues") == 1
    assert_handled(jobs)
