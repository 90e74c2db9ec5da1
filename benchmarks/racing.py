"""Runs the peers, once each; every row takes its figures from there."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.ground import BenchmarkFailed, Ground, Process
from benchmarks.meter import pace, tree, unique_memory
from benchmarks.peers import CLIENT, PEERS, PROCESSES, Peer

_CALLS = 300


@dataclass(frozen=True, slots=True)
class PeerFigures:
    """What one peer reaches; None where it cannot do that, or failed."""

    submit: float | None = None  # a second
    drain: float | None = None
    p50: float | None = None  # milliseconds
    p99: float | None = None
    memory: float | None = None  # MiB of each worker process that nobody else has
    error: str = ""


def race(ground: Ground, peer: Peer, tasks: int) -> PeerFigures:
    """Measure one peer with so many tasks; an error becomes part of the figures."""
    directory = ground.directory / peer.name.replace(" ", "_").replace(",", "")
    directory.mkdir()
    for name, text in (
        ("mod.py", peer.module),
        ("submit.py", peer.submit),
        ("client.py", CLIENT),
        ("done", ""),
    ):
        (directory / name).write_text(text)
    try:
        return _race(ground, peer, min(tasks, peer.most), directory)
    except BenchmarkFailed as error:
        return PeerFigures(error=str(error))


def _race(ground: Ground, peer: Peer, tasks: int, directory: Path) -> PeerFigures:
    env, done = {"DONE": str(directory / "done"), "PYTHONPATH": str(directory)}, directory / "done"

    def python(*arguments: str) -> Process:
        return ground.start([sys.executable, *arguments], directory=directory, env=env)

    submitted = python("client.py", "submit", str(tasks)).result(300)
    worker = [argument.replace("$REDIS_URL", ground.env["REDIS_URL"]) for argument in peer.worker]
    called: dict[str, float] = {}
    with ground.running([python(*worker)]) as pids:
        drained = pace(lambda: os.stat(done).st_size, tasks, pids)  # noqa: PTH116 -- the quickest look
        memory = sorted(unique_memory(pid) for pid in tree(pids))[-PROCESSES:]
        if peer.can_call:
            called = python("client.py", "call", str(_CALLS)).result(120)
    return PeerFigures(
        submitted["rate"], drained.rate, called.get("p50"), called.get("p99"), sum(memory) / PROCESSES
    )


class Race:
    """The figures of all peers, measured when they are first asked for."""

    def __init__(self, ground: Ground, tasks: int, wanted: bool) -> None:  # noqa: FBT001
        """Prepare; nothing is measured where peers are not wanted."""
        self._ground, self._tasks = ground, tasks
        self._peers = PEERS if wanted else ()
        self._figures: dict[str, PeerFigures] | None = None

    def figures(self) -> dict[str, PeerFigures]:
        """Return the figures by peer."""
        if self._figures is None:
            self._figures = {peer.name: race(self._ground, peer, self._tasks) for peer in self._peers}
        return self._figures

    def known(self) -> dict[str, PeerFigures]:
        """Return the figures that have been measured."""
        return self._figures or {}

    def of(self, what: str) -> dict[str, float]:
        """Return one figure of each peer that has it."""
        found = {name: getattr(figures, what) for name, figures in self.figures().items()}
        return {name: figure for name, figure in found.items() if figure is not None}
