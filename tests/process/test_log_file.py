"""A log file that root's daemons share with the users they become."""

import contextlib
import os
import signal
import subprocess

import pytest
from support.processes import kill
from support.site import AS_ROOT, consumers
from support.waiting import wait_until


@pytest.mark.skipif(not AS_ROOT, reason="only root's consumers are another user")
def test_a_rotated_log_is_written_on_by_consumers_that_cannot_make_a_new_one(site, work):
    directory = site.directory / "log"
    directory.mkdir()
    log, old = directory / "pool.log", directory / "pool.log.1"
    site.configure(f"[logging]\ndestination: {log}\n[flooding]\nworkers: 1")
    pool = site.start("workerpool", "-f", "-c", str(site.config))
    begun = ("ready:", "takes work")  # both, in either order: whoever writes after the rename makes a new log
    wait_until(lambda: log.exists() and all(word in log.read_text() for word in begun), 20, pool.output)
    log.rename(old)
    work.ask("flooding", {"lines": 1})
    wait_until(lambda: "flood 0" in old.read_text())
    assert not log.exists()
    pool.signal(signal.SIGHUP)
    wait_until(lambda: log.exists() and "reloaded" in log.read_text())
    assert log.owner() == "taskqueue"
    work.ask("flooding", {"lines": 2})
    wait_until(lambda: "flood 1" in log.read_text())
    assert pool.stop() == 0


@pytest.fixture
def small_disk(site_directory):
    """A directory, for everybody, whose file system is soon full."""
    directory = site_directory / "log"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=1777", "tmpfs", str(directory)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small file system takes root who may mount")
    yield directory
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


def fill(directory, log):
    """Write until nothing fits any more, into the log neither; return the file that takes the room."""
    ballast = directory / "ballast"
    for path, piece in ((ballast, b"-" * 4096), (log, b"\n")):
        with path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(piece)
    return ballast


def test_a_full_disk_costs_log_lines_and_nothing_else(site, work, small_disk):
    log = small_disk / "pool.log"
    site.configure(f"[logging]\ndestination: {log}\n[good]\nworkers: 1")
    pool = site.start("workerpool", "-f", "-c", str(site.config))
    wait_until(lambda: log.exists() and "ready:" in log.read_text(), 20, pool.output)
    assert work.ask("good", 1)["echo"] == 1
    ballast = fill(small_disk, log)
    for _ in range(2):
        work.wait_until_empty("worker_good")  # what is not acknowledged comes once more
        (consumer,) = consumers(pool)
        kill(consumer)
        wait_until(lambda consumer=consumer: consumers(pool) - {consumer}, 20, pool.output)
        assert work.ask("good", 2)["echo"] == 2
    for number in (3, 4):
        pool.signal(signal.SIGHUP)
        assert work.ask("good", number)["echo"] == number
    ballast.unlink()
    pool.signal(signal.SIGHUP)
    wait_until(lambda: "reloaded" in log.read_text())
    assert " log lines could not be written and are lost " in log.read_text()
    assert pool.stop() == 0


def test_a_log_file_that_cannot_be_opened_keeps_no_consumer_from_starting(site, work):
    directory = site.directory / "log"
    directory.mkdir()
    log = directory / "pool.log"
    site.configure(f"[logging]\ndestination: {log}\n[good]\nworkers: 1")
    pool = site.start("workerpool", "-f", "-c", str(site.config))
    wait_until(lambda: log.exists() and "ready:" in log.read_text(), 20, pool.output)
    directory.rename(site.directory / "away")
    (consumer,) = consumers(pool)
    kill(consumer)
    assert work.ask("good", 1)["echo"] == 1
    pool.signal(signal.SIGHUP)
    moved = site.directory / "away" / "pool.log"
    wait_until(lambda: "logging is unchanged" in moved.read_text())
    assert pool.stop() == 0


@pytest.mark.parametrize("kind", ["a FIFO or a socket", "a directory"])
def test_a_log_file_that_is_none_is_one_line_and_no_hang(site, kind):
    log = site.open / "pool.log"
    log.mkdir() if kind == "a directory" else os.mkfifo(log)
    site.configure(f"[logging]\ndestination: {log}\n[good]\nworkers: 1")
    for name in ("workerpool", "dispatcher", "up"):
        done = site.run(name, *(["-f"] if name != "up" else []), "-c", str(site.config))
        assert done.returncode == 78
        assert done.stderr.count(f"section [logging], option destination: {log}: ") == 1
        assert "Traceback" not in done.stderr
