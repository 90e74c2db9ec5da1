"""A virtual host with a client and the daemons that several tests may share."""

import itertools
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest
from support.foreign import Foreign
from support.node import Node
from support.processes import Daemon, children


class Ground:
    """Starts taskqueue's daemons against one virtual host; all of them end with it."""

    def __init__(self, url: str, directory: Path, python: Path, environment: Mapping[str, str]) -> None:
        """Start nothing yet.

        directory: every user must be able to enter it
        python: the interpreter that runs taskqueue's commands
        environment: variables for every daemon
        """
        self.url = url
        self.directory = directory
        self.foreign = Foreign(url)
        self.python = python
        self.environment = {**environment, "TASKQUEUE_AMQP": url}
        self.open = directory / "open"  # where everybody may write
        self.open.mkdir()
        self.open.chmod(0o1777)
        self._started: list[Daemon] = []
        self._numbers = itertools.count()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._started:
            each.clean_up()
        self.foreign.close()

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of a taskqueue command."""
        return [str(self.python), "-P", "-m", "taskqueue", *arguments]

    def write(self, config: str) -> str:
        """Write a configuration; return its path."""
        path = self.directory / f"{next(self._numbers)}.ini"
        path.write_text(config)
        return str(path)

    def start(
        self, command: str, config: str = "", *, url: str | None = None, ready: str = "ready:"
    ) -> Daemon:
        """Start `taskqueue COMMAND` in the foreground with a configuration; wait until its log says `ready`.

        url: another way to the broker than the ground's own; "" for none
        """
        foreground = [] if command == "up" else ["-f"]
        return self.start_command(command, *foreground, "-c", self.write(config), url=url, ready=ready)

    def start_command(self, *arguments: str, url: str | None = None, ready: str = "ready:") -> Daemon:
        """Start a taskqueue command with any arguments; see `start`."""
        running = Daemon(
            self.command(*arguments),
            self.directory,
            env={**self.environment, "TASKQUEUE_AMQP": self.url if url is None else url},
        )
        self._started.append(running)
        running.wait_for(ready)
        return running

    def work(self, target: Path, *arguments: str, url: str | None = None) -> Daemon:
        """Start `taskqueue work` on a file; wait until it works."""
        path = self.directory / target.name
        shutil.copyfile(target, path)
        return self.work_anew(path, *arguments, url=url)

    def work_anew(
        self, path: Path, *arguments: str, url: str | None = None, ready: str = "takes work"
    ) -> Daemon:
        """Start `taskqueue work` on a file that is here already; wait until its log says `ready`."""
        running = Daemon(
            self.command("work", str(path), *arguments),
            self.directory,
            env=self.environment | ({} if url is None else {"TASKQUEUE_AMQP": url}),
        )
        self._started.append(running)
        running.wait_for(ready)
        return running


@pytest.fixture(scope="session")
def readable() -> Iterator[Path]:
    """A directory that the users whom the daemons become can enter."""
    path = Path(tempfile.mkdtemp(prefix="tq-", dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@contextmanager
def ground_on(
    broker: Node, directory: Path, python: Path, environment: Mapping[str, str]
) -> Iterator[Ground]:
    """Make a ground with a virtual host of its own, in a new directory under `directory`."""
    name = f"ground-{secrets.token_hex(4)}"
    broker.start()
    broker.add_vhost(name)
    with Ground(broker.url_of(name), open_directory(directory / name), python, environment) as ground:
        yield ground
    broker.start()
    broker.delete_vhost(name)


def open_directory(path: Path) -> Path:
    """Make a directory that every user can enter, and return it."""
    path.mkdir()
    path.chmod(0o755)
    return path


def peak_memory(daemon: Daemon) -> int:
    """Return the most memory, in bytes, that any child of a daemon's first process ever had in use."""
    return max(peak_of(pid) for pid in children(daemon.pid))


def peak_of(pid: int) -> int:
    """Return the most memory, in bytes, that a process ever had in use."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
