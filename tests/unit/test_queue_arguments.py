"""The arguments of queues; their names are RabbitMQ's (https://www.rabbitmq.com/docs/quorum-queues)."""

import pytest

from taskqueue.broker.topology import (
    FAILED_QUEUE,
    TASKQUEUE,
    Queue,
    declared_arguments,
    delay_queue,
    lease_queue,
    worker_queue,
)
from taskqueue.config import AmqpSettings

ADDRESS = AmqpSettings((("rabbit", 5672),))
CLASSIC = AmqpSettings((("rabbit", 5672),), queue_type="classic")
QUORUM = AmqpSettings((("rabbit", 5672),), queue_type="quorum")
ALL_QUORUM = AmqpSettings((("rabbit", 5672),), queue_type="quorum", shared_queue_type="quorum")
SAFE = {"x-queue-type": "quorum", "x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
DELAY_QUEUE = {"x-message-ttl": 5000, "x-dead-letter-exchange": "", **SAFE}


@pytest.mark.parametrize("name", [TASKQUEUE, worker_queue("a"), "results"])
def test_shared_queues_have_no_arguments_unless_a_type_is_asked_for(name):
    assert declared_arguments(Queue(name), QUORUM, 3) == {}
    assert declared_arguments(Queue(name), ALL_QUORUM, 3) == {"x-queue-type": "quorum"}


def test_internal_queues_have_the_type_that_is_asked_for():
    assert declared_arguments(Queue(FAILED_QUEUE), ADDRESS, 3) == {}
    assert declared_arguments(Queue(FAILED_QUEUE), CLASSIC, 4) == {"x-queue-type": "classic"}
    assert declared_arguments(Queue(FAILED_QUEUE), QUORUM, 3) == {"x-queue-type": "quorum"}


def test_a_quorum_queue_drops_nothing_for_being_delivered_too_often():
    limitless = {"x-queue-type": "quorum", "x-delivery-limit": -1}
    assert declared_arguments(Queue(FAILED_QUEUE), QUORUM, 4) == limitless
    assert declared_arguments(Queue(TASKQUEUE), ALL_QUORUM, 4) == limitless


@pytest.mark.parametrize("amqp", [ADDRESS, CLASSIC, QUORUM])
def test_a_rung_is_a_quorum_queue_and_keeps_a_message_until_the_next_queue_has_it(amqp):
    assert declared_arguments(delay_queue(5), amqp, 3) == DELAY_QUEUE
    assert declared_arguments(delay_queue(5), amqp, 4) == {**DELAY_QUEUE, "x-delivery-limit": -1}


def test_a_lease_goes_back_to_work_and_lasts_longer_than_what_is_in_it():
    assert SAFE.items() <= declared_arguments(lease_queue("a", 5), QUORUM, 3).items()
    lease = declared_arguments(lease_queue("a", 5), ADDRESS, 3)
    assert not SAFE.items() & lease.items()
    assert (lease["x-message-ttl"], lease["x-expires"]) == (5000, 50_000)
    assert (lease["x-dead-letter-exchange"], lease["x-dead-letter-routing-key"]) == ("", "worker_a")
