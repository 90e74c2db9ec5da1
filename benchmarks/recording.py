"""The rows of events: drain and relay while a stream takes them, and while a monitor records them."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

from benchmarks import ours, record, rows
from benchmarks.findings import Finding, Goal
from benchmarks.ground import wait_until
from benchmarks.meter import Pace, shared_memory, tree
from benchmarks.rows import Bench
from taskqueue.monitor.report import read_report

Measure = Callable[[], Pace]
_RECORD_TIMEOUT: Final = 120.0  # seconds
_STEP: Final = 0.2


def events(bench: Bench) -> Iterator[Finding]:
    """Drain and relay while a stream takes the events, and while nobody does."""
    return _compare(bench, "events", "events bound", _bound, goal=(0.95, "none bound"))


def monitor(bench: Bench) -> Iterator[Finding]:
    """Drain and relay while a monitor records on the same cores at nice 10, and while nobody does."""
    return _compare(bench, "monitor", "monitor records", _recorded, goal=(0.8, "without a monitor"))


def _compare(
    bench: Bench, row: str, what: str, heard_by: Callable[[Bench, Measure], Pace], *, goal: tuple[float, str]
) -> Iterator[Finding]:
    """Measure drain and relay, by themselves and while somebody listens."""
    count = 2 * bench.scale.messages
    measures: dict[str, Measure] = {
        "drain": lambda: rows.drain_ours(bench, count),
        "relay": lambda: rows.relay_ours(bench, ours.BODY % 1, ["noop"]),
    }
    for name, measure in measures.items():
        alone, heard = bench.rounds(measure, partial(heard_by, bench, measure))
        rate, most = rows.median_rate(heard), rows.median_rate(alone)
        goals = [Goal.at_least(rate / most, *goal)]
        detail = rows.details(heard=heard, alone=alone)
        yield Finding(row, f"{name}, {what}", "/s", rate, most, {}, goals, detail)


def _bound(bench: Bench, measure: Measure) -> Pace:
    with bench.ground.stream_of_events():
        return measure()


def _recorded(bench: Bench, measure: Measure) -> Pace:
    with ours.monitor(bench.ground):
        found = measure()
    bench.ground.delete_events()
    return found


def memory(bench: Bench) -> Iterator[Finding]:
    """Measure the memory of recorder and web process together: idle, and while they record."""
    workitems, now = bench.scale.recorded // 5, time.time()
    with ours.monitor(bench.ground) as (pid, directory):
        idle = _memory(pid)
        samples, published = [idle], 0
        for bodies, ids in record.writes(Random(1), workitems, now - workitems / 1000, now, is_noop=True):  # noqa: S311 -- no secret
            bench.ground.publish_events(body for _, body in bodies)
            published += 2 * len(ids)
            samples.append(_memory(pid))
        wait_until(
            lambda: _takes_sample(samples, pid, directory, published), _RECORD_TIMEOUT, "the events' record"
        )
    bench.ground.delete_events()
    more = {"first half": round(max(samples[: len(samples) // 2])), "samples": len(samples)}
    for name, most, found in (("idle", 90, idle), ("recording", 160, max(samples))):
        goals = [Goal.at_most(found, most, "MiB")]
        yield Finding(
            "memory", f"memory of recorder and web process, {name}", "MiB", found, None, {}, goals, more
        )


def _memory(pid: int) -> float:
    """Return the memory of a monitor's processes, without their supervisor, in MiB."""
    return sum(shared_memory(each) for each in tree([pid]) - {pid})


def _takes_sample(samples: list[float], pid: int, directory: Path, published: int) -> bool:
    """Note the memory; return whether all events are recorded."""
    time.sleep(_STEP)
    samples.append(_memory(pid))
    report = read_report(directory)
    return report is not None and report.recorded >= published
