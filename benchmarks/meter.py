"""Rates, processor time and memory, read from counters that the measured processes do not know of."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.ground import BenchmarkFailed

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_POLL_DELAY: Final = 0.01  # seconds between two looks


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a counter ran."""

    rate: float  # a second
    cpu: float  # microseconds of processor time that the measured processes took for each


def pace(count: Callable[[], int], until: int, pids: Sequence[int] = (), timeout: float = 180.0) -> Pace:
    """Watch a counter from its first step until it reaches `until`.

    Starting up does not count: the clock runs from the first look that finds the counter above zero.
    """
    deadline = time.monotonic() + timeout
    first = last = 0.0
    start = seen = 0
    cpu = cpu_time(pids)
    while seen < until:
        time.sleep(_POLL_DELAY)
        now, seen = time.perf_counter(), count()
        if seen and not start:
            first, start, cpu = now, seen, cpu_time(pids)
        last = now
        if time.monotonic() > deadline:
            raise BenchmarkFailed(f"{seen} of {until} after {timeout:g} s")
    if seen == start:
        raise BenchmarkFailed(f"{until} are too few to be measured")
    return Pace((seen - start) / (last - first), (cpu_time(pids) - cpu) / (seen - start) * 1e6)


def cpu_time(pids: Sequence[int]) -> float:
    """Return the processor time, in seconds, that processes and their descendants have taken."""
    return sum(_cpu_time(pid) for pid in tree(pids))


def tree(pids: Sequence[int]) -> set[int]:
    """Return processes with all their descendants."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            children.setdefault(_parent(int(path.name)), []).append(int(path.name))
    found: set[int] = set()
    new = list(pids)
    while new:
        pid = new.pop()
        found.add(pid)
        new += children.get(pid, [])
    return found


def titled(pids: Sequence[int], title: str) -> list[int]:
    """Return those of processes and their descendants whose titles begin so."""
    return [pid for pid in sorted(tree(pids)) if _read(pid, "cmdline").startswith(title)]


def unique_memory(pid: int) -> float:
    """Return the unique set size of a process in MiB: what ends with it."""
    private = [
        line.split() for line in _read(pid, "smaps_rollup").splitlines() if line.startswith("Private_")
    ]
    return sum(int(words[1]) for words in private) / 1024


def shared_memory(pid: int) -> float:
    """Return the proportional set size of a process in MiB: with its part of what it shares."""
    lines = [line.split() for line in _read(pid, "smaps_rollup").splitlines() if line.startswith("Pss:")]
    return sum(int(words[1]) for words in lines) / 1024


def _stat(pid: int) -> list[str]:
    return _read(pid, "stat").rpartition(") ")[2].split()


def _parent(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def _cpu_time(pid: int) -> float:
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / _TICKS if fields else 0.0


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8", errors="replace")
    except OSError:  # gone meanwhile
        return ""
