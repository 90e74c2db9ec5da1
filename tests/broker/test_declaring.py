"""Queues that cannot be made, or not by us, or not all at once: others are not held up, nothing is lost."""

import json
import os
import re
import shutil
import time
from contextlib import suppress

import amqp
import pytest
from support.ground import Ground
from support.waiting import wait_until

from taskqueue import AsyncClient, CallCancelled
from taskqueue.broker.topology import DELAYS
from taskqueue.config import AmqpSettings
from taskqueue.control import key
from taskqueue.control.client import Command
from taskqueue.control.directives import Directive
from taskqueue.errors import NoPool

MANY_TASKS = "from taskqueue import task\n" + "".join(
    f"@task\ndef many{number}():\n    return {number}\n" for number in range(30)
)
FEW_TASKS = """
import time
from taskqueue import progress, task

@task
def wait():
    while True:
        time.sleep(0.1)

@task
def walk(steps):
    for step in range(steps):
        progress(step / steps)
    return steps
"""


def later(seconds: float) -> dict[str, float]:
    return {"x-taskqueue-due": time.time() + seconds}


@pytest.fixture
def locked(ground: Ground):
    """The queue of a worker type that another connection has for itself."""
    with amqp_connection(ground.url) as connection:
        connection.channel().queue_declare("worker_locked", exclusive=True, auto_delete=False)
        yield


def amqp_connection(url: str) -> amqp.Connection:
    host, _, vhost = url.partition("@")[2].partition("/")
    user, _, password = url.removeprefix("amqp://").partition("@")[0].partition(":")
    return amqp.Connection(host, user, password, virtual_host=vhost)


def test_what_is_due_later_for_a_queue_that_is_locked_is_rejected_and_holds_up_nobody(
    ground: Ground, locked: None
) -> None:
    for queue in ("taskqueue", "worker_good"):
        ground.foreign.declare(queue)
    headers = later(3600)
    ground.foreign.publish_many(
        (b"%d" % number for number in range(60)), type="locked", application_headers=headers
    )
    ground.foreign.publish(b"other", type="good")
    dispatcher = ground.start("dispatcher", "[dispatcher]\nwindow: 20")

    assert ground.foreign.get("worker_good").body == b"other"
    kept = ground.foreign.collect("taskqueue_rejected", 60)
    assert {message.body for message in kept} == {b"%d" % number for number in range(60)}
    reasons = {message.headers["x-taskqueue-reason"] for message in kept}
    assert len(reasons) == 1
    assert reasons.pop().startswith("queue worker_locked cannot be declared: RESOURCE_LOCKED - ")
    assert dispatcher.stop() == 0
    assert ground.foreign.depth("taskqueue") == 0


def test_types_that_are_new_count_although_their_workitems_are_due_later(ground: Ground) -> None:
    for queue in ("taskqueue", "worker_known"):
        ground.foreign.declare(queue)
    for number in range(50):
        ground.foreign.publish(b"", type=f"new{number}", application_headers=later(5))
    ground.foreign.publish(b"", type="known", application_headers=later(5))
    ground.start("dispatcher", "[dispatcher]\nmax_types: 3")

    kept = ground.foreign.collect("taskqueue_rejected", 47)
    for message in kept:
        queue = "worker_" + message.headers["x-taskqueue-original"]["type"]
        assert message.headers["x-taskqueue-reason"] == (
            f"queue {queue} does not exist, and max_types (3) queues have been created for new types"
        )
    rejected = {message.headers["x-taskqueue-original"]["type"] for message in kept}
    made = [f"worker_new{number}" for number in range(50) if f"new{number}" not in rejected]
    for queue in [*made, "worker_known"]:
        wait_until(lambda queue=queue: ground.foreign.depth(queue) == 1, 20, queue)
    assert [ground.foreign.depth(f"worker_{worker_type}") for worker_type in rejected] == [None] * 47


@pytest.fixture
def few_channels(broker):
    """Have the broker allow eight channels on a new connection."""
    broker.evaluate("application:set_env(rabbit, channel_max, 8)")
    yield
    broker.evaluate("application:set_env(rabbit, channel_max, 2047)")


def test_where_channels_are_few_queues_are_made_one_after_the_other(
    few_channels: None, ground: Ground
) -> None:
    ground.foreign.declare("taskqueue")
    for number in range(60):
        headers = later(1) if number % 3 == 0 else {}
        ground.foreign.publish(b"", type=f"new{number % 30}", application_headers=headers)
    dispatcher = ground.start("dispatcher")

    for number in range(30):
        wait_until(lambda number=number: ground.foreign.depth(f"worker_new{number}") == 2, what=number)
    assert "channel_max" not in dispatcher.output()


def work(ground: Ground, tasks: str, **options: str):
    path = ground.directory / "tasks.py"
    path.write_text(tasks)
    return ground.work_anew(path, "-n", "1", **options)


