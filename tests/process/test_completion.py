"""Completion as a user of bash, zsh or fish sees it: the words that Tab writes on a terminal."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.processes import kill

PROGRAMS = Path(sys.executable).parent
PROMPT = b"ready> "
SCRIPT = Path(__file__).parents[2] / "scripts/completion.sh"  # debian/rules calls it
#: Of each shell: how it is started without settings, the script's name, and what loads it and sets the
#: prompt, which is not in the command as it is echoed.
SHELLS = {
    "bash": (
        ["--norc", "--noprofile", "-i"],
        "taskqueue",
        "bind 'set enable-bracketed-paste off'; . ~/taskqueue; PS1=rea'dy> '",
    ),
    "zsh": (
        ["-f", "-i"],
        "_taskqueue",
        "fpath=(~ $fpath); autoload -Uz compinit; compinit -u -D; PS1=rea'dy> '",
    ),
    "fish": (
        ["--no-config", "-i"],
        "taskqueue.fish",
        "source ~/taskqueue.fish; function fish_prompt; echo -n rea'dy> '; end",
    ),
}


class Terminal:
    """An interactive shell on a terminal of its own, with the completion that the packages install."""

    def __init__(self, program: str, options: list[str], home: Path, load: str) -> None:
        self.pid, self._master = pty.fork()
        if self.pid == 0:
            path = f"{PROGRAMS}:{os.environ['PATH']}"
            variables = {"PATH": path, "TERM": "dumb", "HOME": str(home)}
            os.execve(program, [program, *options], variables)
        self._shown = b""
        self.type(f"{load}\r")
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


@pytest.fixture(params=SHELLS)
def terminal(tmp_path, request):
    """A shell with what debian/rules makes of the command."""
    options, name, load = SHELLS[request.param]
    program = shutil.which(request.param)
    if program is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{request.param} is not installed")
    with (tmp_path / name).open("wb") as file:
        subprocess.run(["sh", SCRIPT, request.param, sys.executable], stdout=file, check=True)
    made = Terminal(program, options, tmp_path, load)
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
    terminal.type("\x15")  # the line is erased
    terminal.type(f"{typed}\t")  # for zsh, a function that is loaded already
    terminal.read_until(completed)
