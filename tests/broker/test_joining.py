"""Messages are written to the broker and read from it with every supported version of pika."""

import pytest

from taskqueue.amqp.properties import Properties
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.publisher import Publication, Publisher, PublishResult
from taskqueue.broker.session import Session
from taskqueue.broker.subscription import Subscription
from taskqueue.config import AmqpSettings

FRAME_MAX = 131_072  # RabbitMQ's; 8 bytes of it are the frame's own
PROPERTIES = Properties(message_id="m", header_table=b"\1hd\x3f\xf8\0\0\0\0\0\0")  # h: 1.5


@pytest.fixture
def publish(foreign, amqp_url):
    """Publish bodies to the queue target in one round of a loop; return what was written to the socket.

    How many bytes each read was to return and did return, None for a read in vain, is put into `reads`.
    """

    def publish(bodies, reads=None):
        loop, writes, fates = EventLoop(), [], []
        amqp = AmqpSettings.from_url(amqp_url)
        session = Session(loop, amqp, "test", on_error=lambda _error: loop.stop())

        def settled(publication, result, reason):
            fates.append(result)
            if len(fates) == len(bodies):
                session.close(loop.stop)

        def read(sock, size):
            data = None
            try:
                data = sock.recv(size)
            finally:
                reads.append((size, data and len(data)))
            return data

        def begin():
            if reads is not None:
                session._connection._transport._sigint_safe_recv = read
            send_now = session._connection._send_now
            session._connection._send_now = lambda data: (writes.append(data), send_now(data))[1]
            for body in bodies:
                publisher.publish(Publication("target", PROPERTIES.encode(), body, settled))

        publisher = Publisher(loop, session, on_ready=begin, on_lost=loop.stop, on_batch=lambda: None)
        session.open()
        loop.call_later(20, loop.stop)
        loop.run()
        loop.close()
        assert fates == [PublishResult.CONFIRMED] * len(bodies)
        return writes

    foreign.declare("target")
    return publish


def test_messages_published_in_one_round_are_one_write(publish, foreign):
    bodies = [b"%d" % number for number in range(100)]
    writes = publish(bodies)
    assert [foreign.get("target").body for _ in bodies] == bodies
    assert sum(b"target" in data for data in writes) == 1
    assert len(writes) > 1, "the end of the connection went another way"


def test_what_comes_is_read_in_large_pieces_and_never_in_vain(publish):
    reads = []
    publish([b"1"], reads)
    assert {size for size, _ in reads} == {65_536}
    assert None not in {found for _, found in reads}


@pytest.mark.parametrize("size", [0, 1, FRAME_MAX - 8, FRAME_MAX - 7, 3 * FRAME_MAX])
def test_a_body_of_any_length_arrives_as_it_was_with_its_properties(publish, foreign, size):
    body = bytes(range(256)) * (size // 256 + 1)
    publish([body[:size], b"the next"])
    arrived = foreign.get("target")
    assert arrived.body == body[:size] or (not size and not arrived.body)
    assert arrived.properties["message_id"] == "m"
    assert arrived.headers == {"h": 1.5}
    assert foreign.get("target").body == b"the next"


def test_bodies_of_any_length_are_read_as_they_were_sent_and_mostly_without_pika(foreign, amqp_url):
    sizes = [0, 1, FRAME_MAX - 8, FRAME_MAX - 7, 3 * FRAME_MAX, *range(1000)]
    loop, bodies, frames = EventLoop(), [], []
    session = Session(loop, AmqpSettings.from_url(amqp_url), "test", on_error=lambda _error: loop.stop())

    def take(delivery):
        bodies.append(delivery.body)
        if len(bodies) == len(sizes):
            frames.append(session._connection.frames_received)  # of which pika has made objects
            session.close(loop.stop)

    foreign.declare("source")
    sent = [bytes(range(256)) * (size // 256) + bytes(size % 256) for size in sizes]
    foreign.publish_many(sent, "source")
    subscription = Subscription(
        loop, session, "source", 2000, on_delivery=take, on_lost=list, on_consuming=list
    )
    subscription.resume()
    session.open()
    loop.call_later(20, loop.stop)
    loop.run()
    loop.close()
    assert bodies == sent
    assert frames[0] < len(sizes)  # and not three for each