def test_tasks_for_which_the_broker_allows_no_channel_wait_and_the_limit_is_named(
    few_channels: None, ground: Ground
) -> None:
    pool = work(ground, MANY_TASKS, ready="ready: 1 worker in 1 group")
    with AsyncClient(ground.url, direct=True) as client:
        assert client.many0().result(20) == 0
    assert pool.output().count("raise channel_max") == 1, pool.output()
    assert "needs 32 channels, but the broker allows 8 on a connection" in pool.output()
    (unserved,) = re.findall(r"not serving (.*): no free channel", pool.output())
    assert set(unserved.split(", ")) == {f"many{number}" for number in range(30)} - served(ground)
    assert f"serves {len(served(ground))} of 30 worker types: channel_max of the broker" in pool.output()
    assert pool.stop() == 0


def served(ground: Ground) -> set[str]:
    """Return the tasks that the broker has a consumer for."""
    with amqp_connection(ground.url) as connection:
        channel = connection.channel()
        return {
            task
            for task in (f"many{number}" for number in range(30))
            if channel.queue_declare(f"worker_{task}", passive=True).consumer_count
        }


# --- without the right to make anything ---

QUEUES = [
    "taskqueue",
    "taskqueue_rejected",
    "taskqueue_failed",
    "results",
    "worker_echo",
    "worker_evaluate",
    "worker_wait",
    "worker_walk",
]


#: What each may write and read, as docs/operations.md has it.
RIGHTS = {
    "dispatcher": (
        "^(amq[.]default|taskqueue_.*|worker_.*)$",
        "^(taskqueue|taskqueue_schedules|taskqueue_claims|amq[.]gen-.*)$",
    ),
    "pool": (
        "^(amq[.]default|amq[.]gen-.*|taskqueue_.*|results)$",
        "^(worker_.*|amq[.]gen-.*|taskqueue_cancel|taskqueue_control.*|taskqueue_lease_.*)$",
    ),
    "client": ("^(amq[.]default|taskqueue_cancel)$", "^$"),
    "ps": ("^(amq[.]default|taskqueue_control)$", "^$"),
    "pause": ("^(amq[.]default|taskqueue_control)$", "^taskqueue_control_register$"),
}


@pytest.fixture
def restricted(ground: Ground, broker):
    """Return what makes a broker user with some rights, everything being declared; it returns its URL."""

    def restricted(user: str, *, configure: str = "") -> str:
        broker.evaluate(f'rabbit_auth_backend_internal:add_user(<<"{user}">>, <<"secret">>, <<"tests">>)')
        made.append(user)
        vhost = ground.url.rpartition("/")[2]
        rights = ", ".join(f'<<"{right}">>' for right in (configure, *RIGHTS[user]))
        granted = f'<<"{user}">>, <<"{vhost}">>, {rights}, <<"tests">>'
        broker.evaluate(f"rabbit_auth_backend_internal:set_permissions({granted})")
        return f"amqp://{user}:secret@" + ground.url.rpartition("@")[2]

    made: list[str] = []

    for queue in QUEUES:
        ground.foreign.declare(queue)
    declare_ladder(ground)
    lone = {"x-queue-type": "quorum", "x-single-active-consumer": True}
    ground.foreign.declare("taskqueue_schedules", arguments=lone)
    bounded = {"x-max-length": 50_000, "x-overflow": "reject-publish"}
    ground.foreign.declare("taskqueue_claims", arguments=lone | bounded)
    ground.foreign._do(
        lambda channel: channel.exchange_declare(
            "taskqueue_cancel", "fanout", durable=True, auto_delete=False
        )
    )
    yield restricted
    for user in made:
        broker.evaluate(f'rabbit_auth_backend_internal:delete_user(<<"{user}">>, <<"tests">>)')


def declare_ladder(ground: Ground) -> None:
    for step in DELAYS:
        name = f"taskqueue_delay_{step:g}"
        arguments = {
            "x-queue-type": "quorum",
            "x-message-ttl": int(step * 1000),
            "x-dead-letter-exchange": "",
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }
        ground.foreign.declare(name, arguments=arguments)
        ground.foreign.bind(name)


def test_retries_and_delays_work_without_the_right_to_make_anything(ground: Ground, restricted) -> None:
    dispatcher = ground.start("dispatcher", url=restricted("dispatcher"))
    config = (
        "[DEFAULT]\nworkers: 0\n[evaluate]\nworkers: 1\nretries: 1\nretry_delay: 0.3\n[echo]\nworkers: 1\n"
    )
    pool = ground.start("workerpool", config, url=restricted("pool"))
    ground.foreign.publish(b"1/0", type="evaluate", content_type="text/plain", message_id="bad")
    ground.foreign.publish(b"5", type="echo", application_headers=later(1.2))

    done = {message.body for message in ground.foreign.collect("results", 2)}
    assert b"5" in done
    kept = ground.foreign.get("taskqueue_failed")
    assert kept.headers["x-taskqueue-attempt"] == 2
    assert [dispatcher.stop(), pool.stop()] == [0, 0]
    assert "leads 0 schedules" in dispatcher.output()
    assert "cannot be declared" not in dispatcher.output() + pool.output()


