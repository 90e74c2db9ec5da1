"""The row of schedules: what ten thousand of them cost the scheduler, and how late the ticks are.

Run as `python -m benchmarks.scheduling NUMBER` this is the watcher of so many ticks, in a process of its own.
"""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from benchmarks import bare, ours
from benchmarks.findings import Finding, Goal
from benchmarks.ground import START_TIMEOUT, BenchmarkFailed, wait_until
from benchmarks.meter import cpu_time, titled
from benchmarks.rows import Bench
from taskqueue.broker.topology import CLAIMS, SCHEDULES
from taskqueue.messages import names

_NUMBER: Final = 10_000
_EVERY: Final = 500  # seconds; the register renews what nobody has written for 600
_AT_ONCE: Final = _NUMBER // _EVERY  # ticks that are due in each second

_CALM: Final = 0.1  # seconds of processor time in a second


def schedules(bench: Bench) -> Iterator[Finding]:
    """Fire ten thousand schedules, twenty at the beginning of each second."""
    ground, ticks = bench.ground, bench.scale.ticks
    ground.declare("taskqueue", "worker_noop")
    sections = "\n".join(map(_section, range(_NUMBER)))
    with ours.dispatcher(ground, sections, ready=f"leads {_NUMBER} schedules") as pids:
        scheduler = titled(pids, "taskqueue: scheduler")
        wait_until(lambda: _is_calm(scheduler), START_TIMEOUT, "the schedules to be written")
        watcher = ground.module("benchmarks.scheduling", ticks).wait_for("ready")
        processes = {"scheduler": scheduler, "daemon": pids}
        begun, used = time.perf_counter(), {name: cpu_time(some) for name, some in processes.items()}
        found = watcher.result(60 + 2 * ticks / _AT_ONCE)
        seconds = time.perf_counter() - begun
        shares = {name: 100 * (cpu_time(some) - used[name]) / seconds for name, some in processes.items()}
    for queue in (SCHEDULES, CLAIMS):
        ground.delete(queue.name)
    if found["due"] != ticks:
        raise BenchmarkFailed(f"{ticks} ticks came, and {found['due']} were due meanwhile")
    share, worst = shares["scheduler"], found["worst"]
    measure = f"{_NUMBER:,} schedules"
    more = {"daemon": round(shares["daemon"], 1), "ticks": ticks}
    goals = [Goal.at_most(share, 2, "% of a core")]
    yield Finding("schedules", f"{measure}, scheduler", "% of a core", share, None, {}, goals, more)
    more = {"median": round(found["median"], 4), "ticks": ticks}
    goals = [Goal.at_most(worst, 0.5, "s")]
    yield Finding("schedules", f"{measure}, latest tick", "s", worst, None, {}, goals, more)


def _is_calm(scheduler: Sequence[int]) -> bool:
    """Watch for a second; return whether the scheduler does little."""
    used = cpu_time(scheduler)
    time.sleep(1.0)
    return cpu_time(scheduler) - used < _CALM


def _section(number: int) -> str:
    timing = f"every: {_EVERY}\noffset: {number % _EVERY}"
    return f"[schedule s{number}]\n{timing}\ntype: noop\nbody: {number}"


# --- the watcher -------------------------------------------------------------------------------


class Watcher:
    """Takes routed ticks; prints how late they came, and how many were due from the first to the last."""

    def __init__(self, number: int) -> None:
        """Take so many ticks that are due from now on."""
        self._begun = time.time()
        self._number = number
        self._ticks: list[float] = []
        self._late: list[float] = []

    def begin(self, channel: Any) -> None:
        """Consume."""
        channel.basic_consume(
            "worker_noop", self._came, auto_ack=True, callback=lambda _frame: print("ready", flush=True)
        )

    def _came(self, _channel: Any, _method: Any, header: Any, _body: bytes) -> None:
        tick = header.headers[names.TICK]
        if tick < self._begun:  # it may have waited for this process
            return
        self._ticks.append(tick)
        self._late.append(time.time() - tick)
        if len(self._ticks) == self._number:
            late = sorted(self._late)
            due = _AT_ONCE * (round(max(self._ticks) - min(self._ticks)) + 1)
            print(json.dumps({"worst": late[-1], "median": late[len(late) // 2], "due": due}))
            sys.exit()


if __name__ == "__main__":
    bare.serve(Watcher(int(sys.argv[1])).begin)
