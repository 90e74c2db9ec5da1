"""The rows about calls: a task that is called with the client, one call at a time and many at once.

Run as `python -m benchmarks.calling ROLE NUMBER` this is the caller, in a process of its own.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from statistics import median
from typing import Final

from benchmarks import bare, ours
from benchmarks.findings import Finding, Goal
from benchmarks.ground import Ground, Process
from benchmarks.racing import Rivals
from benchmarks.rows import Bench, passers
from taskqueue import AsyncClient, Client

OUTSTANDING: Final = 10_000


def trip(bench: Bench) -> Iterator[Finding]:
    """A call of `add` with Client, one at a time, through dispatcher and worker and back."""
    ground, limits, mine = bench.ground, [], []
    rivals = Rivals(bench.race, bench.race.best("p50"))
    for _ in range(bench.scale.rounds):
        ground.declare("taskqueue", "worker_noop")
        with ground.running(passers(ground, "reply", 1)):
            asked = "taskqueue", ours.BODY % 1, "noop", bench.scale.calls
            limits.append(ground.module("benchmarks.bare", "call", *asked).result(120))
        with served(ground):
            mine.append(_caller(ground, "trip", bench.scale.calls).result(120))
        rivals.run()
    for which, name in (("p50", "median"), ("p99", "99 %")):
        yield _trip(name, rivals.of(which), *([one[which] for one in found] for found in (mine, limits)))


def _trip(name: str, peers: dict[str, float], mine: list[float], limits: list[float]) -> Finding:
    taken, limit = median(mine), median(limits)
    goals = [Goal("≤ 1.3 x bare", taken / limit, taken <= 1.3 * limit)]
    if peers:
        goals.append(Goal.below(taken, limit, peers.values()))
    rounds = {"limit": [round(one, 3) for one in limits], "ours": [round(one, 3) for one in mine]}
    return Finding("trip", f"round trip, {name}", "ms", taken, limit, peers, goals, rounds)


def calls(bench: Bench) -> Iterator[Finding]:
    """Ten thousand calls of `add` at once, with AsyncClient."""
    rates = []
    for _ in range(bench.scale.rounds):
        with served(bench.ground):
            rates.append(_caller(bench.ground, "many", OUTSTANDING).result(120))
    rate = median(one["rate"] for one in rates)
    growth = max(one["growth"] for one in rates)
    goals = [
        Goal.at_least_a_second(rate, 3000),
        Goal("no growth after the first ten thousand (≤ 10 %)", growth, growth <= 1.1),
    ]
    yield Finding("calls", "10,000 calls out", "/s", rate, goals=goals, more={"rounds": rates})


@contextlib.contextmanager
def served(ground: Ground) -> Iterator[None]:
    """Have a dispatcher run, and two workers that perform `add`."""
    node = ground.module("taskqueue.node", "-n", 2)
    with ours.dispatcher(ground), ground.running([node.wait_for("takes work")]):
        yield


def _caller(ground: Ground, role: str, number: int) -> Process:
    return ground.module("benchmarks.calling", role, number)


# --- the caller --------------------------------------------------------------------------------


def _one_by_one(number: int) -> dict[str, float]:
    times = []
    with Client(os.environ["AMQP_URL"]) as client:
        for _ in range(number + number // 10):
            begun = time.perf_counter()
            client.add(5, 6)
            times.append(time.perf_counter() - begun)
    return bare.percentiles(times[number // 10 :])  # the first ones warm up


def _at_once(number: int) -> dict[str, float]:
    """Make so many calls three times; return the median rate, and how memory grew after the first time."""
    rates, sizes = [], []
    with AsyncClient(os.environ["AMQP_URL"]) as client:
        for _ in range(3):
            begun = time.perf_counter()
            made = [client.add(each, 1) for each in range(number)]
            if [call.result(120) for call in made] != list(range(1, number + 1)):
                sys.exit("wrong results")
            rates.append(number / (time.perf_counter() - begun))
            del made
            sizes.append(_resident())
    return {"rate": median(rates), "growth": sizes[-1] / sizes[0]}


def _resident() -> int:
    """Return this process's resident pages (proc(5), statm)."""
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 -- as short as it gets
        return int(file.read().split()[1])


if __name__ == "__main__":
    found = {"trip": _one_by_one, "many": _at_once}[sys.argv[1]](int(sys.argv[2]))
    print(json.dumps(found), flush=True)
