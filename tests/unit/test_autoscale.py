"""The number of workers of a group follows its load, within its bounds, and does not swing."""

import math
import os
import random
import time
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
from support.documentation import example
from support.examples import share_of

from taskqueue.config import load
from taskqueue.supervisor.autoscale import Autoscaler, Demand, HostRoom, Need, WorkerUse

DAY = 86_400  # seconds


@dataclass
class Load:
    """A group under load, simulated second by second."""

    least: int = 2
    most: int = 16
    up_after: float = 10.0
    down_after: float = 300.0
    run_time: float = 0.5
    room: int = 100
    waiting: float = 0.0
    now: float = 0.0
    numbers: list[int] = field(default_factory=list)  # of workers, by second
    longest: float = 0.0  # seconds that the last in the queue had to wait

    def __post_init__(self) -> None:
        self.workers = self.least
        self.scaler = Autoscaler(self.least, self.most, self.up_after, self.down_after, self.now)

    def second(self, arrivals: float) -> int:
        """Have workitems come for a second; return the number of workers after it."""
        self.now += 1
        able = self.workers / self.run_time
        ended = min(able, self.waiting + arrivals)
        self.waiting += arrivals - ended
        self.longest = max(self.longest, self.waiting / able)
        busy = min(self.workers, math.ceil(ended * self.run_time))
        demand = Demand(int(self.waiting), busy, round(ended), self.run_time)
        self.workers = self.scaler.wanted(self.workers, demand, lambda: self.room, self.now)
        self.numbers.append(self.workers)
        return self.workers

    def seconds(self, number: int, arrivals: float) -> list[int]:
        return [self.second(arrivals) for _ in range(number)]

    @property
    def turns(self) -> int:
        """How often a change was in the other direction than the one before."""
        steps = [b - a for a, b in pairwise(self.numbers) if b != a]
        return sum((a > 0) != (b > 0) for a, b in pairwise(steps))


def day_of_arrivals(seed: int) -> list[float]:
    """Return arrivals by second: few at night, many at noon, a burst of minutes at some hours, and noise."""
    chance = random.Random(seed)
    bursts = {hour: chance.uniform(10, 18) for hour in chance.sample(range(24), 6)}
    arrivals = []
    for second in range(DAY):
        hour, within = divmod(second, 3600)
        mean = 2 + 10 * max(0.0, math.sin(math.pi * (second / DAY * 2 - 0.5)))
        mean += bursts.get(hour, 0.0) if within < 240 else 0.0
        arrivals.append(float(max(0, round(chance.gauss(mean, math.sqrt(mean))))))
    return arrivals


@pytest.mark.parametrize("seed", range(1, 1 + share_of(3)))
def test_it_follows_a_day_of_load_without_swinging(seed):
    load = Load()
    for arrivals in day_of_arrivals(seed):
        load.second(arrivals)
    assert load.turns <= 2 * (6 + 1)  # up and down once for each burst, and for noon
    assert 12 <= max(load.numbers) <= 16
    assert load.numbers[-1] <= 4
    assert sum(load.numbers) < 0.6 * 16 * DAY
    assert load.longest < 120


def test_it_grows_only_after_a_workitem_has_waited():
    load = Load()
    assert set(load.seconds(600, 3.0)) == {2}
    assert set(load.seconds(10, 9.0)) == {2}
    assert max(load.seconds(120, 9.0)) > 4
    assert load.waiting == 0


def test_it_grows_to_the_number_that_begins_all_in_time_and_at_most_doubles_at_once():
    few = Load(waiting=60)
    assert sorted(set(few.seconds(30, 4.0))) == [2, 3]
    many = Load(waiting=10_000)
    assert sorted(set(many.seconds(60, 0.0))) == [2, 4, 8, 16]


def test_it_never_passes_its_bounds_nor_the_room_of_the_host():
    load = Load(waiting=1e6, most=6)
    assert max(load.seconds(300, 100.0)) == 6
    full = Load(waiting=1e6, room=0)
    assert set(full.seconds(300, 100.0)) == {2}
    tight = Load(waiting=1e6, room=1)
    assert tight.seconds(12, 0.0)[-1] == 3


def test_it_shrinks_to_the_most_that_were_busy_at_once_while_some_were_idle():
    load = Load(waiting=10_000, run_time=1.0)
    load.seconds(60, 0.0)
    while load.waiting:
        load.second(0.0)
    busy = load.seconds(299, 5.0)
    assert set(busy) == {16}
    assert load.seconds(20, 5.0)[-1] == 5
    assert load.seconds(400, 0.0)[-1] == 2


def test_one_workitem_that_runs_for_long_keeps_the_group_growing_by_what_waits():
    """No run has ended, so its time is unknown: one worker more for each time that is waited."""
    scaler = Autoscaler(1, 4, 10.0, 300.0, 0.0)
    workers = 1
    for second in range(1, 100):
        workers = scaler.wanted(workers, Demand(5, workers, 0, 0.0), lambda: 100, float(second))
    assert workers == 4


def test_a_host_without_memory_or_processor_time_has_no_room(tmp_path):
    def write(busy: int, idle: int, available: int) -> None:
        (tmp_path / "stat").write_text(f"cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\ncpu0 1 2 3\n")
        (tmp_path / "meminfo").write_text(f"MemTotal: 1000000 kB\nMemAvailable: {available} kB\n")

    size, processors = 50_000 * 1024, os.cpu_count()
    write(0, 0, 600_000)
    room = HostRoom(tmp_path)
    write(500, 500, 600_000)
    assert room.workers(Need(size, 0.0)) == 10
    assert room.workers(Need(size, 0.25)) == min(10, 2 * processors)
    write(2500, 500, 600_000)
    assert room.workers(Need(size, 0.25)) == 0
    assert room.workers(Need(size, 0.01)) == 10
    write(2500, 2500, 100_000)
    assert room.workers(Need(size, 0.01)) == 0
    assert HostRoom(tmp_path / "none").workers(Need(1, 0.0)) > 1000


def test_the_need_of_a_worker_is_measured_between_two_looks():
    use = WorkerUse()
    assert use.measure([os.getpid()], 1.0) is None
    deadline = time.process_time() + 0.1
    while time.process_time() < deadline:
        pass
    need = use.measure([os.getpid(), 2**22 + 1], 2.0)
    assert 0.05 < need.processors < 1.0
    assert need.memory > 2**20
    assert use.measure([], 3.0) is None


def test_a_range_of_workers_scales_a_group_as_the_documentation_shows(tmp_path):
    path = tmp_path / "config.ini"
    path.write_text(example("docs/operations.md", "workers: 2..16"))
    settings = load(str(path), ["thumbnail"], as_root=False)
    (group,) = settings.groups
    assert (group.workers, group.most_workers, settings.workerpool.max_total_workers) == (2, 16, 24)
    assert Autoscaler.of(group, 0.0) is not None
    assert Autoscaler.of(replace(group, most_workers=0), 0.0) is None
