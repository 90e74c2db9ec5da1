"""The rows of the table: what each measures, and what it is to reach."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final, Protocol

from benchmarks import ours
from benchmarks.findings import Finding, Goal
from benchmarks.ground import Ground, Process
from benchmarks.meter import Pace, pace
from benchmarks.racing import Race, Rivals

NOOP: Final = "[noop]\nworkers: 2"
RESULTS: Final = "results"


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    rounds: int = 5  # of limit, ours and the best peer in turn; the median counts
    messages: int = 30_000
    tasks: int = 10_000  # of each peer
    calls: int = 2_000
    backlog: int = 1_000_000
    jobs: int = 20_000_000  # of a feed
    recorded: int = 1_000_000  # workitems
    ticks: int = 1_000  # of schedules
    chain: int = 1_000  # steps
    group: int = 10_000
    workflows: int = 1_000  # at once
    small: int = 100_000  # workflows
    killing: float = 600.0  # seconds in which processes are killed
    seconds: float = 2.0  # of work for each number of workers


QUICK: Final = Scale(
    rounds=1,
    messages=15_000,
    tasks=4_000,
    calls=800,
    backlog=100_000,
    jobs=5_000_000,
    recorded=100_000,
    ticks=300,
    chain=300,
    group=3_000,
    workflows=200,
    small=20_000,
    killing=20.0,
    seconds=1.0,
)


class Runs(Protocol):
    """Peers that take part in the rounds of a row."""

    def run(self) -> None:
        """Measure each once more."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What a row measures with."""

    ground: Ground
    scale: Scale
    race: Race

    def rounds(self, *measures: Callable[[], Pace], rivals: Runs | None = None) -> list[list[Pace]]:
        """Make measurements in turn, round by round, so that a change of the machine meets all of them."""
        taken = []
        for _ in range(self.scale.rounds):
            taken.append([measure() for measure in measures])
            if rivals is not None:
                rivals.run()
        return [list(column) for column in zip(*taken, strict=True)]


def median_rate(paces: Sequence[Pace]) -> float:
    return median(each.rate for each in paces)


def details(**paces: Sequence[Pace]) -> dict[str, Any]:
    rates = {f"{name}_rates": [round(each.rate) for each in column] for name, column in paces.items()}
    cpus = {f"{name}_cpu": round(median(each.cpu for each in column), 1) for name, column in paces.items()}
    return rates | cpus


# --- the rows ----------------------------------------------------------------------------------


def submit(bench: Bench) -> Iterator[Finding]:
    """One process submits, persistent and confirmed."""
    ground, count = bench.ground, bench.scale.messages

    def by_pika() -> Pace:
        ground.declare("taskqueue")
        found = ground.submit_bare("taskqueue", [ours.BODY % 1], ["noop"], count)
        return Pace(found["rate"], found["cpu"] * 1e6)

    def by_us() -> Pace:
        ground.declare("taskqueue")
        found = ours.submitter(ground, "noop", count).result(300)
        return Pace(found["rate"], found["cpu"] * 1e6)

    rivals = Rivals(bench.race, ("Dramatiq", "Huey"))
    limit, mine = bench.rounds(by_pika, by_us, rivals=rivals)
    peers, rate, most = rivals.of("submit"), median_rate(mine), median_rate(limit)
    goals = [Goal.at_least(rate / most, 0.85, "the limit")]
    for name, least, what in (("Dramatiq", 7, "Dramatiq"), ("Huey", 1, "Huey, unconfirmed")):
        if peers:
            goals.append(Goal.at_least(rate / peers[name], least, what, most / peers[name]))
    detail = details(ours=mine, limit=limit)
    yield Finding("submit", "submit, confirmed", "/s", rate, most, peers, goals, detail)


def relay(bench: Bench) -> Iterator[Finding]:
    """One dispatcher relays from taskqueue to the queue of a worker type."""
    for what, body, types, least in (
        ("relay, native JSON", ours.native("noop"), [], 0.85),
        ("relay, type property", ours.BODY % 1, ["noop"], 0.95),
    ):
        limit, mine = bench.rounds(
            lambda: _relay_bare(bench, "worker_noop", ours.BODY % 1, ["noop"]),
            lambda body=body, types=types: relay_ours(bench, body, types),  # type: ignore[misc]
        )
        ratio = median_rate(mine) / median_rate(limit)
        goals = [Goal.at_least(ratio, least, "the limit")]
        detail = details(ours=mine, limit=limit)
        yield Finding("relay", what, "/s", median_rate(mine), median_rate(limit), {}, goals, detail)


def _relay_bare(bench: Bench, target: str, body: str, types: Sequence[str]) -> Pace:
    _fill_taskqueue(bench, body, types)
    started = bench.ground.module("benchmarks.bare", "pass", "taskqueue", target)
    with bench.ground.running([started]) as pids:
        return _pace_relay(bench, types, pids)


def relay_ours(bench: Bench, body: str, types: Sequence[str]) -> Pace:
    _fill_taskqueue(bench, body, types)
    with ours.dispatcher(bench.ground) as pids:
        return _pace_relay(bench, types, pids)


def _fill_taskqueue(bench: Bench, body: str, types: Sequence[str]) -> None:
    bench.ground.declare("taskqueue", *(f"worker_{name}" for name in types or ["noop"]))
    bench.ground.fill("taskqueue", [body], types, bench.scale.messages)


def _pace_relay(bench: Bench, types: Sequence[str], pids: Sequence[int]) -> Pace:
    """Watch the worker type's queue fill; where there are many, the dispatcher's get empty."""
    ground, count = bench.ground, bench.scale.messages
    if len(types) <= 1:
        return pace(lambda: ground.depth("worker_noop"), count, pids)
    return pace(lambda: count - ground.depth("taskqueue"), count, pids)


