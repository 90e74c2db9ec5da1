"""The row of lanes: drain where workitems wait in lanes, and where they wait in the type's queue."""

from collections.abc import Iterator

from benchmarks import ours, rows
from benchmarks.findings import Finding, Goal
from benchmarks.meter import Pace, pace
from benchmarks.rows import Bench
from taskqueue.messages import names

_LANES = [f"worker_noop:{number}" for number in range(16)]
_BUSY = _LANES[:8]  # those of priority 0


def lanes(bench: Bench) -> Iterator[Finding]:
    """Drain workitems of many tenants from the lanes of priority 0, and from the one queue of the type."""
    count = 2 * bench.scale.messages
    alone, spread, crowded = bench.rounds(
        lambda: _drain(bench, ["worker_noop"], count, rows.NOOP),
        lambda: _drain(bench, _BUSY, count, f"{rows.NOOP}\nlanes: {len(_LANES)}"),
        lambda: _drain(bench, _BUSY[:1], count, f"{rows.NOOP}\nlanes: {len(_LANES)}"),
    )
    most = rows.median_rate(alone)
    for what, paces in (("16 lanes", spread), ("one of 16 lanes", crowded)):
        rate = rows.median_rate(paces)
        goals = [Goal.at_least(rate / most, 0.85, "without lanes")]
        detail = rows.details(lanes=paces, alone=alone)
        yield Finding("lanes", f"drain, {what}", "/s", rate, most, {}, goals, detail)


def _drain(bench: Bench, queues: list[str], count: int, config: str) -> Pace:
    ground = bench.ground
    ground.declare("worker_noop", *(_LANES if "lanes" in config else ()), rows.RESULTS)
    for number, queue in enumerate(queues):
        headers = {names.TENANT: f"tenant {number}"}
        ground.fill(queue, [ours.BODY % 1], ["noop"], count // len(queues), headers)
    with ours.pool(ground, config) as pids:
        found = pace(lambda: ground.depth(rows.RESULTS), count // len(queues) * len(queues), pids)
    ground.clear()  # a pool without lanes would consume them, too
    return found
