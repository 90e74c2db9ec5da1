"""Messages that are returned as unroutable: with every RabbitMQ, the confirm that follows is no delivery."""

from types import SimpleNamespace

import pytest

from taskqueue.amqp.properties import Properties
from taskqueue.broker.connection import RawProperties
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.publisher import Publication, Publisher, PublishResult
from taskqueue.broker.session import Session
from taskqueue.config import AmqpSettings

#: RabbitMQ 4 returns headers sorted by their names, and numbers in other widths.
UNSORTED = {"x-zebra": 1, "x-apple": "a", "x-mole": 2.5, "x-bear": True, "x-long": 1 << 40, "x-list": [3]}


@pytest.fixture
def publish(amqp_url):
    """Publish messages in one round of a loop; return each one's fate, by its body.

    `returned` is called with the publisher once they are sent and before the broker can answer.
    """

    def publish(messages, returned=lambda _publisher: None):
        loop, fates = EventLoop(), {}
        amqp = AmqpSettings.from_url(amqp_url)
        session = Session(loop, amqp, "test", on_error=lambda _error: loop.stop())

        def settled(publication, result, _reason):
            fates.setdefault(publication.body, []).append(result)
            if len(fates) == len(messages):
                session.close(loop.stop)

        def begin():
            for queue, properties, body in messages:
                publisher.publish(Publication(queue, properties.encode(), body, settled))
            returned(publisher)

        publisher = Publisher(loop, session, on_ready=begin, on_lost=loop.stop, on_batch=lambda: None)
        session.open()
        loop.call_later(30, loop.stop)
        loop.run()
        loop.close()
        return fates

    return publish


def returns(queue, properties, body=b"a"):
    """Return what has a publisher take it that the broker returned such a message."""
    method = SimpleNamespace(exchange="", routing_key=queue)
    return lambda publisher: publisher._on_return(None, method, RawProperties(properties), body)


def with_id(id_, **fields):
    return Properties(message_id=id_, delivery_mode=2, **fields)


@pytest.mark.parametrize("id_", ["one", "n\udce4me", None], ids=["plain", "latin-1", "none"])
def test_a_message_with_headers_that_has_no_queue_is_returned(publish, id_):
    properties = with_id(id_).with_headers(UNSORTED)

    assert publish([("nowhere", properties, b"a")]) == {b"a": [PublishResult.RETURNED]}


def test_of_messages_in_one_window_just_those_without_a_queue_are_returned(publish, foreign):
    foreign.declare("target")
    messages = [
        (queue, with_id(f"{queue}{n}").with_headers(UNSORTED | {"n": n}), f"{queue}{n}".encode())
        for n in range(200)
        for queue in ("target", "nowhere")
    ]

    fates = publish(messages)

    assert {body: result for body, result in fates.items() if body.startswith(b"target")} == {
        f"target{n}".encode(): [PublishResult.CONFIRMED] for n in range(200)
    }
    assert [result for body, [result] in fates.items() if body.startswith(b"nowhere")] == [
        PublishResult.RETURNED
    ] * 200
    assert foreign.depth("target") == 200


def test_a_request_for_a_direct_reply_is_returned_with_its_token(publish):
    request = with_id("one", reply_to="elsewhere").with_headers(UNSORTED)
    answered = request.replace(reply_to="amq.rabbitmq.reply-to.token").encode()

    assert publish([("nowhere", request, b"a")], returns("nowhere", answered)) == {
        b"a": [PublishResult.RETURNED]
    }


def test_where_two_messages_may_be_meant_no_confirm_counts_as_a_delivery(publish, foreign):
    foreign.declare("target")
    messages = [("target", with_id(id_), id_.encode()) for id_ in ("one", "two")]

    # neither the id nor the body is that of a message for this queue
    fates = publish(messages, returns("target", with_id("other").encode(), b"other"))

    assert fates == {b"one": [PublishResult.RETURNED], b"two": [PublishResult.RETURNED]}


def test_a_return_that_matches_nothing_has_all_in_flight_published_again(publish, foreign, caplog):
    for queue in ("target", "other"):
        foreign.declare(queue)
    messages = [("target", with_id("one"), b"one"), ("other", with_id("two"), b"two")]

    fates = publish(messages, returns("elsewhere", with_id("three").encode(), b"three"))

    assert fates == {b"one": [PublishResult.CONFIRMED], b"two": [PublishResult.CONFIRMED]}
    assert [foreign.depth(queue) for queue in ("target", "other")] == [2, 2]
    [line] = [record.message for record in caplog.records if "matches nothing" in record.message]
    assert line == "returned message for elsewhere matches nothing in flight; publishing 2 messages again"


def test_a_return_that_matches_nothing_means_the_only_message_in_flight(publish, foreign):
    foreign.declare("target")

    fates = publish([("target", with_id("one"), b"one")], returns("elsewhere", b"\xff", b""))

    assert fates == {b"one": [PublishResult.RETURNED]}
