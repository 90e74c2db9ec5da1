"""The number of workitems that are taken ahead follows from their run time and size."""

from types import SimpleNamespace

import pytest

from taskqueue.consumer.prefetch import Prefetch

MOST = 100
LARGE = 16 * 1024 * 1024  # bytes


class Looks:
    """A Prefetch on a loop without time: it is looked at when the test says so."""

    def __init__(self):
        self.busy_for, self.is_ahead, self.changes, self.due = 0.0, True, 0, []
        self.prefetch = Prefetch(self, MOST, 1, sample=self.sample, on_change=self.changed)

    def sample(self):
        return self.busy_for, self.is_ahead

    def call_later(self, _delay, callback):
        self.due.append(callback)

    def changed(self):
        self.changes += 1

    def take(self, number, seconds):
        for _ in range(number):
            self.prefetch.performed(seconds)
        (sample,) = self.due
        self.due.clear()
        sample()
        return self.prefetch.value


@pytest.fixture
def looks():
    return Looks()


@pytest.mark.parametrize(("seconds", "value"), [(0.0001, MOST), (0.002, 24), (0.01, 4), (0.025, 1), (10, 1)])
def test_what_is_taken_ahead_fills_a_moment(looks, seconds, value):
    assert looks.take(1, seconds) == value


def test_a_large_one_among_short_ones_is_the_last_that_is_taken_ahead(looks):
    assert looks.take(1, 0.0001) == MOST
    looks.prefetch.delivered(1000)
    assert looks.prefetch.value == MOST
    looks.prefetch.delivered(LARGE)
    assert (looks.prefetch.value, looks.changes) == (1, 2)


def test_after_a_long_one_no_more_are_taken_ahead_than_were_short_since(looks):
    assert looks.take(1, 0.0001) == MOST
    looks.busy_for = 0.3
    assert looks.take(0, 0) == 1
    looks.busy_for = 0.0
    assert 1 < looks.take(5, 0.0001) <= 5
    assert looks.take(100, 0.0001) == MOST


@pytest.mark.parametrize("seconds", [0.0001, 0.0002, 0.0005, 0.0009, 0.001, 0.002, 0.01, 0.02])
def test_workitems_that_take_about_as_long_as_each_other_change_nothing(looks, seconds):
    looks.take(100, seconds)
    settled = looks.changes
    for _ in range(50):
        looks.take(20, seconds * 0.85)
        looks.take(20, seconds * 1.15)
    assert looks.changes - settled <= 1


def test_nothing_is_looked_at_while_nothing_is_in_hand(looks):
    assert looks.take(1, 0.0001) == MOST
    looks.is_ahead = False
    looks.take(0, 0)
    assert not looks.due
    looks.prefetch.delivered(1)
    assert len(looks.due) == 1


@pytest.mark.parametrize("nonsense", [float("nan"), float("inf"), float("-inf"), -1e300, 1e300, -0.0001])
def test_nonsense_about_its_time_that_a_worker_tells_harms_nobody(looks, nonsense):
    for _ in range(3):
        assert 1 <= looks.take(3, nonsense) <= MOST
        assert 1 <= looks.prefetch.ahead <= MOST
    assert looks.take(500, 0.0001) == MOST


@pytest.mark.parametrize(("workers", "expected"), [(1, 1500), (10, 200), (1000, 2), (5000, 1)])
def test_the_more_workers_the_less_is_taken_ahead_for_each(workers, expected):
    due = []
    loop = SimpleNamespace(call_later=lambda _delay, callback: due.append(callback))
    prefetch = Prefetch(loop, 10_000, workers, sample=lambda: (0.0, False), on_change=list)
    prefetch.performed(0.0)
    due.pop()()
    assert prefetch.value == expected  # 150 ms of workitems that take nothing but 0.1 ms on their way
