"""A million jobs while feeder, workers and broker are killed: each is handled, and few of them twice."""

import random
from collections import Counter

import pytest
from support.processes import kill, tree
from support.waiting import wait_until

SEED = 5
JOBS = 1_000_000
SIZE = 10_000  # jobs out at a time
KILLS = ["feeder", "pool", "broker", "feeder", "pool", "feeder", "broker", "pool", "feeder"]


@pytest.mark.timeout(240)
def test_each_of_a_million_jobs_is_handled_whoever_is_killed(feed, broker):
    chance = random.Random(SEED)
    moments = sorted(chance.sample(range(20_000, JOBS - 20_000), len(KILLS)))
    pool, feeder = feed.work(workers=3), feed.start(f"number={JOBS}")
    for moment, victim in zip(moments, KILLS, strict=True):
        feed.wait_for(moment)
        if victim == "feeder":
            feeder.kill()
            feeder = feed.start(f"number={JOBS}")
        elif victim == "pool":
            kill(chance.choice(tree(pool.pid)[1:]))  # a worker, or their consumer
        else:
            broker.kill_settled()
            broker.start()
    assert feeder.wait(120) == 0, feeder.output()
    handled = feed.handled()
    assert set(range(JOBS)) - handled.keys() == set()
    twice = handled.total() - JOBS
    print(f"{twice} jobs handled once more, {len(KILLS)} kills")
    assert twice <= len(KILLS) * SIZE
    assert feed.saved()["jobs"]["finished"]
    assert pool.stop() == 0


def test_what_a_broker_comes_back_without_is_sent_once_more(feed, broker, foreign):
    feeder = feed.start("number=100")
    wait_until(lambda: foreign.depth("worker_feed_jobs") == 8)
    foreign.purge("worker_feed_jobs")  # as if it had been killed before it had written them down
    broker.kill_settled()
    broker.start()
    feed.work()
    assert feeder.wait(60) == 0, feeder.output()
    assert "no receipts for 8 chunks since the connection was lost; sending them again" in feeder.output()
    assert feed.handled() == Counter(range(100))
