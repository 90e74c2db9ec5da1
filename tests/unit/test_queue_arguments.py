"""What queues are declared with; the arguments' names are RabbitMQ's (https://www.rabbitmq.com/docs/quorum-queues)."""

import pytest

from taskqueue.broker.topology import FAILED, TASKQUEUE, Queue, declared_arguments, rung, worker_queue
from taskqueue.config import AmqpSettings

ADDRESS = AmqpSettings((("rabbit", 5672),))
QUORUM = AmqpSettings((("rabbit", 5672),), queue_type="quorum")
ALL_QUORUM = AmqpSettings((("rabbit", 5672),), queue_type="quorum", shared_queue_type="quorum")
RUNG = {"x-message-ttl": 5000, "x-dead-letter-exchange": ""}
LOSSLESS = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}


@pytest.mark.parametrize("name", [TASKQUEUE, worker_queue("a"), "results"])
def test_shared_queues_have_no_arguments_unless_a_type_is_asked_for(name):
    assert declared_arguments(Queue(name), QUORUM, 3) == {}
    assert declared_arguments(Queue(name), ALL_QUORUM, 3) == {"x-queue-type": "quorum"}


def test_internal_queues_have_the_type_that_is_asked_for():
    classic = AmqpSettings((("rabbit", 5672),), queue_type="classic")
    assert declared_arguments(Queue(FAILED), ADDRESS, 3) == {}
    assert declared_arguments(Queue(FAILED), classic, 4) == {"x-queue-type": "classic"}
    assert declared_arguments(Queue(FAILED), QUORUM, 3) == {"x-queue-type": "quorum"}
    assert declared_arguments(rung(5), classic, 3) == {"x-queue-type": "classic", **RUNG}


def test_a_quorum_queue_drops_nothing_for_being_delivered_too_often():
    limitless = {"x-queue-type": "quorum", "x-delivery-limit": -1}
    assert declared_arguments(Queue(FAILED), QUORUM, 4) == limitless
    assert declared_arguments(Queue(TASKQUEUE), ALL_QUORUM, 4) == limitless


@pytest.mark.parametrize("broker_major", [3, 4])
def test_a_quorum_queue_keeps_what_it_dead_letters_until_that_is_confirmed(broker_major):
    assert declared_arguments(rung(5), QUORUM, broker_major) == {"x-queue-type": "quorum", **RUNG, **LOSSLESS}
    assert declared_arguments(rung(5), ADDRESS, broker_major) == RUNG
