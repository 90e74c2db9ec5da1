"""`taskqueue failed purge` and `rejected purge` on the real broker, and reading again and again."""

from typing import Any

import amqp
import pytest
from support.deadletters import (
    FAILED,
    REJECTED,
    ids,
    keep,
    keep_in_order,
    keep_kinds,
    keep_many,
    left,
    listed,
    output,
    run,
    value,
)
from support.foreign import Foreign
from support.waiting import wait_until

from taskqueue import deadletters
from taskqueue.config import AmqpSettings
from taskqueue.private_broker.rabbitmq import USER


def test_a_purge_removes_what_it_is_told_to_and_nothing_else(amqp_url: str, foreign: Foreign) -> None:
    keep_kinds(foreign)
    assert output(amqp_url, "failed", "purge", "--yes", "--type", "digest", "--error", "Key") == "purged 1\n"
    assert listed(amqp_url) == ["a", "b"]
    assert value(amqp_url, "failed", "purge", "--yes") == {"purged": 2}
    assert foreign.depth(FAILED) == 0


def test_a_purge_asks_first(amqp_url: str, foreign: Foreign) -> None:
    keep_many(foreign, 2)
    done = run(amqp_url, "failed", "purge", input="n\n")
    assert (done.returncode, done.stdout.strip()) == (1, "")  # older versions of click prompt with a space
    assert "Remove all failed messages for good? [y/N]" in done.stderr
    done = run(amqp_url, "failed", "purge", "--error", "no", input="y\n")
    assert done.stdout.strip() == "purged 2"


def test_a_purge_of_ids_removes_these_or_if_one_is_unknown_none(amqp_url: str, foreign: Foreign) -> None:
    keep_many(foreign, 4)
    done = run(amqp_url, "failed", "purge", "--yes", "id0001", "nope")
    assert (done.returncode, done.stderr) == (1, "taskqueue: no message has an id that begins with 'nope'\n")
    assert output(amqp_url, "failed", "purge", "--yes", "id0001", "id0003") == "purged 2\n"
    done = run(amqp_url, "failed", "purge", "id0002", "--type", "digest")
    assert (done.returncode, "expected either IDs, or --type and --error" in done.stderr) == (2, True)
    assert left(foreign, 2) == ["id0000", "id0002"]


def test_many_of_very_many_are_purged_and_the_rest_keep_their_order(amqp_url: str, foreign: Foreign) -> None:
    foreign.declare(FAILED)
    for kind in ("odd", "even") * 3:
        foreign.publish_many((kind for _ in range(1_000)), FAILED, type=kind, message_id=kind)
    assert value(amqp_url, "failed", "purge", "--yes", "--type", "odd") == {"purged": 3_000}
    assert left(foreign, 3_000) == ["even"] * 3_000


def test_failed_and_rejected_are_told_apart(amqp_url: str, foreign: Foreign) -> None:
    foreign.declare(FAILED)
    foreign.declare(REJECTED)
    keep(foreign, "f")
    keep(foreign, "r", where=REJECTED, queue="taskqueue")
    assert [each["id"] for each in value(amqp_url, "rejected", "list")] == ["r"]
    assert output(amqp_url, "rejected", "retry", "--all") == "retried 1\n"
    assert ids([foreign.get("taskqueue")]) == ["r"]
    assert left(foreign, 1) == ["f"]


@pytest.mark.parametrize("read", ["browse", "purge", "retry"])
def test_what_is_kept_outlives_being_read_more_often_than_a_quorum_queue_allows(foreign, amqp_url, read):
    foreign.declare(
        FAILED, arguments={"x-queue-type": "quorum"}
    )  # as an earlier RabbitMQ, or a user, made it
    keep_in_order(foreign, 3)
    before = {message.properties["message_id"]: message for message in read_in_place(foreign)}
    for _ in range(25):  # RabbitMQ 4 drops it at the 21st return
        getattr(deadletters, read)(AmqpSettings.from_url(amqp_url), FAILED, lambda _kept: False)
    wait_until(lambda: foreign.depth(FAILED) == 3)
    after = {message.properties["message_id"]: message for message in read_in_place(foreign)}
    assert {name: (each.body, headers_of(each)) for name, each in after.items()} == {
        name: (each.body, headers_of(each)) for name, each in before.items()
    }


def test_who_may_not_publish_anew_what_is_read_too_often_is_told(foreign, broker, vhost, amqp_url, caplog):
    foreign.declare(FAILED, arguments={"x-queue-type": "quorum"})
    keep_in_order(foreign, 1)
    foreign.wear(FAILED, 12)
    reader = broker.add_user("reader", vhost)
    broker.evaluate(
        f'rabbit_auth_backend_internal:set_permissions(<<"reader">>, <<"{vhost}">>,'
        ' <<"^$">>, <<"^$">>, <<".*">>, <<"tests">>)'
    )
    seen: list[str] = []
    deadletters.browse(AmqpSettings.from_url(reader), FAILED, lambda each: seen.append(each.id))
    broker.delete_user("reader")
    assert (seen, foreign.depth(FAILED)) == (["id0000"], 1)
    [line] = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert line.startswith(
        "messages near the delivery limit of queue taskqueue_failed cannot be published again: "
    )
    assert line.endswith("unless a policy of the queue sets delivery-limit to -1")


def read_in_place(foreign: Foreign) -> list[amqp.Message]:
    """Return the kept messages; they are put back."""
    messages = foreign.collect(FAILED, foreign.depth(FAILED) or 0)
    for message in messages:
        fields = {name: value for name, value in message.properties.items() if name != "user_id"}
        foreign.publish(message.body, FAILED, **fields, user_id=USER)
    return messages


def headers_of(message: amqp.Message) -> dict[str, Any]:
    """Return the headers of a message without those of its queue; RabbitMQ 4.3 has one more."""
    counts = ("x-delivery-count", "x-acquired-count")
    return {name: value for name, value in message.headers.items() if name not in counts}