def drain(bench: Bench) -> Iterator[Finding]:
    """Two workers do nothing on workitems that wait already; every result is published and confirmed."""
    count = 2 * bench.scale.messages  # so that starting up, of which a part is measured, hardly counts
    rivals = Rivals(bench.race, bench.race.best("drain"))
    limit, mine = bench.rounds(
        lambda: _drain_bare(bench, count), lambda: drain_ours(bench, count), rivals=rivals
    )
    peers, rate, most = rivals.of("drain"), median_rate(mine), median_rate(limit)
    goals = [Goal.at_least(rate / most, 0.9, "the limit")]
    if peers:
        best = max(peers.values())
        goals.append(Goal.at_least(rate / best, 2, "the best peer without results", most / best))
    detail = details(ours=mine, limit=limit)
    yield Finding("drain", "drain, with results", "/s", rate, most, peers, goals, detail)


def _drain_bare(bench: Bench, count: int) -> Pace:
    _fill_worker(bench, count)
    return _perform_bare(bench, count)


def drain_ours(bench: Bench, count: int) -> Pace:
    _fill_worker(bench, count)
    return _perform_ours(bench, count)


def _fill_worker(bench: Bench, count: int) -> None:
    bench.ground.declare("worker_noop")
    bench.ground.fill("worker_noop", [ours.BODY % 1], ["noop"], count)


def _perform_bare(bench: Bench, count: int) -> Pace:
    bench.ground.declare(RESULTS)
    workers = [bench.ground.module("benchmarks.bare", "report", "worker_noop", RESULTS) for _ in range(2)]
    with bench.ground.running(workers) as pids:
        return pace(lambda: bench.ground.depth(RESULTS), count, pids)


def _perform_ours(bench: Bench, count: int) -> Pace:
    bench.ground.declare(RESULTS)
    with ours.pool(bench.ground, NOOP) as pids:
        return pace(lambda: bench.ground.depth(RESULTS), count, pids)


def whole(bench: Bench) -> Iterator[Finding]:
    """Everything at once: submitted, dispatched, performed, its result confirmed."""
    ground, count = bench.ground, bench.scale.messages

    def run(start: Callable[[], list[Process]]) -> Pace:
        ground.declare("taskqueue", "worker_noop", RESULTS)
        with ground.running(start()) as pids:
            ours.submitter(ground, "noop", count)
            return pace(lambda: ground.depth(RESULTS), count, pids)

    def by_us() -> Pace:
        ground.declare("taskqueue", "worker_noop", RESULTS)
        with ours.dispatcher(ground) as one, ours.pool(ground, NOOP) as other:
            ours.submitter(ground, "noop", count)
            return pace(lambda: ground.depth(RESULTS), count, [*one, *other])

    rivals = Rivals(bench.race, bench.race.best("drain"))
    limit, mine = bench.rounds(
        lambda: run(lambda: passers(ground, RESULTS, role="report")), by_us, rivals=rivals
    )
    peers, rate, most = rivals.of("drain"), median_rate(mine), median_rate(limit)
    goals = []
    if peers:
        best = max(peers.values())
        goals.append(Goal.at_least(rate / best, 1, "the best peer's drain alone", most / best))
    detail = details(ours=mine, limit=limit)
    yield Finding("whole", "whole way", "/s", rate, most, peers, goals, detail)


def passers(ground: Ground, target: str, workers: int = 2, role: str = "pass") -> list[Process]:
    """Start a bare relay, and bare workers that report results or pass on what comes."""
    relay_process = ground.module("benchmarks.bare", "pass", "taskqueue", "worker_noop")
    others = [ground.module("benchmarks.bare", role, "worker_noop", target) for _ in range(workers)]
    return [each.wait_for("ready") for each in (relay_process, *others)]


def backlog(bench: Bench) -> Iterator[Finding]:
    """Drain with little in the queue, and with so much that each round takes a small part of it."""
    few, many = 10_000, bench.scale.backlog
    bare_few, few_ours = bench.rounds(lambda: _drain_bare(bench, few), lambda: drain_ours(bench, few))
    _fill_worker(bench, many)
    part = min(4 * few, many // (2 * bench.scale.rounds + 1))  # of each round; some must be left at the end
    bare_many, many_ours = bench.rounds(
        lambda: _perform_bare(bench, part), lambda: _perform_ours(bench, part)
    )
    rate, most = median_rate(many_ours), median_rate(bare_many)
    goals = [_flat(rate / median_rate(few_ours), most / median_rate(bare_few))]
    detail = details(few=few_ours, many=many_ours, bare_few=bare_few, bare_many=bare_many)
    measure = f"drain, {many // 1000:,} thousand queued"
    yield Finding("backlog", measure, "/s", rate, most, {}, goals, detail)


def types(bench: Bench) -> Iterator[Finding]:
    """Relay with one and with many worker types."""
    many = [f"type{number}" for number in range(500)]
    body = ours.BODY % 1
    one, all_of_them, bare_one, bare = bench.rounds(
        lambda: relay_ours(bench, body, ["noop"]),
        lambda: relay_ours(bench, body, many),
        lambda: _relay_bare(bench, "type", body, ["noop"]),
        lambda: _relay_bare(bench, "type", body, many),
    )
    goals = [_flat(median_rate(all_of_them) / median_rate(one), median_rate(bare) / median_rate(bare_one))]
    detail = details(one=one, many=all_of_them, bare_one=bare_one, bare_many=bare)
    yield Finding(
        "types", "relay, 500 types", "/s", median_rate(all_of_them), median_rate(bare), {}, goals, detail
    )


def _flat(ratio: float, limit: float) -> Goal:
    return Goal("flat within 10 %", ratio, ratio >= 0.9, limit)
