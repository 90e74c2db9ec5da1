"""Feeds as real processes: a module of jobs, a feeder, workers, and a journal of what was handled."""

import json
import os
import struct
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.processes import Daemon, cli, run_cli
from support.waiting import wait_until

MODULE = """
import os, struct
_file = None
def note(job):
    global _file
    if _file is None:
        _file = os.open({journal!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(_file, struct.pack("<q", job))
"""

NUMBERS = """
def get_jobs(last=0, number="1000"):
    yield from range(last, int(number))
def handle_job(i):
    note(i)
"""

#: A module whose jobs JSON cannot express; its handler checks that they arrive as they were.
TUPLES = """
def get_jobs():
    yield from [(1, "a"), (2, "b")]
def handle_job(job):
    number, _ = job
    assert type(job) is tuple
    note(number)
"""


class Feed:
    """One module, and the commands that feed it."""

    def __init__(self, directory: Path, url: str, start: Callable[..., Daemon]) -> None:
        self.directory = directory
        self.url = url
        self.file = directory / "jobs.py"
        self.state = directory / "jobs.state"
        self.failed = directory / "jobs.state.failed.jsonl"
        self.journal = directory / "journal"
        self.env = {"TASKQUEUE_AMQP": url}
        self._start = start

    def write(self, code: str = NUMBERS) -> None:
        """Write the module; `note(i)` in it puts a number into the journal."""
        self.file.write_text(MODULE.format(journal=str(self.journal)) + code)

    def arguments(self, *arguments: str) -> list[str]:
        """Return the command line of a feeder."""
        return ["feed", str(self.file), "--state", str(self.state), *arguments]

    def start(self, *arguments: str) -> Daemon:
        """Start a feeder."""
        return self._start(cli(*self.arguments(*arguments)), env=self.env)

    def run(self, *arguments: str, timeout: float = 60, **env: str) -> "subprocess.CompletedProcess[str]":
        """Run a feeder to its end."""
        return run_cli(*self.arguments(*arguments), env=self.env | env, timeout=timeout)

    def work(self, *arguments: str, workers: int = 2, **env: str) -> Daemon:
        """Start workers; return when they take work."""
        command = cli("work", str(self.file), "-n", str(workers), *arguments)
        daemon = self._start(command, env=self.env | env)
        daemon.wait_for("ready:")
        return daemon

    def handled(self) -> Counter[int]:
        """Return how often each job was handled."""
        data = self.journal.read_bytes() if self.journal.exists() else b""
        return Counter(number for (number,) in struct.iter_unpack("<q", data))

    def count(self) -> int:
        """Return how many jobs were handled, those that came twice counted twice."""
        return os.path.getsize(self.journal) // 8 if self.journal.exists() else 0  # noqa: PTH202 -- polled often

    def wait_for(self, number: int, timeout: float = 60) -> None:
        """Wait until so many jobs were handled."""
        wait_until(
            lambda: self.count() >= number, timeout, lambda: f"{number} jobs; {self.count()} were handled"
        )

    def saved(self) -> dict[str, Any]:
        """Return what is in the state file."""
        state: dict[str, Any] = json.loads(self.state.read_text())["state"]
        return state

    def failures(self) -> list[dict[str, Any]]:
        """Return what is recorded as failed."""
        if not self.failed.exists():
            return []
        return [json.loads(line) for line in self.failed.read_text().splitlines()]


@pytest.fixture
def feed(tmp_path: Path, amqp_url: str, daemon: Callable[..., Daemon]) -> Feed:
    """A feed of the numbers from 0, in this test's virtual host."""
    made = Feed(tmp_path, amqp_url, daemon)
    made.write()
    return made
