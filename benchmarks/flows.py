"""The rows of workflows: chains, a group with its join, many at once, and the memory of the flow process.

Run as `python -m benchmarks.flows NUMBER` this calls a chain that travels in a header.
"""

import contextlib
import json
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks import calling, ours, rows
from benchmarks.canvas import CHAIN, GROUP, Canvases
from benchmarks.findings import Finding, Goal
from benchmarks.ground import Ground, wait_until
from benchmarks.meter import Pace, cpu_time, shared_memory, titled
from benchmarks.rows import Bench
from taskqueue import Client, Workflow, chain
from taskqueue.broker.topology import SHARDS, flow_queue
from taskqueue.workflows.definition import Step

_READY: Final = "keeps workflows of 4 shards of 4"
_TIMEOUT: Final = 300.0  # seconds for the workflows of one measurement
_STEPS: Final = 20  # of each of many workflows
_PIECE: Final = 1000  # small workflows that are started together
_FILLING: Final = 100_000  # small workflows, in whose first half SQLite's cache of 16 MiB gets full
_SAMPLE_DELAY: Final = 0.1  # seconds between two looks at the memory
_LOOK_DELAY: Final = (
    0.1  # seconds between two looks at the database, which tells itself when a workflow ended
)
_WARM_UP: Final = 100  # steps of the workflow that warms everything up


@dataclass(frozen=True, slots=True)
class Kept:
    """Daemons that run workflows: a dispatcher with a flow process, and a pool with two workers."""

    ground: Ground
    path: Path  # of the database
    pids: list[int]

    def run(self, *flows: Workflow) -> Pace:
        """Start workflows at once, and wait for their ends; return their steps a second."""
        steps, used, begun = sum(map(len, flows)), cpu_time(self.pids), time.time()
        before = self.ended
        self.start(flows)
        until = before + len(flows)
        wait_until(lambda: self.ended >= until, _TIMEOUT, f"{len(flows)} workflows", _LOOK_DELAY)
        ((end,),) = self._rows("SELECT max(ended) FROM workflow")
        return Pace(steps / (end - begun), (cpu_time(self.pids) - used) / steps * 1e6)

    def start(self, flows: Sequence[Workflow]) -> None:
        """Send the documents of workflows, spread over the shards."""
        bodies = [json.dumps({"kind": "start", **flow.document()}).encode() for flow in flows]
        for shard in range(SHARDS):
            self.ground.publish(flow_queue(shard).name, bodies[shard::SHARDS])

    @property
    def ended(self) -> int:
        """The number of workflows that have succeeded."""
        ((count,),) = self._rows("SELECT count(*) FROM workflow WHERE state = 1")
        return int(count)

    @property
    def step_bytes(self) -> float:
        """The bytes of the database for each step."""
        ((pages,),), ((size,),) = self._rows("PRAGMA page_count"), self._rows("PRAGMA page_size")
        ((steps,),) = self._rows("SELECT count(*) FROM step")
        return float(pages * size / steps)

    @property
    def memory(self) -> float:
        """The memory of the flow process in MiB."""
        return sum(map(shared_memory, titled(self.pids, "taskqueue: flow")))

    def _rows(self, statement: str) -> list[tuple[int, ...]]:
        with contextlib.closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)) as database:
            return database.execute(statement).fetchall()


@contextlib.contextmanager
def kept(ground: Ground) -> Iterator[Kept]:
    """Have everything run that workflows need, with a new database, after a first workflow."""
    ground.declare("taskqueue", "worker_noop", rows.RESULTS)
    with tempfile.TemporaryDirectory(dir=ground.directory) as directory:
        Path(directory).chmod(0o711)  # the daemon's processes need a way to the database
        path = Path(directory) / "flow" / "flow.db"
        sections = f"[flow]\ndatabase: {path}\n{rows.NOOP}"
        with ours.dispatcher(ground, sections, ready=_READY) as one, ours.pool(ground, sections) as other:
            found = Kept(ground, path, [*one, *other])
            found.run(group_of(_WARM_UP))
            yield found
    for shard in range(SHARDS):
        ground.delete(flow_queue(shard).name)


def chain_of(number: int) -> Workflow:
    """Return a chain of steps that do nothing; each gets the result of the one before."""
    flow = Workflow("chain")
    value: Any = 1
    for _ in range(number):
        value = flow.add("noop", body={"number": value}).result
    return flow


def group_of(number: int) -> Workflow:
    """Return a group of steps that do nothing, and a join that gets their results."""
    flow = Workflow("group")
    steps: list[Step] = [flow.add("noop", body={"number": each}) for each in range(number)]
    flow.add("noop", body={"number": [step.result for step in steps]})
    return flow


# --- the rows ----------------------------------------------------------------------------------


