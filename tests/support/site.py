"""A place where a test runs taskqueue's daemons with the plugins of the zoo, whoever runs the tests.

Daemons that root starts give up root: their files must be readable for the users `taskqueue` and
`taskqueue-worker`, so they run from a copy of the project (scripts/stage.py) and from a directory that
everybody can enter.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from stage import stage
from support.node import Node
from support.processes import Daemon, children
from support.waiting import wait_until

ZOO = Path(__file__).parents[1] / "zoo"
AS_ROOT = os.geteuid() == 0

# Where no worker has a directory of its own (option private_tmp).
ROOM = "/srv" if AS_ROOT else "/var/tmp"


class Note(NamedTuple):
    """A line of the zoo's journal."""

    workitem: str
    attempt: int
    pid: int
    word: str  # begin or end


class Site:
    """A directory with a configuration, plugins and a journal, and the daemons that use them."""

    def __init__(self, python: Path, directory: Path, url: str, start: Callable[..., Daemon]) -> None:
        self.python = python
        self.directory = directory
        self.url = url
        self.config = directory / "config.ini"
        self.plugins = directory / "plugins"
        self.open = directory / "open"  # where workers may write
        self.open.mkdir()
        self.open.chmod(0o1777)
        self.journal = self.open / "journal"
        self._start = start
        install_zoo(self.plugins)

    # --- what there is ---

    def configure(
        self,
        sections: str,
        *,
        url: str | None = None,
        heartbeat: int = 20,
        stop_timeout: float = 20,
        default: str = "",
        amqp: str = "",
    ) -> None:
        """Write the configuration: `sections`, and no workers for whoever has no section.

        url: another address of the broker; "" for none
        default: more lines of the section [DEFAULT]
        amqp: more lines of the section [amqp]
        """
        address = self.url if url is None else url
        amqp_section = f"[amqp]\nurl: {address}\nheartbeat: {heartbeat}\n{amqp}\n" if address else ""
        written = self.config.with_suffix(".new")  # a daemon may be reading the old one
        written.write_text(
            f"{amqp_section}[workerpool]\nstop_timeout: {stop_timeout}\n"
            f"[dispatcher]\nstop_timeout: {stop_timeout}\n"
            # Results must outlive a virtual machine's clock that is set forward by days after its start.
            f"[DEFAULT]\nworkers: 0\njournal: {self.journal}\nresults_expire: 0\n{default}\n{sections}\n"
        )
        written.chmod(0o640)
        if AS_ROOT:
            shutil.chown(written, group="taskqueue")
        written.rename(self.config)

    def gate(self, name: str = "gate") -> Path:
        """Return a file that does not exist yet."""
        return self.open / name

    # --- what runs ---

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of a taskqueue command."""
        return [str(self.python), "-P", "-m", "taskqueue", *arguments]

    def start(self, *arguments: str, **env: str) -> Daemon:
        """Start a command that keeps running."""
        return self.launch(self.command(*arguments), **env)

    def launch(self, words: Iterable[str], **env: str) -> Daemon:
        """Start a command line that keeps running."""
        return self._start(words, env={"PYTHONPATH": str(self.plugins)} | env)

    def run(
        self, *arguments: str, prefix: Iterable[str] = (), **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; `prefix` is put before the command line."""
        return subprocess.run(
            [*prefix, *self.command(*arguments)],
            env={**os.environ, "PYTHONPATH": str(self.plugins)} | env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def pool(self, sections: str | None = None, ready: str = "ready:", **settings: Any) -> Daemon:
        """Start the worker pool, with a new configuration if `sections` are given; wait until it works."""
        return self._daemon("workerpool", sections, ready, settings)

    def dispatcher(self, sections: str | None = None, ready: str = "takes work", **settings: Any) -> Daemon:
        """Start the dispatcher daemon and wait until it works."""
        return self._daemon("dispatcher", sections, ready, settings)

    def _daemon(self, name: str, sections: str | None, ready: str, settings: dict[str, Any]) -> Daemon:
        if sections is not None:
            self.configure(sections, **settings)
        daemon = self.start(name, "-f", "-c", str(self.config))
        daemon.wait_for(ready)
        return daemon

    # --- what was done ---

    def notes(self, workitem: str | None = None) -> list[Note]:
        """Return the journal, of one workitem if one is named."""
        if not self.journal.exists():
            return []
        lines = [line.split() for line in self.journal.read_text().splitlines()]
        notes = [Note(id_, int(attempt), int(pid), word) for id_, attempt, pid, word in lines]
        return [note for note in notes if workitem in (None, note.workitem)]

    def ends(self) -> int:
        """Return how many runs have ended."""
        return self.journal.read_bytes().count(b" end\n") if self.journal.exists() else 0

    def wait_for_ends(self, number: int, timeout: float = 60, what: object = "more runs") -> None:
        """Wait until so many runs have ended."""
        wait_until(lambda: self.ends() >= number, timeout, what)

    def wait_for_run(self, workitem: str, times: int = 1, timeout: float = 20) -> Note:
        """Wait until a workitem has been begun as often as `times`; return the last beginning."""

        def begun() -> list[Note]:
            found = [note for note in self.notes(workitem) if note.word == "begin"]
            return found if len(found) >= times else []

        return wait_until(begun, timeout, f"run {times} of {workitem}")[-1]


def install_zoo(directory: Path) -> None:
    """Put the zoo into a directory as an installer would."""
    directory.mkdir()
    for module in ZOO.glob("*.py"):
        shutil.copy(module, directory)
    project = tomllib.loads((ZOO / "pyproject.toml").read_text())["project"]
    install(directory, project["name"], project["entry-points"]["worker.plugins"])


def install(directory: Path, name: str, plugins: dict[str, str]) -> None:
    """Make a distribution known that has these plugins; its modules lie in `directory`."""
    # Under another name first: who looks meanwhile shall not find half of it.
    info = directory / f"{name}.new"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    entries = "".join(f"{plugin} = {target}\n" for plugin, target in plugins.items())
    (info / "entry_points.txt").write_text(f"[worker.plugins]\n{entries}")
    info.rename(directory / f"{name}-1.0.dist-info")


def workers(pool: Daemon | int) -> set[int]:
    """Return the workers of a pool: those whose output leads to their consumer."""
    return {pid for pid in children(_pid(pool)) if _output(pid).startswith("pipe:")}


def consumers(pool: Daemon | int) -> set[int]:
    """Return the consumers of a pool."""
    return {pid for pid in children(_pid(pool)) if not _output(pid).startswith("pipe:") and _output(pid)}


def consumer_of(broker: Node, group: str, among: Collection[int]) -> int:
    """Return the consumer of a group, by the name of its connection."""
    clients = broker.evaluate(
        'lists:flatten(io_lib:format("~p", [[rabbit_reader:info(Reader, [client_properties])'
        " || Reader <- rabbit_networking:local_connections()]]))"
    )
    pids = map(int, re.findall(rf"taskqueue {group} consumes [^:]*:([0-9]+)", clients))
    return next(pid for pid in pids if pid in among)


def _pid(pool: Daemon | int) -> int:
    return pool if isinstance(pool, int) else pool.pid


def _output(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/fd/1").readlink())
    except OSError:  # gone meanwhile
        return ""


@pytest.fixture(scope="session")
def python() -> Iterator[Path]:
    """A Python with taskqueue that every user of the machine can run."""
    if not AS_ROOT:
        yield Path(sys.executable)
        return
    directory = Path(tempfile.mkdtemp(prefix="tq-stage-", dir=ROOM))
    yield stage(directory)
    shutil.rmtree(directory)


@pytest.fixture
def site_directory() -> Iterator[Path]:
    """A directory that every user of the machine can enter; removed when the daemons are gone."""
    directory = Path(tempfile.mkdtemp(prefix="tq-site-", dir=ROOM))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def site(python: Path, amqp_url: str, site_directory: Path, daemon: Callable[..., Daemon]) -> Site:
    """A place for daemons, with the plugins of the zoo and this test's virtual host."""
    return Site(python, site_directory, amqp_url, daemon)
