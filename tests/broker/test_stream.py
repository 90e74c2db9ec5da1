"""Reading a stream: from an offset on, after it was deleted, and what happens without streams."""

from pathlib import Path

import pytest
from support.foreign import Foreign
from support.node import Node
from support.script import Scripted

from taskqueue.broker.stream import StreamReader, StreamReaderListener
from taskqueue.broker.topology import EVENTS, events_stream

STREAM = events_stream(7 * 86400, 2 * 1024**3, 50_000_000)


class Reader(Scripted, StreamReaderListener):
    """Reads the stream after `last`."""

    def __init__(self, url, last=None, stream=STREAM):
        super().__init__(url)
        self.messages, self.news, self.reads = [], 0, 0
        self.stream = StreamReader(self.loop, self.session, stream, 10, self)
        self.stream.start(last)

    def stream_message(self, offset, body):
        self.messages.append((offset, body))
        self.stream.acknowledge()

    def stream_began_anew(self):
        self.news += 1

    def stream_read(self):
        self.reads += 1

    def run(self, script):
        self.perform(script(self), lambda: self.reads, lambda: self.messages)


def publish(foreign, *bodies):
    for body in bodies:
        foreign.publish_to(EVENTS, "", body)


def declare(url):
    """Have the stream declared."""
    Reader(url).run(lambda _reader: iter(()))


def read(url, last, number):
    """Return the first messages after an offset."""
    reader = Reader(url, last)

    def script(reader):
        yield lambda: len(reader.messages) >= number

    reader.run(script)
    return reader.messages


def test_the_stream_is_declared_with_its_limits_and_bound(
    broker: Node, vhost: str, amqp_url: str, foreign: Foreign
) -> None:
    declare(amqp_url)
    assert broker.queues(vhost)[EVENTS] == {
        "type": "stream",
        "x-queue-type": "stream",
        "x-max-age": "7D",
        "x-max-length-bytes": 2 * 1024**3,
        "x-stream-max-segment-size-bytes": 50_000_000,
    }
    publish(foreign, b"a")  # it must be routed


def test_reading_goes_on_after_an_offset_and_every_message_comes_once(amqp_url, foreign):
    declare(amqp_url)
    bodies = [b"%d" % number for number in range(50)]
    publish(foreign, *bodies)
    everything = list(enumerate(bodies))
    assert read(amqp_url, None, 50) == everything
    assert read(amqp_url, 20, 29) == everything[21:]
    publish(foreign, b"last")
    assert read(amqp_url, 49, 1) == [(50, b"last")]


def test_a_header_of_a_producer_is_not_taken_for_the_offset(amqp_url, foreign):
    declare(amqp_url)
    foreign.publish_to(EVENTS, "", b"a", application_headers={"x-stream-offset": 1000})
    publish(foreign, b"b")
    assert read(amqp_url, None, 2) == [(0, b"a"), (1, b"b")]


def test_a_stream_that_is_deleted_while_it_is_read_is_declared_again(amqp_url, foreign):
    def script(reader):
        publish(foreign, b"a", b"b", b"c")
        yield lambda: len(reader.messages) == 3
        foreign.delete(EVENTS)
        yield lambda: reader.news == 2
        yield lambda: reader.reads == 2
        publish(foreign, b"d")
        yield lambda: reader.messages[3:] == [(0, b"d")]

    Reader(amqp_url).run(script)


def test_another_stream_of_the_same_name_is_read_from_its_beginning(amqp_url, foreign):
    declare(amqp_url)
    publish(foreign, b"a", b"b", b"c")
    foreign.delete(EVENTS)
    declare(amqp_url)
    publish(foreign, b"d")
    assert read(amqp_url, 2, 1) == [(0, b"d")]


def test_what_is_not_acknowledged_is_bounded_and_comes_again(amqp_url, foreign):
    declare(amqp_url)
    publish(foreign, *(b"%d" % number for number in range(30)))

    def script(reader):
        yield lambda: len(reader.messages) == 30
        reader.stream.stop()
        reader.messages.clear()
        reader.stream_message = lambda offset, _body: reader.messages.append(offset)
        reader.stream.start(3)
        yield lambda: len(reader.messages) >= 9  # the message with the offset 3 counts
        yield lambda: reader.reads == 2
        assert reader.messages == list(range(4, 13))
        reader.stream.acknowledge()
        yield lambda: len(reader.messages) > 9

    Reader(amqp_url).run(script)


def test_an_ordinary_queue_in_its_place_is_consumed(amqp_url, foreign):
    foreign.declare(EVENTS, arguments={"x-max-length": 1000})
    foreign.bind(EVENTS)
    publish(foreign, b"a", b"b")
    assert read(amqp_url, 1000, 2) == [(None, b"a"), (None, b"b")]
    assert foreign.depth(EVENTS) == 0


FALLBACK = {"type": "classic", "x-overflow": "drop-head", "x-max-length-bytes": 2 * 1024**3}


@pytest.fixture
def streamless(node_directory: Path, broker: Node):
    """A broker whose feature flag of streams is disabled, as after an upgrade from RabbitMQ 3.8."""
    if broker.version >= (4,):
        pytest.skip("RabbitMQ 4 requires the feature flag")
    node = Node(node_directory / "streamless", forced_feature_flags_on_init="[quorum_queue]")
    node.start()
    yield node
    node.stop()


def test_a_broker_without_streams_gets_an_ordinary_queue(streamless: Node, caplog) -> None:
    url = streamless.add_vhost("streamless")
    for _ in range(2):
        with Foreign(url) as foreign:
            Reader(url).run(lambda _reader: iter(()))
            publish(foreign, b"a")
    assert streamless.queues("streamless")[EVENTS] == FALLBACK
    assert sum("ordinary queue" in record.getMessage() for record in caplog.records) == 1


def test_a_broker_that_refuses_such_a_stream_gets_an_ordinary_queue(
    broker: Node, vhost: str, amqp_url: str, foreign: Foreign, caplog
) -> None:
    refused = events_stream(7 * 86400, 2 * 1024**3, 4 * 1000**3)  # RabbitMQ allows segments of 3 GB
    for _ in range(2):
        Reader(amqp_url, stream=refused).run(lambda _reader: iter(()))
        publish(foreign, b"a")
    assert broker.queues(vhost)[EVENTS].items() >= FALLBACK.items()  # RabbitMQ 4 adds the type
    assert sum("ordinary queue" in record.getMessage() for record in caplog.records) == 1
