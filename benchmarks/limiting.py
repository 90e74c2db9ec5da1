"""The rows of limits: their cost to a limited type and to others, and a rate while processes are killed."""

import os
import signal
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import cycle
from random import Random
from typing import Final

from benchmarks import ours, rows
from benchmarks.findings import Finding, Goal
from benchmarks.ground import wait_until
from benchmarks.meter import Pace, pace, titled
from benchmarks.notes import Notes
from benchmarks.rows import Bench

_FAR: Final = f"[limit far]\nconcurrency: 1000\nrate: 100000 per 1s\n{rows.NOOP}\nlimits: far"
_BESIDE: Final = f"{rows.NOOP}\n[nap]\nworkers: 2\nreport_results: no"
_LIMITED_BESIDE: Final = f"[limit one]\nconcurrency: 1\n{_BESIDE}\nlimits: one"
_NAPS: Final = 1000  # more than two workers begin while anything is measured
_NAP: Final = '{"seconds": 0.5}'

_RATE, _PERIOD = 40, 1.0  # starts, seconds
_SOME: Final = f"[limit some]\nrate: {_RATE} per {_PERIOD:g}s\n[note]\nworkers: 2\nlimits: some\nnotes: "
_VICTIMS: Final = ("gate", "consumer of note", "worker note/")
_KILL_DELAY: Final = 2.0  # seconds between two kills
_GO_ON: Final = 90.0  # seconds until work goes on after one


def limits(bench: Bench) -> Iterator[Finding]:
    """Drain a limited type far below its limit, and a type without a limit beside a limited one."""
    free, limited = bench.rounds(
        partial(_drain, bench, rows.NOOP, pools=2), partial(_drain, bench, _FAR, pools=2)
    )
    rate, detail = rows.median_rate(limited), rows.details(limited=limited, free=free)
    goals = [Goal.at_least_a_second(rate, 2000)]
    measure = "drain, far below a limit"
    yield Finding("limits", measure, "/s", rate, rows.median_rate(free), {}, goals, detail)

    alone, beside = bench.rounds(
        partial(_drain, bench, _BESIDE, naps=_NAPS), partial(_drain, bench, _LIMITED_BESIDE, naps=_NAPS)
    )
    rate, most = rows.median_rate(beside), rows.median_rate(alone)
    goals = [Goal.at_least(rate / most, 0.98, "without any limit")]
    detail = rows.details(beside=beside, alone=alone)
    yield Finding("limits", "drain, beside a limit", "/s", rate, most, {}, goals, detail)


def _drain(bench: Bench, config: str, *, pools: int = 1, naps: int = 0) -> Pace:
    ground, count = bench.ground, 2 * bench.scale.messages
    ground.declare("worker_noop", "worker_nap", rows.RESULTS)
    ground.fill("worker_noop", [ours.BODY % 1], ["noop"], count)
    if naps:
        ground.fill("worker_nap", [_NAP], ["nap"], naps)
    with ours.dispatcher(ground, config), ours.pool(ground, config, number=pools) as pids:
        return pace(lambda: ground.depth(rows.RESULTS), count, pids)


def rates(bench: Bench) -> Iterator[Finding]:
    """Count the starts of a type with a rate, while gates, consumers and workers are killed."""
    ground, seconds = bench.ground, bench.scale.killing
    notes = Notes(ground)
    ground.declare("worker_note", rows.RESULTS)
    ground.fill("worker_note", ["null"], ["note"], int(_RATE * (seconds / _PERIOD + _GO_ON)))
    config = f"{_SOME}{notes.path}"
    with ExitStack() as stack:
        pids = stack.enter_context(ours.dispatcher(ground, config, number=2))
        pids += stack.enter_context(ours.pool(ground, config, number=2))
        kills = _kill(pids, notes, seconds)
    starts = notes.starts
    most = most_within(starts, _PERIOD)
    more = {"starts": len(starts), "kills": kills, "mean": round(len(starts) / (starts[-1] - starts[0]), 1)}
    goals = [Goal.at_most(most, _RATE, "starts")]
    yield Finding("rates", f"starts in a second, {_RATE} allowed", "", most, None, {}, goals, more)


def _kill(pids: Sequence[int], notes: Notes, seconds: float) -> int:
    """Kill a process of each kind in turn; return how many were killed."""
    random, kills = Random(1), 0  # noqa: S311 -- no secret
    end, victims = time.monotonic() + seconds, cycle(_VICTIMS)
    _wait_for_more(notes)
    while time.monotonic() < end:
        os.kill(random.choice(titled(pids, f"taskqueue: {next(victims)}")), signal.SIGKILL)
        kills += 1
        time.sleep(_KILL_DELAY)
        _wait_for_more(notes)
    return kills


def _wait_for_more(notes: Notes) -> None:
    goal = notes.begun + _RATE
    wait_until(lambda: notes.begun >= goal, _GO_ON, "more workitems to begin")


def most_within(times: Sequence[float], period: float) -> int:
    """Return the highest number of sorted times within any time of a length."""
    return max(number - bisect_right(times, at - period) for number, at in enumerate(times, 1))
