"""The rows about a host: how workers scale, what they cost, how fast they start and come back."""

import json
import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from statistics import median
from typing import Final

from benchmarks import ours
from benchmarks.findings import Finding, Goal
from benchmarks.ground import Ground, wait_until
from benchmarks.meter import Pace, pace, tree, unique_memory
from benchmarks.notes import Notes
from benchmarks.rows import RESULTS, Bench

NAP: Final = 0.01  # seconds
_NUMBERS: Final = (1, 2, 4, 8, 16, 32)
_START: Final = 5.0  # seconds of work that there is for who begins before the others
_SETTLE: Final = 0.5  # seconds from when the last one has started until it is measured
_MORE: Final = 10  # workers by which two pools differ


def workers(bench: Bench) -> Iterator[Finding]:
    """Each of 1 to 32 workers sleeps 10 ms on each workitem: how much of the ideal is reached."""
    shares: dict[str, dict[int, float]] = {"limit": {}, "ours": {}}
    for number in _NUMBERS:
        found = bench.rounds(partial(_nap_bare, bench, number), partial(_nap_ours, bench, number))
        for who, paces in zip(shares, found, strict=True):
            shares[who][number] = round(median(each.rate for each in paces) * NAP / number, 3)
    most, least = (min(each.values()) for each in shares.values())
    goals = [Goal.at_least(least, 0.95, "the ideal", most)]
    yield Finding("workers", "1 to 32 workers, 10 ms each", "of the ideal", least, most, {}, goals, shares)


def _nap_bare(bench: Bench, number: int) -> Pace:
    ground = bench.ground
    _fill_naps(bench, number)
    started = [ground.module("benchmarks.bare", "nap", "worker_nap", RESULTS, NAP) for _ in range(number)]
    with ground.running(started) as pids:
        for each in started:
            each.wait_for("ready")
        return _pace_naps(bench, number, pids)


def _nap_ours(bench: Bench, number: int) -> Pace:
    _fill_naps(bench, number)
    with ours.pool(bench.ground, f"[nap]\nworkers: {number}") as pids:
        wait_until(lambda: _ready_workers(pids) >= number, 60, "workers")
        return _pace_naps(bench, number, pids)


def _fill_naps(bench: Bench, number: int) -> None:
    count = int(number / NAP * (bench.scale.seconds + _START))
    bench.ground.declare("worker_nap", RESULTS)
    bench.ground.fill("worker_nap", [json.dumps({"seconds": NAP})], ["nap"], count)


def _pace_naps(bench: Bench, number: int, pids: list[int]) -> Pace:
    """Measure from a moment after all have started, which takes the processor from who works already."""
    ideal = number / NAP
    begin = bench.ground.depth(RESULTS) + int(ideal * _SETTLE)
    count = int(ideal * bench.scale.seconds)
    return pace(lambda: max(0, bench.ground.depth(RESULTS) - begin), count, pids)


def _ready_workers(pids: list[int]) -> int:
    """Count the processes of a pool that are neither supervisor nor consumer."""
    return len(tree(pids)) - 2


def idle(bench: Bench) -> Iterator[Finding]:
    """Measure the cost of a further worker, and the connections of a group."""
    ground = bench.ground
    used = {}
    for number in (2, 2 + _MORE):
        notes = Notes(ground)
        with ours.pool(ground, f"[note]\nworkers: {number}\nnotes: {notes.path}") as pids:
            wait_until(lambda number=number, notes=notes: notes.ready >= number, 60, "workers")  # type: ignore[misc]
            used[number] = sum(unique_memory(pid) for pid in tree(pids))
            connections = _connections(ground, pids)
    each = (used[2 + _MORE] - used[2]) / _MORE
    peers = bench.race.of("memory")
    goals = [Goal.at_most(each, 8, "MiB")]
    yield Finding("idle", "memory of a further worker", "MiB", each, None, peers, goals)
    single = Goal("≤ 1 for a group", connections, connections <= 1)
    yield Finding("idle", f"connections of {2 + _MORE} workers", "", connections, None, {}, [single])


def _connections(ground: Ground, pids: list[int]) -> int:
    """Count the TCP connections to the broker."""
    inodes = {link.rpartition("[")[2].rstrip("]") for pid in tree(pids) for link in _links(pid)}
    port = int(ground.url.rpartition(":")[2].partition("/")[0])
    with open("/proc/net/tcp", encoding="ascii") as table:  # noqa: PTH123
        lines = [line.split() for line in table][1:]
    return sum(line[9] in inodes and line[2].endswith(f":{port:04X}") for line in lines)


def _links(pid: int) -> Iterator[str]:
    folder = f"/proc/{pid}/fd"
    for name in os.listdir(folder):  # noqa: PTH208
        try:
            yield os.readlink(f"{folder}/{name}")  # noqa: PTH115
        except OSError:
            continue


def recovery(bench: Bench) -> Iterator[Finding]:
    """Kill the only worker; wait until its replacement takes work."""
    ground = bench.ground
    times = []
    for _ in range(bench.scale.rounds):
        notes = Notes(ground)
        ground.declare("worker_note", RESULTS)
        ground.fill("worker_note", ["null"], ["note"], 3000)
        with ours.pool(ground, f"[note]\nworkers: 1\nnotes: {notes.path}"):
            wait_until(lambda notes=notes: notes.begun > 200, 60, "work")  # type: ignore[misc]
            victim = notes.workers[-1]
            begun = time.perf_counter()
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda notes=notes, victim=victim: notes.workers[-1] != victim, 30, "a worker")  # type: ignore[misc]
            times.append(time.perf_counter() - begun)
    goals = [Goal.at_most(median(times), 0.2, "s")]
    more = {"rounds": [round(each, 3) for each in times]}
    yield Finding("recovery", "kill -9 until work goes on", "s", median(times), None, {}, goals, more)


def start(bench: Bench) -> Iterator[Finding]:
    """Start a pool of 100 workers, until all are ready."""
    ground = bench.ground
    times = []
    for _ in range(bench.scale.rounds):
        notes = Notes(ground)
        begun = time.perf_counter()
        with ground.running([ours.start_pool(ground, f"[note]\nworkers: 100\nnotes: {notes.path}")]):
            wait_until(lambda notes=notes: notes.ready >= 100, 120, "100 workers")  # type: ignore[misc]
            times.append(time.perf_counter() - begun)
    goals = [Goal.at_most(median(times), 5, "s")]
    more = {"rounds": [round(each, 2) for each in times]}
    yield Finding("start", "100 workers ready", "s", median(times), None, {}, goals, more)
