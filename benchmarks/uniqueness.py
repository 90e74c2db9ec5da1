"""The row of unique work: each workitem has a key of its own, which a dispatcher asks the keeper for."""

from collections.abc import Iterator

from benchmarks import ours, rows
from benchmarks.findings import Finding, Goal
from benchmarks.meter import Pace, pace
from benchmarks.rows import Bench
from taskqueue.broker.topology import CLAIMS
from taskqueue.messages import names


def unique(bench: Bench) -> Iterator[Finding]:
    """One dispatcher relays unique workitems, by itself and while workers bring them to their end."""
    plain, relayed, done = bench.rounds(
        lambda: rows.relay_ours(bench, ours.BODY % 1, ["noop"]),
        lambda: _relay(bench),
        lambda: _whole(bench),
    )
    for what, paces, limit in (
        ("relay, unique", relayed, rows.median_rate(plain)),
        ("relay and drain, unique", done, None),
    ):
        rate = rows.median_rate(paces)
        detail = rows.details(unique=paces, plain=plain)
        yield Finding("unique", what, "/s", rate, limit, {}, [Goal.at_least_a_second(rate, 1000)], detail)


def _relay(bench: Bench) -> Pace:
    ground, count = bench.ground, _fill(bench)
    with ours.dispatcher(ground) as pids:
        found = pace(lambda: ground.depth("worker_noop"), count, pids)
    ground.delete(CLAIMS.name)  # else the keys stay taken
    return found


def _whole(bench: Bench) -> Pace:
    ground, count = bench.ground, _fill(bench)
    with ours.dispatcher(ground) as one, ours.pool(ground, rows.NOOP) as other:
        found = pace(lambda: ground.depth(rows.RESULTS), count, [*one, *other])
    ground.delete(CLAIMS.name)
    return found


def _fill(bench: Bench) -> int:
    """Fill the dispatcher's queue; return with how many workitems."""
    ground, count = bench.ground, bench.scale.messages
    ground.declare("taskqueue", "worker_noop", rows.RESULTS)
    ground.fill("taskqueue", [ours.BODY % 1], ["noop"], count, {names.UNIQUE: "key {}"})
    return count
