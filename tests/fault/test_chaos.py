"""Two hundred random processes are killed with -9 under load, and every workitem's result arrives."""

import random

import pytest
from support.processes import kill, tree

SEED = 20
KILLS = 200
KILLS_OF_UP = 25  # each so many'th is of `taskqueue up` itself, with all that is below it
WORKITEMS_A_KILL = 24
RUNS_A_KILL = 8  # so many workitems are done between two kills

QUEUES = ("taskqueue", "worker_good", "worker_better")
SECTIONS = """
[good]
workers: 3
[better]
workers: 3
depth: 4
"""


@pytest.mark.timeout(400)
def test_two_groups_survive_two_hundred_kills_with_every_result(site, work):
    site.configure(SECTIONS, default="max_crashes: 1000")  # of every workitem the success is wanted
    chance = random.Random(SEED)
    everything = start(site)
    submitted = 0
    for number in range(1, KILLS + 1):
        done = site.ends()
        for worker_type in ("good", "better"):
            following = submitted + WORKITEMS_A_KILL // 2
            work.submit_numbers(range(submitted, following), worker_type, seconds=0.003)
            submitted = following
        site.wait_for_ends(done + RUNS_A_KILL, 90, everything.output)
        if number % KILLS_OF_UP:
            kill(chance.choice(tree(everything.pid)[1:]))
        else:
            everything.kill()
            everything.assert_nothing_left()
            everything = start(site)
    work.assert_all_numbers(range(submitted), 120)
    work.wait_until_empty(*QUEUES)
    assert everything.stop() == 0
    everything.assert_nothing_left()
    assert [work.foreign.depth(queue) for queue in QUEUES] == [0, 0, 0]  # nothing was unacknowledged


def start(site):
    """Start everything; `taskqueue up` starts again whatever dies below it."""
    everything = site.start("up", "-c", str(site.config))
    everything.wait_for("ready: dispatcher runs, workerpool runs")
    return everything
