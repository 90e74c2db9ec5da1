"""Actions that RabbitMQ 4.1 to 4.3 refuse or change (docs/reliability.md) are done on no release."""

import re
from collections.abc import Iterator

import pytest
from support.ground import Ground
from support.node import Node
from support.processes import Daemon
from support.waiting import wait_until

from taskqueue import AsyncClient

#: How many queues there are, and those that are neither durable nor some connection's own.
QUEUES = """
    begin
        All = rabbit_amqqueue:list(<<"{vhost}">>),
        {{length(All), [Q || Q <- All, not amqqueue:is_durable(Q), amqqueue:get_exclusive_owner(Q) =:= none]}}
    end
"""
#: Of each consumer that acknowledges: how many deliveries it may have before it does so; 0 is any number.
PREFETCHES = """
    [integer_to_list(proplists:get_value(prefetch_count, Each))
     || Each <- rabbit_amqqueue:consumers_all(<<"{vhost}">>), proplists:get_value(ack_required, Each)]
"""
#: Of each connection: the size of its frames, in bytes, on which client and broker have agreed.
FRAMES = """
    [integer_to_list(proplists:get_value(frame_max, Each))
     || Each <- rabbit_networking:connection_info_all([vhost, frame_max]),
        proplists:get_value(vhost, Each) =:= <<"{vhost}">>]
"""

JOBS = "def get_jobs():\n    return range(10)\ndef handle_job(job):\n    pass\n"


def numbers(broker: Node, expression: str, ground: Ground) -> list[int]:
    """Evaluate what comes to a list of numbers, written as strings, for the ground's virtual host."""
    return [
        int(each)
        for each in re.findall(r'"(\d+)"', broker.evaluate(expression.format(vhost=vhost_of(ground))))
    ]


def vhost_of(ground: Ground) -> str:
    return ground.url.rpartition("/")[2]


@pytest.fixture
def busy(ground: Ground, broker: Node) -> Iterator[Ground]:
    """A ground on which everything that declares a queue or consumes has done so."""
    ground.start("dispatcher")
    pool = ground.start("workerpool", "[remote]\nlease_after: 1\n[echo]\n[DEFAULT]\nworkers: 1\n")
    pool.wait_for("takes work", times=2)
    with AsyncClient(ground.url, name="someone") as named, AsyncClient(ground.url) as client:
        named.wait(str(ground.open / "gate"))
        client.wait(str(ground.open / "other gate")).cancel()
        ground.foreign.publish("1", type="echo", content_type="application/json")
        ground.foreign.get("results")
        wait_until(lambda: any("lease" in name for name in broker.queues(vhost_of(ground))))
        jobs = ground.directory / "jobs.py"
        jobs.write_text(JOBS)
        command = ground.command("feed", str(jobs), "--state", str(jobs.with_suffix(".state")))
        feed = Daemon(command, ground.directory, env=ground.environment)
        wait_until(
            lambda: any("receipts" in name for name in broker.queues(vhost_of(ground))), what=feed.output
        )
        yield ground
        feed.clean_up()


def test_every_queue_is_durable_or_belongs_to_a_connection(busy: Ground, broker: Node) -> None:
    found = re.match(r"\{(\d+), (.*)\}$", broker.evaluate(QUEUES.format(vhost=vhost_of(busy))))
    assert found is not None
    assert int(found[1]) > 4
    assert found[2] == "[]"


def test_every_consumer_has_a_prefetch_of_its_own(busy: Ground, broker: Node) -> None:
    found = numbers(broker, PREFETCHES, busy)
    assert len(found) > 4
    assert 0 not in found


def test_no_connection_asks_for_smaller_frames_than_are_allowed(busy: Ground, broker: Node) -> None:
    found = numbers(broker, FRAMES, busy)
    assert len(found) > 4
    assert min(found) >= 8192


@pytest.fixture
def small_frames(broker: Node) -> Iterator[None]:
    """A broker whose frames have 8,192 bytes, the least that RabbitMQ 4.1 and later allow."""
    before = broker.evaluate("element(2, application:get_env(rabbit, frame_max))")
    broker.evaluate("application:set_env(rabbit, frame_max, 8192)")
    yield
    broker.evaluate(f"application:set_env(rabbit, frame_max, {before})")


def test_what_is_larger_than_the_smallest_frames_passes_whole(
    small_frames: None, ground: Ground, broker: Node
) -> None:
    ground.start("dispatcher")
    ground.start("workerpool", "[DEFAULT]\nworkers: 0\n[echo]\nworkers: 1\n")
    body = b"x" * 100_000
    ground.foreign.publish(body, type="echo", content_type="application/octet-stream")
    assert ground.foreign.get("results").body == body
    assert set(numbers(broker, FRAMES, ground)) == {8192}
