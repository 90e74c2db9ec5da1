"""Workitems that are not to run yet: they wait in the broker, in delay queues with fixed times."""

import json
import time
from collections.abc import Callable
from typing import Any

import amqp
import pytest
from support.foreign import Foreign
from support.ground import Ground
from support.node import Node
from support.processes import run_cli
from support.waiting import wait_until

from taskqueue.broker.topology import DELAYS

CONFIG = "[DEFAULT]\nworkers: 0\n[echo]\nworkers: 1\n[tell]\nworkers: 1\n"
SAFE = {"x-queue-type": "quorum", "x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
EARLY = 0.06  # seconds; nearer than that a workitem runs


def start(ground: Ground) -> None:
    ground.start("dispatcher")
    ground.start("workerpool", CONFIG)


def publish(ground: Ground, delay: Any, worker_type: str = "echo", queue: str = "taskqueue") -> float:
    """Publish a workitem whose body is its delay; return when it is due."""
    due = time.time() + delay
    ground.foreign.publish(
        json.dumps(delay), queue, type=worker_type, application_headers={"x-taskqueue-due": due}
    )
    return due


def started(result: amqp.Message) -> float:
    return float(result.headers["x-taskqueue-started"])


def collect(ground: Ground, number: int) -> list[Any]:
    """Return the bodies of so many results in the order in which they were published."""
    return [json.loads(message.body) for message in ground.foreign.collect("results", number)]


def delete_exchange(foreign: Foreign, name: str) -> None:
    foreign._do(lambda channel: channel.exchange_delete(name))


def test_workitems_run_in_the_order_of_their_delays_and_none_early(ground: Ground) -> None:
    start(ground)
    # The first passes the delay queue of a second twice, which RabbitMQ must not take for a cycle.
    due = {delay: publish(ground, delay) for delay in (2.6, 0.3, 1.2)}
    results = ground.foreign.collect("results", 3)
    assert [json.loads(result.body) for result in results] == [0.3, 1.2, 2.6]
    for result in results:
        assert started(result) >= due[json.loads(result.body)] - EARLY
        assert result.headers["x-taskqueue-attempt"] == 1
    assert [ground.foreign.depth(f"taskqueue_delay_{step}") for step in ("0.25", "1")] == [0, 0]


def test_a_long_delay_does_not_hold_up_a_short_one_on_the_same_rung(ground: Ground) -> None:
    start(ground)
    publish(ground, 4.9)
    wait_until(lambda: ground.foreign.depth("taskqueue_delay_1") == 1)
    publish(ground, 1.1)
    assert collect(ground, 2) == [1.1, 4.9]


def test_two_types_wait_on_the_same_rungs(ground: Ground) -> None:
    start(ground)
    for worker_type in ("echo", "tell", "echo", "tell"):
        publish(ground, 1.3, worker_type)
    results = ground.foreign.collect("results", 4)
    assert sorted(result.properties["type"] for result in results) == ["echo", "echo", "tell", "tell"]
    assert ground.foreign.depth("taskqueue_failed") is None


def test_what_comes_straight_to_a_worker_before_it_is_due_waits_too(ground: Ground) -> None:
    start(ground)
    ground.foreign.declare("worker_echo")
    due = publish(ground, 0.8, queue="worker_echo")
    assert started(ground.foreign.get("results")) >= due - EARLY


def test_every_rung_is_a_quorum_queue_with_a_fanout_exchange(ground: Ground, broker: Node) -> None:
    unlimited = {"x-delivery-limit": -1} if broker.version >= (4,) else {}
    ground.start("dispatcher")
    wait_until(lambda: ground.foreign.consumers("taskqueue"))
    for step in DELAYS:
        publish(ground, step * 1.2 + 0.1)
    for step in DELAYS:
        name = f"taskqueue_delay_{step:g}"
        wait_until(lambda name=name: ground.foreign.depth(name) is not None, what=name)
        arguments = {"x-message-ttl": int(step * 1000), "x-dead-letter-exchange": "", **SAFE, **unlimited}
        ground.foreign.declare(name, arguments=arguments)  # other ones would be refused
        ground.foreign._do(
            lambda channel, name=name: channel.exchange_declare(
                name, "fanout", durable=True, auto_delete=False
            )
        )
    wait_until(lambda: ground.foreign.depth("taskqueue_delay_3600") == 1)


def test_a_workitem_for_a_type_without_a_queue_is_not_lost(ground: Ground) -> None:
    ground.start("dispatcher")
    wait_until(lambda: ground.foreign.consumers("taskqueue"))
    publish(ground, 0.3, "nobody")
    wait_until(lambda: ground.foreign.depth("worker_nobody") == 1)
    kept = ground.foreign.get("worker_nobody")
    assert json.loads(kept.body) == 0.3


@pytest.mark.parametrize(
    ("queue", "delete"),
    [("taskqueue", delete_exchange), ("worker_echo", Foreign.delete)],
    ids=["dispatcher", "consumer"],
)
def test_a_rung_that_is_deleted_is_made_again(
    ground: Ground, queue: str, delete: Callable[[Foreign, str], None]
) -> None:
    start(ground)
    ground.foreign.declare("worker_echo")
    publish(ground, 0.3, queue=queue)
    ground.foreign.get("results")
    delete(ground.foreign, "taskqueue_delay_0.25")
    publish(ground, 0.4, queue=queue)
    assert collect(ground, 1) == [0.4]


@pytest.mark.parametrize("garbage", ["tomorrow", True, -1.5, {"a": "table"}])
def test_a_due_header_that_is_garbage_delays_nothing(ground: Ground, garbage: object) -> None:
    start(ground)
    ground.foreign.publish(b"1", type="echo", application_headers={"x-taskqueue-due": garbage})
    assert collect(ground, 1) == [1]


def test_submit_with_a_delay_says_when_the_workitem_is_due(ground: Ground) -> None:
    before = time.time()
    done = run_cli("submit", "echo", "1", "--delay", "90.5", env={"TASKQUEUE_AMQP": ground.url})
    assert (done.returncode, done.stderr) == (0, "")
    due = ground.foreign.get("taskqueue").headers["x-taskqueue-due"]
    assert before + 90.5 <= due <= time.time() + 90.5


def test_submit_waits_for_the_result_of_a_workitem_with_a_delay(ground: Ground) -> None:
    start(ground)
    before = time.time()
    done = run_cli(
        "submit",
        "echo",
        "1",
        "--delay",
        "1.2",
        "--wait",
        "--timeout",
        "20",
        env={"TASKQUEUE_AMQP": ground.url},
    )
    assert (done.returncode, done.stdout) == (0, "1\n")
    assert time.time() >= before + 1.2 - EARLY


@pytest.mark.parametrize("queue", ["taskqueue", "worker_echo"])
@pytest.mark.parametrize("due", [1e300, 1_800_000_000_000])
def test_what_is_due_in_more_than_ten_years_is_rejected(ground: Ground, queue: str, due: float) -> None:
    start(ground)
    ground.foreign.declare("worker_echo")
    headers = {"x-taskqueue-due": due}
    ground.foreign.publish(b"1", queue, type="echo", message_id="late", application_headers=headers)
    wait_until(lambda: ground.foreign.depth("taskqueue_rejected"))
    kept = ground.foreign.get("taskqueue_rejected")
    assert kept.properties["message_id"] == "late"
    assert "more than ten years ahead; expected seconds since 1970" in kept.headers["x-taskqueue-reason"]


@pytest.mark.parametrize("option", ["--delay", "--timeout"])
@pytest.mark.parametrize("number", ["-1", "inf", "nan", "1e300", "1800000000000", "soon"])
def test_a_number_of_seconds_that_is_none_is_refused(ground: Ground, option: str, number: str) -> None:
    done = run_cli("submit", "echo", "1", "--wait", option, number, env={"TASKQUEUE_AMQP": ground.url})
    assert done.returncode == 2
    assert f"'{option}': expected a number of seconds from 0 to 315576000, found '{number}'." in done.stderr