def chains(bench: Bench) -> Iterator[Finding]:
    """Run a chain through the flow process and in a header, beside chains of the peers."""
    count, peers = bench.scale.chain, _peers(bench, CHAIN, bench.scale.chain)
    by_daemon, in_header = bench.rounds(
        partial(_alone, bench, chain_of(count)), partial(_in_header, bench, count), rivals=peers
    )
    what = f"chain of {count:,}"
    for measure, paces in ((what, by_daemon), (f"{what}, in a header", in_header)):
        rate = rows.median_rate(paces)
        detail = rows.details(ours=paces) | {"errors": peers.errors}
        goals = [Goal.at_least_a_second(rate, 400), *_above(peers, rate)]
        yield Finding("chains", measure, "steps/s", rate, None, peers.rates, goals, detail)


def groups(bench: Bench) -> Iterator[Finding]:
    """Run a group with its join, beside groups of the peers, and beside the drain of queued workitems."""
    count, peers = bench.scale.group, _peers(bench, GROUP, bench.scale.group)
    drained, mine = bench.rounds(
        partial(rows.drain_ours, bench, 2 * bench.scale.messages),
        partial(_alone, bench, group_of(count)),
        rivals=peers,
    )
    rate, most = rows.median_rate(mine), rows.median_rate(drained)
    goals = [Goal.at_least(rate / most, 0.5, "the drain"), *_above(peers, rate)]
    detail = rows.details(ours=mine, drain=drained) | {"errors": peers.errors}
    measure = f"group of {count:,} with a join"
    yield Finding("groups", measure, "steps/s", rate, None, peers.rates, goals, detail)


def _above(peers: Canvases, rate: float) -> list[Goal]:
    best = max(peers.rates.values(), default=0.0)
    return [Goal("above every peer", rate / best, rate > best)] if best else []


def workflows(bench: Bench) -> Iterator[Finding]:
    """Run many workflows at once, beside the drain of queued workitems; then measure their database."""
    count, sizes = bench.scale.workflows, []

    def at_once() -> Pace:
        with kept(bench.ground) as found:
            pace = found.run(*(chain_of(_STEPS) for _ in range(count)))
            sizes.append(found.step_bytes)
            return pace

    drained, mine = bench.rounds(partial(rows.drain_ours, bench, 2 * bench.scale.messages), at_once)
    rate, most = rows.median_rate(mine), rows.median_rate(drained)
    goals = [Goal.at_least(rate / most, 0.4, "the drain")]
    detail = rows.details(ours=mine, drain=drained)
    measure = f"{count:,} workflows of {_STEPS} steps"
    yield Finding("workflows", measure, "steps/s", rate, None, {}, goals, detail)
    goals = [Goal.at_most(max(sizes), 1000, "bytes")]
    yield Finding("workflows", "database, a step", "bytes", max(sizes), None, {}, goals)


def keeping(bench: Bench) -> Iterator[Finding]:
    """Sample the memory of the flow process over many small workflows, of which some run at any time."""
    count, samples = bench.scale.small, []
    with kept(bench.ground) as found:
        before = found.ended

        def sampled(until: int) -> bool:
            time.sleep(_SAMPLE_DELAY)
            samples.append(found.memory)
            return found.ended - before >= until

        begun = time.monotonic()
        for started in range(0, count, _PIECE):
            wait_until(partial(sampled, started - _PIECE), _TIMEOUT, "small workflows")
            found.start([chain_of(2)] * min(_PIECE, count - started))
        wait_until(partial(sampled, count), _TIMEOUT, "small workflows")
        rate = count / (time.monotonic() - begun)
    half, some = len(samples) // 2, samples[:: len(samples) // 20 or 1]
    goals = [Goal.at_most(max(samples), 64, "MiB")]
    if count >= _FILLING:
        growth = max(samples[half:]) / max(samples[:half])
        goals.append(Goal("no growth in the second half (≤ 10 %)", growth, growth <= 1.1))
    more = {"samples": [round(each, 1) for each in some], "workflows a second": round(rate)}
    measure = f"flow process, {count:,} small workflows"
    yield Finding("keeping", measure, "MiB", max(samples), None, {}, goals, more)


def _alone(bench: Bench, flow: Workflow) -> Pace:
    with kept(bench.ground) as found:
        return found.run(flow)


def _in_header(bench: Bench, count: int) -> Pace:
    with calling.served(bench.ground):
        return Pace(bench.ground.module("benchmarks.flows", count).result(_TIMEOUT)["rate"], 0)


def _peers(bench: Bench, kind: str, count: int) -> Canvases:
    return Canvases(bench.ground, kind, count, bench.race.is_wanted)


# --- the caller of a chain ---------------------------------------------------------------------


def _call(number: int) -> float:
    """Call a small chain, then one of so many steps; return its steps a second."""
    with Client(os.environ["AMQP_URL"]) as client:
        for steps in (10, number):
            begun = time.perf_counter()
            if client.call(chain(("add", 0, 1), *[("add", 1)] * (steps - 1)), timeout=_TIMEOUT) != steps:
                sys.exit("a wrong result")
    return number / (time.perf_counter() - begun)


if __name__ == "__main__":
    print(json.dumps({"rate": _call(int(sys.argv[1]))}), flush=True)
