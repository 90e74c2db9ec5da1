"""What is written in one round of the loop goes out in one piece, with every supported version of pika."""

from taskqueue.broker.loop import EventLoop
from taskqueue.broker.publisher import Fate, Publication, Publisher
from taskqueue.broker.session import Session
from taskqueue.config import AmqpSettings
from taskqueue.properties import Properties

MESSAGES = 100


def test_messages_published_in_one_round_are_one_write(foreign, amqp_url):
    foreign.declare("target")
    loop, writes, fates = EventLoop(), [], []
    session = Session(loop, AmqpSettings.from_url(amqp_url), "test", on_trouble=lambda _error: loop.stop())

    def settled(publication, fate, reason):
        fates.append(fate)
        if len(fates) == MESSAGES:
            session.close(loop.stop)

    def publish():
        transport = session._connection._transport
        write = transport.write
        transport.write = lambda data: (writes.append(data), write(data))
        for number in range(MESSAGES):
            publisher.publish(Publication("target", Properties().encode(), b"%d" % number, settled))

    publisher = Publisher(loop, session, on_ready=publish, on_lost=loop.stop, on_batch=lambda: None)
    session.open()
    loop.call_later(20, loop.stop)
    loop.run()
    loop.close()
    assert fates == [Fate.CONFIRMED] * MESSAGES
    assert [foreign.get("target").body for _ in range(MESSAGES)] == [
        b"%d" % number for number in range(MESSAGES)
    ]
    assert sum(b"target" in data for data in writes) == 1
    assert len(writes) > 1, "the end of the connection went another way"