def test_without_the_right_to_read_it_there_is_no_schedule_and_one_line_in_the_log(
    ground: Ground, restricted, monkeypatch
) -> None:
    monkeypatch.setitem(RIGHTS, "dispatcher", (RIGHTS["dispatcher"][0], "^taskqueue$"))
    dispatcher = ground.start("dispatcher", url=restricted("dispatcher"))
    refused = "the broker closed the channel of queue taskqueue_schedules: "
    dispatcher.wait_for(refused)
    ground.foreign.publish(b"5", type="echo", application_headers=later(3))  # after two more attempts
    ground.foreign.get("worker_echo")
    assert dispatcher.output().count(refused) == 1


def test_administrators_give_commands_where_only_queues_of_ones_own_may_be_made(
    ground: Ground, restricted
) -> None:
    stream = {
        "x-queue-type": "stream",
        "x-max-length-bytes": 20_000_000,
        "x-stream-max-segment-size-bytes": 5_000_000,
    }
    ground.foreign.declare("taskqueue_control_register", arguments=stream)
    exchange = {"type": "fanout", "durable": True, "auto_delete": False}
    ground.foreign._do(lambda channel: channel.exchange_declare("taskqueue_control", **exchange))
    place = ground.directory / "key"
    place.write_text("k" * 43)
    place.chmod(0o400)
    if os.geteuid() == 0:
        shutil.chown(place, "taskqueue")
    config = f"[workerpool]\ncontrol_key: {place}\n[DEFAULT]\nworkers: 0\n[echo]\nworkers: 1\n"
    pool = ground.start("workerpool", config, url=restricted("pool", configure="^amq[.]gen-"))

    urls = {user: restricted(user) for user in ("ps", "pause")}

    def command(user: str, timeout: float = 5) -> Command:
        return Command(AmqpSettings.from_url(urls[user]), key.read(place), timeout=timeout)

    def answers() -> int:
        with suppress(NoPool):
            return len(command("ps", 0.5).ask().pools)
        return 0

    wait_until(answers)
    pause = Directive("root@web1", 0.0)
    (paused,) = command("pause").change(lambda found: found.with_pause("echo", pause)).pools
    assert paused["orders"]["paused"] == ["echo"]
    assert "ACCESS_REFUSED" not in pool.output()


@pytest.mark.parametrize("configure", ["", "^amq[.]gen-"])
def test_unique_workitems_wait_with_one_line_in_the_log_until_answers_have_a_queue(
    ground: Ground, restricted, configure: str
) -> None:
    dispatcher = ground.start("dispatcher", url=restricted("dispatcher", configure=configure))
    unique = {"x-taskqueue-unique": "key"}
    ground.foreign.publish(b"1", type="echo", application_headers=unique)
    if configure:
        assert ground.foreign.get("worker_echo", 20).body == b"1"
        return
    refused = "unique workitems wait: no queue for the keeper's answers: "
    dispatcher.wait_for(refused)
    ground.foreign.publish(b"2", type="echo")
    assert ground.foreign.get("worker_echo", 20).body == b"2"
    assert dispatcher.output().count(refused) == 1


def test_a_call_is_cancelled_where_only_queues_of_ones_own_may_be_made(ground: Ground, restricted) -> None:
    pool = work(ground, FEW_TASKS, url=restricted("pool", configure="^amq[.]gen-"))
    with AsyncClient(restricted("client"), direct=True) as client:
        call = client.wait()
        wait_until(lambda: call.status() == "RUNNING")
        call.cancel()
        with pytest.raises(CallCancelled):
            call.result(20)
    assert "cannot listen" not in pool.output()


def test_who_may_make_no_queue_of_his_own_works_and_says_that_he_cannot_cancel(
    ground: Ground, restricted
) -> None:
    pool = work(ground, FEW_TASKS, url=restricted("pool"))
    request = b'{"jsonrpc": "2.0", "method": "walk", "params": [1], "id": 1}'
    ground.foreign.publish(request, "worker_walk")
    assert json.loads(ground.foreign.get("results").body)["result"] == 1
    assert pool.output().count("cannot consume from exchange taskqueue_cancel: ACCESS_REFUSED") == 1


def test_a_ladder_that_may_not_be_made_is_the_reason_why_a_workitem_fails(ground: Ground, restricted) -> None:
    ground.foreign.delete("taskqueue_delay_0.25")
    ground.foreign._do(lambda channel: channel.exchange_delete("taskqueue_delay_0.25"))
    ground.start("dispatcher", url=restricted("dispatcher"))
    config = "[DEFAULT]\nworkers: 0\n[evaluate]\nworkers: 1\nretries: 1\nretry_delay: 0.3\n"
    ground.start("workerpool", config, url=restricted("pool"))
    ground.foreign.publish(b"1/0", type="evaluate", content_type="text/plain", message_id="m")

    error = json.loads(ground.foreign.get("results").body)["error"]
    assert error["type"] == "RunRefused"
    assert error["message"].startswith(
        "the broker refuses its next run: queue taskqueue_delay_0.25: ACCESS_REFUSED - "
    )
    kept = ground.foreign.get("taskqueue_failed")
    assert kept.properties["message_id"] == "m"
    assert kept.headers["x-taskqueue-history"][0]["error"].startswith("ZeroDivisionError")
