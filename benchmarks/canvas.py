"""The workflows of peers: chains and groups with Redis for results, as their documentation has them."""

import textwrap
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from benchmarks.ground import BenchmarkFailed, Ground
from benchmarks.peers import REDIS_RESULTS, Peer, celery, dramatiq
from benchmarks.racing import Course

CHAIN, GROUP = "chain", "group"
#: Run in a peer's directory: `client.py KIND COUNT` runs a small one, then one of COUNT tasks.
_CLIENT: Final = """
import json, os, sys, time
sys.path.insert(0, os.getcwd())
exec(open("submit.py").read())
run, count = {"chain": run_chain, "group": run_group}[sys.argv[1]], int(sys.argv[2])
run(10)
begun = time.perf_counter()
run(count)
print(json.dumps({"rate": count / (time.perf_counter() - begun)}), flush=True)
os._exit(0)
"""
_TIMEOUT: Final = 240.0  # seconds for each run


@dataclass(frozen=True, slots=True)
class Canvas:
    """A peer, the names of its chain and its group, and the most tasks that they have here."""

    peer: Peer
    chain: str
    group: str
    most: dict[str, int]


_CELERY: Final = """
from celery import chain, chord
from mod import t
def run_chain(count):
    assert chain(t.s(0), *[t.s()] * (count - 1)).apply_async().get(timeout=240) == 0
def run_group(count):
    assert len(chord((t.s(i) for i in range(count)), t.s()).apply_async().get(timeout=240)) == count
"""
_DRAMATIQ: Final = """
from dramatiq import group, pipeline
from mod import t
def run_chain(count):
    made = pipeline([t.message(0), *[t.message() for _ in range(count - 1)]]).run()
    assert made.get_result(block=True, timeout=240_000) == 0
def run_group(count):
    made = group([t.message(i) for i in range(count)]).run()
    assert len(list(made.get_results(block=True, timeout=240_000))) == count
"""

CANVASES: Final = (
    Canvas(
        celery("Celery", "REDIS", 100, "peer_celery_d", textwrap.dedent(_CELERY)),
        "Celery's chain", "Celery's chord", {CHAIN: 1000, GROUP: 10_000},
    ),
    Canvas(
        dramatiq(
            "Dramatiq", "peer_dramatiq_d", textwrap.dedent(_DRAMATIQ),
            more=REDIS_RESULTS, options=", store_results=True",
        ),
        "Dramatiq's pipeline", "Dramatiq's group",
        {CHAIN: 300, GROUP: 10_000},  # the messages of a pipeline nest: Python's JSON fails with 1,000
    ),
)  # fmt: skip


@dataclass(slots=True)
class Canvases:
    """The peers' runs of one kind of workflow; they take part in a row's rounds."""

    ground: Ground
    kind: str
    tasks: int
    is_wanted: bool  # whether anything is measured
    _rates: dict[str, list[float]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    def run(self) -> None:
        """Measure each peer once more."""
        for canvas in CANVASES if self.is_wanted else ():
            count = min(self.tasks, canvas.most[self.kind])
            what = canvas.chain if self.kind == CHAIN else canvas.group
            name = f"{what} of {count:,}"
            try:
                self._rates.setdefault(name, []).append(self._measure(canvas.peer, count))
            except BenchmarkFailed as error:
                self.errors[name] = str(error)

    def _measure(self, peer: Peer, count: int) -> float:
        course = Course(self.ground, peer, _CLIENT)
        with self.ground.running([course.python(*peer.worker)]):
            found = course.python("client.py", self.kind, str(count)).result(_TIMEOUT)
        return float(found["rate"])

    @property
    def rates(self) -> dict[str, float]:
        """The median rate of each, in tasks a second."""
        return {name: median(found) for name, found in self._rates.items() if found}
