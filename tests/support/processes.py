"""Running taskqueue's commands as real processes, and looking at what they leave behind."""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from support.waiting import wait_until

# Every descendant that keeps its environment, or only a path in it, can be found by the value.
MARKER = "TASKQUEUE_TEST_ID"

LISTENING = "0A"  # the kernel's TCP_LISTEN, as /proc/net/tcp shows it


def cli(*arguments: str) -> list[str]:
    """Return the command line of a taskqueue command."""
    return [sys.executable, "-m", "taskqueue", *arguments]


def run_cli(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    input: str | None = None,  # noqa: A002 -- subprocess's word for it
    timeout: float = 60,
) -> subprocess.CompletedProcess[str]:
    """Run a taskqueue command to its end and return its status and output.

    env: variables beside those of the tests.
    """
    return subprocess.run(
        cli(*arguments),
        env={**os.environ, **(env or {})},
        input=input,
        stdin=subprocess.DEVNULL if input is None else None,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


class Daemon:
    """A command that keeps running; its output goes to a file.

    It dies with the tests. Its descendants are known by the marker in their environment, wherever they
    went.
    """

    def __init__(
        self, command: Iterable[str], directory: Path, *, env: Mapping[str, str] | None = None
    ) -> None:
        """Start `command`, with its output and its state in a new directory under `directory`."""
        self.id = f"tq-{secrets.token_hex(8)}"
        self.directory = directory / self.id
        self.directory.mkdir(parents=True)
        self.log = self.directory / "output"
        variables = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            "XDG_STATE_HOME": str(self.directory),
            **(env or {}),
            MARKER: self.id,
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def status(self) -> int | None:
        """The exit status, negative for a signal; None while the command runs."""
        return self.process.poll()

    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, text: str, timeout: float = 20, times: int = 1) -> None:
        """Wait until the output holds `text` as often as `times`; fail early if the command ends."""

        def found() -> bool:
            ended = self.status is not None  # before looking, so that its last line is not missed
            if self.output().count(text) >= times:
                return True
            assert not ended, f"ended with {self.status} without {text!r}:\n{self.output()}"
            return False

        wait_until(found, timeout, lambda: f"{text!r} in:\n{self.output()}")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """Kill the command's first process with SIGKILL; the others must notice."""
        self.process.kill()
        self.process.wait()

    def stop(self, timeout: float = 30) -> int:
        """Send SIGTERM and return the exit status."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def wait(self, timeout: float = 30) -> int:
        """Return the exit status; fail after `timeout` seconds."""
        wait_until(lambda: self.status is not None, timeout, lambda: f"the end of:\n{self.output()}")
        return self.process.returncode

    def processes(self) -> dict[int, str]:
        """Return what runs with the marker: process ids and command lines."""
        return marked(self.id)

    def assert_nothing_left(self, timeout: float = 10) -> None:
        """Fail if anything with the marker still runs after `timeout` seconds."""
        wait_until(lambda: not self.processes(), timeout, lambda: f"the end of {self.processes()}")

    def clean_up(self) -> None:
        """Kill whatever is left."""

        def kill_all() -> bool:
            left = self.processes()
            for pid in left:
                kill(pid)
            return not left

        self.kill()
        wait_until(kill_all, what=lambda: f"the death of {self.processes()}")


def kill(pid: int) -> None:
    """Kill a process with SIGKILL; it may be gone already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def marked(marker: str) -> dict[int, str]:
    """Return the processes whose environment holds `marker` anywhere: process ids and command lines."""
    return {pid: command(pid) for pid in pids() if marker.encode() in _read(pid, "environ")}


def pids() -> list[int]:
    """Return every process id of the machine."""
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def command(pid: int) -> str:
    """Return a process's command line, "" if it is gone or a zombie."""
    return _read(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace").strip()


def name(pid: int) -> str:
    """Return a process's name as the kernel has it, "" if it is gone."""
    return _read(pid, "comm").decode(errors="replace").strip()


def environment(pid: int) -> str:
    """Return a process's environment, "" if it is gone or another user's."""
    return _read(pid, "environ").decode(errors="replace")


def exists(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    stat = _read(pid, "stat")
    return bool(stat) and stat.rpartition(b") ")[2][:1] != b"Z"


def children(pid: int) -> list[int]:
    """Return the direct children of a process, zombies not included."""
    return [child for child in pids() if exists(child) and _parent(child) == pid]


def dispatchers(pid: int) -> list[int]:
    """Return the dispatchers among the children of their daemon, which also has others."""
    return [child for child in children(pid) if command(child).startswith("taskqueue: dispatcher ")]


def tree(pid: int) -> list[int]:
    """Return a process and all its descendants, zombies not included."""
    return [pid] + [below for child in children(pid) for below in tree(child)]


def listeners(processes: Iterable[int]) -> set[tuple[str, int]]:
    """Return the (hexadecimal address, port) pairs on which any of the processes listens for TCP."""
    sockets = {link for pid in processes for link in _links(pid)}
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            (
                _,
                local,
                _,
                state,
                *_,
            ) = line.split()
            if state == LISTENING and f"socket:[{line.split()[9]}]" in sockets:
                address, _, port = local.partition(":")
                found.add((address, int(port, 16)))
    return found


def _parent(pid: int) -> int | None:
    fields = _read(pid, "stat").rpartition(b") ")[2].split()
    return int(fields[1]) if fields else None


def _links(pid: int) -> list[str]:
    links = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            links.append(str(descriptor.readlink()))
    return links


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # gone meanwhile, or another user's
        return b""
