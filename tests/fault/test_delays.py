"""Workitems that wait in the broker when it goes down, and retries when a pool dies."""

import json
import os
import signal
import time

import pytest
from support.node import Node
from support.processes import kill
from support.site import consumers
from support.waiting import wait_until


def stop_in_order(broker):
    os.kill(broker.pid, signal.SIGTERM)
    wait_until(lambda: not broker.alive, 30, "the broker's end")


@pytest.mark.parametrize("go_down", [stop_in_order, Node.kill_settled])
def test_delayed_workitems_outlive_the_broker(site, work, broker, go_down):
    site.dispatcher("[good]\nworkers: 1")
    site.pool()
    due = {"x-taskqueue-due": time.time() + 9}  # all are to be in the delay queue of 5 s at one time
    bodies = (json.dumps({"number": number}) for number in range(20))
    work.foreign.publish_many(bodies, type="good", application_headers=due)
    wait_until(lambda: work.foreign.depth("taskqueue_delay_5") == 20)
    wait_until(lambda: work.foreign.depth("taskqueue") == 0)
    go_down(broker)
    broker.start()
    work.assert_all_numbers(range(20))
    work.wait_until_empty("taskqueue", "worker_good", "taskqueue_delay_5")


def test_what_has_just_waited_outlives_the_broker(site, work, broker):
    site.dispatcher("[good]\nworkers: 1")
    work.foreign.declare("worker_good")
    for number in range(50):
        headers = {"x-taskqueue-due": time.time() + 0.5}
        work.foreign.publish(str(number), type="good", application_headers=headers)
    wait_until(lambda: work.foreign.depth("worker_good") == 50)
    broker.kill_settled()
    broker.start()
    left = [work.foreign.get("worker_good").body for _ in range(50)]  # a classic delay queue loses nearly all
    assert {int(body) for body in left} == set(range(50))


def test_what_failed_and_crashed_is_still_counted_after_the_consumer_is_killed(site, work):
    pool = site.pool("[stubborn]\nworkers: 1\nretries: 3\nretry_delay: 1\nretry_backoff: 1")
    workitem = work.submit("stubborn", {"error": "ValueError", "times": 9})
    for deaths in range(1, 3):
        site.wait_for_run(workitem, times=deaths)
        (victim,) = consumers(pool)
        kill(victim)
        pool.wait_for("consumer, process", times=deaths)
    assert work.result().status == "failed"
    (kept,) = work.foreign.collect("taskqueue_failed", 1)
    assert kept.headers["x-taskqueue-failures"] == 3
    assert len(kept.headers["x-taskqueue-history"]) == 4
    assert len(site.notes(workitem)) >= 4
