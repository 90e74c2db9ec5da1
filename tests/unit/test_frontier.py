import random

import pytest

from taskqueue.feed.state import Frontier


def content(frontier, most):
    """Return the numbers below `most` that a frontier's intervals cover."""
    return set(range(frontier.end)).union(*(range(a, b) for a, b in frontier.intervals)) & set(range(most))


def test_it_is_the_set_of_what_was_added():
    for seed in range(40):
        check_against_a_set(random.Random(seed))


def check_against_a_set(chance):
    most = chance.choice([12, 60, 300])
    frontier, numbers = Frontier(), set()
    for _ in range(60):
        start = chance.randrange(most)
        end = min(most, start + chance.choice([0, 1, 1, 3, 10, 40]))
        numbers |= set(range(start, end))
        frontier.add(start, end)
        assert content(frontier, most) == numbers
        assert len(frontier) == len(numbers)
        bounds = [frontier.end, *(bound for interval in frontier.intervals for bound in interval)]
        assert bounds == sorted(set(bounds))  # nothing is empty, touches, or overlaps
        asked = chance.randrange(most)
        first, island = frontier.gap(asked)
        free = [number for number in range(asked, most + 1) if number not in numbers]
        assert first == free[0]
        following = [number for number in range(first, most) if number in numbers]
        assert island == (following[0] if following else None)


def test_it_is_made_again_from_what_it_tells():
    frontier = Frontier()
    for start, end in [(0, 3), (5, 9), (20, 21), (9, 12)]:
        frontier.add(start, end)
    assert (frontier.end, frontier.intervals) == (3, [(5, 12), (20, 21)])
    assert Frontier(frontier.end, frontier.intervals).intervals == frontier.intervals


def test_the_last_gap_that_closes_leaves_one_beginning():
    frontier = Frontier(0, [(1, 2), (3, 4)])
    frontier.add(2, 3)
    frontier.add(0, 1)
    assert (frontier.end, frontier.intervals) == (4, [])


@pytest.mark.parametrize(
    ("end", "intervals"),
    [(-1, []), (3, [(3, 4)]), (0, [(5, 5)]), (0, [(4, 6), (6, 7)]), (0, [(7, 9), (1, 2)])],
)
def test_intervals_that_are_none_are_refused(end, intervals):
    with pytest.raises(ValueError, match="intervals"):
        Frontier(end, intervals)
