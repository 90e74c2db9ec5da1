"""Completion as a user of bash sees it: the words that Tab writes on a terminal."""

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.processes import kill

PROGRAMS = Path(sys.executable).parent
PROMPT = b"ready> "


class Terminal:
    """An interactive bash on a terminal of its own, with the completion that the packages install."""

    def __init__(self, script: Path) -> None:
        self.pid, self._master = pty.fork()
        if self.pid == 0:
            path = f"{PROGRAMS}:{os.environ['PATH']}"
            variables = {"PATH": path, "TERM": "dumb", "HOME": str(script.parent), "PS1": PROMPT.decode()}
            os.execve("/bin/bash", ["bash", "--norc", "--noprofile", "-i"], variables)
        self._shown = b""
        self.read_until(PROMPT)
        self.type(f"bind 'set enable-bracketed-paste off'; . {script}\r")
        self.read_until(PROMPT)

    def type(self, keys: str) -> None:
        self._shown = b""
        os.write(self._master, keys.encode())

    def read_until(self, words: bytes, timeout: float = 30) -> None:
        deadline = time.monotonic() + timeout
        while words not in self._shown:
            ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"no {words!r} in {self._shown!r}"
            self._shown += os.read(self._master, 4096)

    def close(self) -> None:
        kill(self.pid)
        os.waitpid(self.pid, 0)
        os.close(self._master)


@pytest.fixture
def terminal(tmp_path):
    """A bash with what debian/rules makes of the command."""
    script = tmp_path / "taskqueue"
    with script.open("wb") as file:
        variables = os.environ | {"_TASKQUEUE_COMPLETE": "bash_source"}
        command = [sys.executable, "-m", "taskqueue"]
        subprocess.run(command, env=variables, stdout=file, check=True)
    made = Terminal(script)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("taskqueue sub", b"taskqueue submit "),
        ("taskqueue submit --del", b"taskqueue submit --delay "),
        ("taskqueue failed li", b"taskqueue failed list "),
        ("taskqueue workerpool --pid", b"taskqueue workerpool --pidfile "),
    ],
)
def test_tab_completes_commands_and_options(terminal, typed, completed):
    terminal.type(f"{typed}\t")
    terminal.read_until(completed)
