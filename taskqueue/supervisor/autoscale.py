"""The number of workers of a group that grows and shrinks with its load.

A group grows when its oldest waiting workitem has waited for `scale_up_after` seconds, and shrinks when some
of its workers have been idle for `scale_down_after` seconds. Both need time, and each change begins a new
time: so the number of workers follows the load and does not swing.
"""

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from taskqueue.config import GroupSettings
from taskqueue.process.usage import memory_of, processor_time

_SHARE: Final = 0.2  # weight of the newest report in the means
_FREE_MEMORY: Final = 0.1  # share of the host's memory that new workers leave free
_LITTLE: Final = 0.05  # of a processor; a worker that takes less, as it waits for others, finds room for it
_LEAST_TICKS: Final = 50  # of processor time, 10 ms each, over which the idle share is measured
_UNBOUNDED: Final = 65_535  # workers, where /proc does not tell
_MOST: Final = 10**12  # workitems or seconds in a report


@dataclass(frozen=True, slots=True)
class Demand:
    """A report of a group's consumer about the time since its last one."""

    waiting: int  # workitems that are ready in the queues of the group, and here
    busy: int  # the highest number of workers that were busy at once
    ended: int  # workitems that workers have ended
    run_time: float  # mean seconds of a run; 0 if none has ended

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        """Return a report as a consumer sends it. Raises KeyError or ValueError if it is none."""
        waiting, busy, ended = counts = tuple(content[name] for name in ("waiting", "busy", "ended"))
        seconds = content["run_time"]
        if not all(type(each) is int and 0 <= each <= _MOST for each in counts):
            raise ValueError(f"a demand of {counts!r:.100}")
        if type(seconds) not in (int, float) or not 0 <= seconds <= _MOST:
            raise ValueError(f"a run time of {seconds!r:.100}")
        return cls(waiting, busy, ended, float(seconds))


class Autoscaler:
    """Decides how many workers a group has."""

    def __init__(self, least: int, most: int, up_after: float, down_after: float, now: float) -> None:
        """Begin.

        Args:
            least: minimum number of workers.
            most: maximum number of workers.
            up_after: seconds that a workitem waits until the group grows.
            down_after: seconds that workers are idle until the group shrinks.
            now: monotonic time in seconds.
        """
        self._least, self._most = least, most
        self._up_after, self._down_after = up_after, down_after
        self._reported = self._emptied = self._changed = now
        self._rate = 0.0  # workitems ended a second
        self._run_time = 0.0  # mean seconds of a run
        self._busiest: deque[tuple[float, int]] = deque()  # falling maxima of `busy`, with their times

    @classmethod
    def of(cls, group: GroupSettings, now: float) -> Self | None:
        """Return what decides for a group; None where the number of workers is fixed."""
        if not group.most_workers:
            return None
        return cls(group.workers, group.most_workers, group.scale_up_after, group.scale_down_after, now)

    def wanted(self, workers: int, demand: Demand, room: Callable[[], int], now: float) -> int:
        """Return the number of workers that the group should have.

        Args:
            workers: their present number.
            demand: the report of the consumer.
            room: returns how many more the host has memory and processors for.
            now: monotonic time in seconds.
        """
        self._note(demand, now)
        since = now - self._changed
        is_busy = demand.busy >= workers  # else what waits needs no worker, but a limit, or those that start
        if is_busy and since >= self._up_after and self._waited(demand, now) > self._up_after:
            wanted = min(self._grown(workers, demand), workers + room(), self._most)
        elif since >= self._down_after:
            wanted = min(workers, self._busiest[0][1])
        else:
            wanted = workers
        wanted = max(wanted, self._least)
        if wanted != workers:
            self._changed = now
            self._busiest.clear()
        return wanted

    def _note(self, demand: Demand, now: float) -> None:
        elapsed, self._reported = now - self._reported, now
        if demand.ended:
            self._run_time += (demand.run_time - self._run_time) * (_SHARE if self._run_time else 1.0)
        if elapsed > 0:
            self._rate += (demand.ended / elapsed - self._rate) * _SHARE
        if not demand.waiting:
            self._emptied = now
        while self._busiest and self._busiest[-1][1] <= demand.busy:
            self._busiest.pop()
        self._busiest.append((now, demand.busy))
        while self._busiest[0][0] < now - self._down_after:
            self._busiest.popleft()

    def _waited(self, demand: Demand, now: float) -> float:
        """Return about how long the oldest workitem has waited, in seconds.

        It came after the queues were empty. And before it, as many ended as wait behind it now, if they came
        as fast (Little's law).
        """
        if not demand.waiting:
            return 0.0
        waited = now - self._emptied
        return min(waited, demand.waiting / self._rate) if self._rate > 0 else waited

    def _grown(self, workers: int, demand: Demand) -> int:
        """Return the number that would begin all that waits within `up_after`, at most twice as many."""
        needed = math.ceil(demand.waiting * self._run_time / max(self._up_after, 1.0))
        return min(max(needed, workers + 1), 2 * workers)


@dataclass(frozen=True, slots=True)
class Need:
    """The resources that a worker takes."""

    memory: int  # bytes of resident memory
    processors: float  # share of the time of one processor


class WorkerUse:
    """Measures the resources that the workers of a group take."""

    def __init__(self) -> None:
        self._before: dict[int, float] = {}  # processor time by process, when it was measured last
        self._measured = 0.0  # monotonic

    def measure(self, pids: Iterable[int], now: float) -> Need | None:
        """Return the need of one worker since the last call; None if none has run since then."""
        elapsed, self._measured = now - self._measured, now
        before, self._before = self._before, {pid: processor_time(pid) for pid in pids}
        times = [time - before[pid] for pid, time in self._before.items() if pid in before]
        if not times or elapsed <= 0:
            return None
        memory = max(memory_of(pid) for pid in self._before)
        return Need(memory, max(0.0, sum(times) / len(times) / elapsed))


class HostRoom:
    """The memory and processor time that the host has left for more workers."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        """Read the processors' times for the first time."""
        self._proc = proc
        self._idle, self._total = self._processor_times()
        self._idle_share = 1.0

    def workers(self, need: Need) -> int:
        """Return how many more workers there is room for, if each needs so much."""
        idle, total = self._processor_times()
        if total - self._total >= _LEAST_TICKS:
            self._idle_share = (idle - self._idle) / (total - self._total)
            self._idle, self._total = idle, total
        fitting = self._fitting(need.memory)
        if need.processors < _LITTLE:
            return fitting
        return min(fitting, int(self._idle_share * (os.cpu_count() or 1) / need.processors))

    def _fitting(self, memory: int) -> int:
        try:
            lines = (self._proc / "meminfo").read_text().splitlines()
        except OSError:
            return _UNBOUNDED
        words = [each.split() for each in lines]
        sizes = {name: int(number) * 1024 for name, number, *_ in words}
        left = sizes["MemAvailable:"] - _FREE_MEMORY * sizes["MemTotal:"]
        return max(0, int(left / max(memory, 1)))

    def _processor_times(self) -> tuple[float, float]:
        """Return the idle and all time of the processors together, in ticks; see proc_stat(5)."""
        try:
            first = (self._proc / "stat").read_text().partition("\n")[0]
        except OSError:
            return 0.0, 0.0
        times = [float(each) for each in first.split()[1:9]]  # guest times are part of user times
        return times[3] + times[4], sum(times)
