"""`taskqueue failed retry` and `rejected retry` on the real broker."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.deadletters import FAILED, REJECTED, ids, keep, keep_kinds, keep_many, left, output, run, value
from support.foreign import Foreign
from support.ground import Ground, peak_of
from support.node import Node
from support.processes import Daemon, cli
from support.waiting import wait_until

from taskqueue import deadletters
from taskqueue.config import AmqpSettings
from taskqueue.messages.events import Event, Retried, decode

EVENTS = "taskqueue_events"
FULL = {"x-max-length": 1, "x-overflow": "reject-publish"}


def test_a_retried_workitem_goes_back_to_its_queue_as_if_it_had_never_run(
    amqp_url: str, foreign: Foreign
) -> None:
    names = keep_many(foreign, 5, reply_to="asker", correlation_id="c", priority=2)
    assert output(amqp_url, "failed", "retry", "id0001", "id0003") == "retried 2\n"
    assert left(foreign, 3) == [names[0], names[2], names[4]]
    first, second = foreign.collect("worker_digest", 2)
    assert ids([first, second]) == ["id0001", "id0003"]
    assert first.body == "1"
    assert first.headers == {"x-taskqueue-user": "joe", "mine": ["kept", 1.5]}
    expected = {"type": "digest", "message_id": "id0001", "delivery_mode": 2, "reply_to": "asker",
                "correlation_id": "c", "priority": 2}  # fmt: skip
    assert {name: first.properties[name] for name in expected} == expected


@pytest.mark.parametrize(("place", "queue"), [("failed", "worker_digest"), ("rejected", "taskqueue")])
def test_a_retry_is_told_to_the_record_before_the_command_ends(
    amqp_url: str, foreign: Foreign, place: str, queue: str
) -> None:
    foreign.declare(EVENTS)
    foreign.bind(EVENTS)
    where = {"failed": FAILED, "rejected": REJECTED}[place]
    foreign.declare(where)
    for name in ("a", "b"):
        keep(foreign, name, where=where, queue=queue, tenant="north")
    before = time.time()
    assert output(amqp_url, place, "retry", "--all") == "retried 2\n"
    told: list[Event] = []
    while len(told) < 2:
        told += decode(foreign.get(EVENTS).body).events
    assert [type(event) for event in told] == [Retried, Retried]
    for event, name in zip(told, ("a", "b"), strict=True):
        assert before - 1 < event.at < time.time() + 1
        is_routed = int(place == "failed")
        assert event == Retried(name, "digest", event.at, 1700000003.5, is_routed, "north")


def test_if_one_id_is_unknown_none_is_retried(amqp_url: str, foreign: Foreign) -> None:
    keep_many(foreign, 2)
    done = run(amqp_url, "failed", "retry", "id0000", "nope", "never")
    assert (done.returncode, done.stderr) == (
        1,
        (
            "taskqueue: no message has an id that begins with 'nope'\n"
            "taskqueue: no message has an id that begins with 'never'\n"
        ),
    )
    assert left(foreign, 2) == ["id0000", "id0001"]


def test_an_id_that_begins_another_one_is_taken_as_it_is(amqp_url: str, foreign: Foreign) -> None:
    foreign.declare(FAILED)
    for name in ("job10", "job1", "job11"):
        keep(foreign, name)
    assert value(amqp_url, "failed", "retry", "job1") == {"retried": 1}
    assert left(foreign, 2) == ["job10", "job11"]


def test_retries_can_be_chosen_by_type_and_error(amqp_url: str, foreign: Foreign) -> None:
    keep_kinds(foreign)
    assert value(amqp_url, "failed", "retry", "--type", "digest", "--error", "KeyError") == {"retried": 1}
    assert ids([foreign.get("worker_digest")]) == ["c"]
    assert left(foreign, 2) == ["a", "b"]


@pytest.mark.parametrize("arguments", [[], ["a", "--type", "t"], ["--all", "--error", "x"], ["a", "--all"]])
def test_what_to_retry_must_be_said_in_one_way(arguments: list[str]) -> None:
    done = run("amqp://127.0.0.1:1/", "failed", "retry", *arguments)
    assert done.returncode == 2
    assert "expected one of: IDs; --type or --error, or both; --all" in done.stderr


def test_what_somebody_else_has_taken_meanwhile_is_not_waited_for(amqp_url: str, foreign: Foreign) -> None:
    keep_many(foreign, 3)
    amqp = AmqpSettings.from_url(amqp_url)
    assert deadletters.retry(amqp, FAILED, lambda each: each.id != "id0001", at_least=5) == 2
    assert left(foreign, 1) == ["id0001"]


@pytest.fixture
def other_reader(amqp_url: str, foreign: Foreign) -> Iterator[Foreign]:
    """Somebody who has taken the two failed messages, and does not acknowledge them."""
    keep_many(foreign, 2)
    other = Foreign(amqp_url)
    other.hold(FAILED)
    wait_until(lambda: foreign.depth(FAILED) == 0)
    yield other
    other.close()


def test_messages_that_another_reader_gives_back_are_waited_for(
    amqp_url: str, foreign: Foreign, other_reader: Foreign
) -> None:
    amqp = AmqpSettings.from_url(amqp_url)
    with ThreadPoolExecutor(1) as pool:
        retried = pool.submit(deadletters.retry, amqp, FAILED, lambda _: True)
        wait_until(lambda: foreign.consumers(FAILED) == 1)
        other_reader.close()
        assert retried.result(20) == 2
    assert ids(foreign.collect("worker_digest", 2)) == ["id0000", "id0001"]


def test_a_reader_that_keeps_the_messages_is_told(amqp_url: str, other_reader: Foreign) -> None:
    done = run(amqp_url, "failed", "retry", "--all")
    assert (done.returncode, done.stdout) == (0, "retried 0\n")
    assert "another process reads queue taskqueue_failed and has its messages" in done.stderr
    assert other_reader.consumers(FAILED) == 1


def test_many_are_retried_to_queues_that_are_made_for_them(amqp_url: str, foreign: Foreign) -> None:
    foreign.declare(FAILED)
    headers = {"x-taskqueue-queue": "worker_gone"}
    bodies = [b"%d" % each for each in range(5_000)]
    foreign.publish_many(bodies, FAILED, type="gone", application_headers=headers)
    assert value(amqp_url, "failed", "retry", "--all") == {"retried": 5_000}
    assert foreign.depth(FAILED) == 0
    arrived = {message.body for message in foreign.collect("worker_gone", 5_000)}
    assert arrived == set(bodies)


def test_only_a_few_large_ones_are_on_their_way_at_a_time(
    amqp_url: str, foreign: Foreign, daemon: Any
) -> None:
    foreign.declare(FAILED)
    foreign.declare("worker_large", arguments=FULL)
    foreign.publish_many(("x" * 4_000_000 for _ in range(50)), FAILED, type="large")
    retrying: Daemon = daemon(cli("failed", "retry", "--all"), env={"TASKQUEUE_AMQP": amqp_url})
    retrying.wait_for("trying again in 2.0 s")  # for the third time
    assert peak_of(retrying.pid) < 120 << 20  # bytes; the bodies are 200 million


def test_a_retry_that_is_killed_loses_nothing(amqp_url: str, foreign: Foreign, daemon: Any) -> None:
    foreign.declare(FAILED)
    foreign.declare("worker_many")
    number = 6_000
    foreign.publish_many((b"%d" % each for each in range(number)), FAILED, type="many")
    retrying: Daemon = daemon(cli("failed", "retry", "--all"), env={"TASKQUEUE_AMQP": amqp_url})
    wait_until(lambda: (foreign.depth("worker_many") or 0) > 200)
    retrying.kill()
    wait_until(lambda: not foreign.consumers(FAILED))
    stayed, moved = foreign.depth(FAILED), foreign.depth("worker_many")
    assert stayed
    bodies = [message.body for message in foreign.collect(FAILED, stayed)]
    assert [int(body) for body in bodies] == sorted(int(body) for body in bodies)
    bodies += [message.body for message in foreign.collect("worker_many", moved)]
    assert {int(body) for body in bodies} == set(range(number))


def test_nothing_is_acknowledged_before_it_is_confirmed(amqp_url: str, foreign: Foreign, daemon: Any) -> None:
    names = keep_many(foreign, 250)
    foreign.declare("worker_digest", arguments=FULL)
    retrying: Daemon = daemon(cli("failed", "retry", "--all"), env={"TASKQUEUE_AMQP": amqp_url})
    retrying.wait_for("queue worker_digest refused a message", times=249)
    retrying.kill()
    wait_until(lambda: not foreign.consumers(FAILED))
    assert left(foreign, foreign.depth(FAILED) or 0)[-249:] == names[1:]


def test_what_the_broker_refuses_stays_and_is_told(amqp_url: str, foreign: Foreign, broker: Node) -> None:
    foreign.declare(FAILED)
    keep(foreign, "small")
    keep(foreign, "large", "x" * 2_000_000)
    broker.limit_messages(1_000_000)
    try:
        done = run(amqp_url, "failed", "retry", "--all")
    finally:
        broker.limit_messages(16_777_216)
    assert done.returncode == 77
    assert done.stderr.startswith(
        "taskqueue: 1 retried; 1 stay in taskqueue_failed\ntaskqueue: large: the broker refused the message: "
    )
    assert left(foreign, 1) == ["large"]
    assert ids([foreign.get("worker_digest")]) == ["small"]


def test_a_rejected_message_goes_back_to_where_it_came_from(ground: Ground) -> None:
    ground.foreign.declare("taskqueue")
    ground.foreign.declare("later")
    fields = {"content_type": "application/x-odd", "priority": 4, "app_id": "a", "expiration": "600000",
              "delivery_mode": 1}  # fmt: skip
    ground.foreign.publish("body", application_headers={"mine": 1}, **fields)
    dispatcher = ground.start("dispatcher")
    wait_until(lambda: ground.foreign.depth(REJECTED) == 1)
    assert dispatcher.stop() == 0
    [rejected] = value(ground.url, "rejected", "list")
    assert "content type 'application/x-odd' is not one of" in rejected["reason"]
    assert rejected["queue"] == "taskqueue"
    assert rejected["attempts"] is None
    assert rejected["when"] > 1_700_000_000
    assert output(ground.url, "rejected", "retry", rejected["id"]) == "retried 1\n"
    back = ground.foreign.get("taskqueue")
    assert (back.body, back.headers) == ("body", {"mine": 1})
    del fields["expiration"]
    properties = {name: back.properties.get(name) for name in (*fields, "message_id", "expiration")}
    assert properties == fields | {"delivery_mode": 2, "message_id": rejected["id"], "expiration": None}
