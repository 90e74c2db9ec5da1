"""Runs the peers: once each for all rows, and those that a row is compared with again in its rounds."""

import os
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.ground import BenchmarkFailed, Ground, Process
from benchmarks.meter import pace, tree, unique_memory
from benchmarks.peers import CLIENT, PEERS, PROCESSES, Peer

_CALLS: Final = 300
_LESS_IS_BETTER: Final = ("p50", "p99", "memory")


@dataclass(frozen=True, slots=True)
class PeerFigures:
    """Return the figure of one peer; None where it cannot do that, or failed."""

    submit: float | None = None  # a second
    drain: float | None = None
    p50: float | None = None  # milliseconds
    p99: float | None = None
    memory: float | None = None  # MiB of each worker process that nobody else has
    error: str = ""


class Course:
    """A directory with the files of a peer, and Python in it."""

    def __init__(self, ground: Ground, peer: Peer, client: str) -> None:
        """Write the files; `client` is the text of client.py."""
        self._ground = ground
        self._directory = Path(tempfile.mkdtemp(dir=ground.directory, prefix="peer-"))
        self.done = self._directory / "done"
        for name, text in (
            ("mod.py", peer.module),
            ("submit.py", peer.submit),
            ("client.py", client),
            ("done", ""),
        ):
            (self._directory / name).write_text(text)

    def python(self, *arguments: str) -> Process:
        """Start Python there."""
        env = {"DONE": str(self.done), "PYTHONPATH": str(self._directory)}
        return self._ground.start([sys.executable, *arguments], directory=self._directory, env=env)


def race(ground: Ground, peer: Peer, tasks: int) -> PeerFigures:
    """Measure one peer with so many tasks; an error becomes part of the figures."""
    try:
        return _race(ground, peer, min(tasks, peer.most))
    except BenchmarkFailed as error:
        return PeerFigures(error=str(error))


def _race(ground: Ground, peer: Peer, tasks: int) -> PeerFigures:
    course = Course(ground, peer, CLIENT)
    python, done = course.python, course.done
    submitted = python("client.py", "submit", str(tasks)).result(300)
    called: dict[str, float] = {}
    with ground.running([python(*peer.worker)]) as pids:
        drained = pace(lambda: os.stat(done).st_size, tasks, pids)  # noqa: PTH116 -- the quickest look
        memory = sorted(unique_memory(pid) for pid in tree(pids))[-PROCESSES:]
        if peer.can_call:
            called = python("client.py", "call", str(_CALLS)).result(120)
    return PeerFigures(
        submitted["rate"], drained.rate, called.get("p50"), called.get("p99"), sum(memory) / PROCESSES
    )


class Race:
    """The figures of all peers; each is measured once, when they are first asked for."""

    def __init__(self, ground: Ground, tasks: int, wanted: bool) -> None:  # noqa: FBT001
        """Prepare; nothing is measured where peers are not wanted."""
        self._ground, self._tasks = ground, tasks
        #: Whether peers are measured.
        self.is_wanted = wanted
        self._peers = {peer.name: peer for peer in PEERS if wanted}
        self._figures: dict[str, PeerFigures] | None = None

    def figures(self) -> dict[str, PeerFigures]:
        """Return the figures by peer."""
        if self._figures is None:
            self._figures = {name: self.again(name) for name in self._peers}
        return self._figures

    def again(self, name: str) -> PeerFigures:
        """Measure one peer."""
        return race(self._ground, self._peers[name], self._tasks)

    def known(self) -> dict[str, PeerFigures]:
        """Return the figures that have been measured."""
        return self._figures or {}

    def of(self, what: str) -> dict[str, float]:
        """Return one figure of each peer that has it."""
        found = {name: getattr(figures, what) for name, figures in self.figures().items()}
        return {name: figure for name, figure in found.items() if figure is not None}

    def best(self, what: str) -> list[str]:
        """Return the name of the peer with the best figure; none where no peers are measured."""
        found = self.of(what)
        better = min if what in _LESS_IS_BETTER else max
        return [better(found, key=lambda name: found[name])] if found else []


class Rivals:
    """The peers that a row is compared with; they take part in its rounds: the machine changes meanwhile."""

    def __init__(self, race: Race, names: Iterable[str]) -> None:
        """Prepare; only what the race knows can be measured."""
        self._race = race
        self._found: dict[str, list[PeerFigures]] = {name: [] for name in names if name in race.figures()}

    def run(self) -> None:
        """Measure each once more."""
        for name, found in self._found.items():
            found.append(self._race.again(name))

    def of(self, what: str) -> dict[str, float]:
        """Return one figure of each peer: a rival's from this row's rounds, another's from the race."""
        figures = self._race.of(what)
        for name, found in self._found.items():
            taken = [figure for each in found if (figure := getattr(each, what)) is not None]
            if taken:
                figures[name] = median(taken)
        return figures
