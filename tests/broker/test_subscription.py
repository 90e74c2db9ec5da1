"""A subscription on a real broker: what it returns to its queue."""

from taskqueue.broker.loop import EventLoop
from taskqueue.broker.session import Session
from taskqueue.broker.subscription import Subscription
from taskqueue.config import AmqpSettings

LONE = {"x-queue-type": "quorum", "x-single-active-consumer": True}
HELD = 3  # messages that a consumer may hold


class Reader:
    """One of several processes that read a log; its single active consumer gets the messages."""

    def __init__(self, loop, url, on_consuming, on_full):
        self.taken, self._on_full = [], on_full
        self.session = Session(loop, AmqpSettings.from_url(url), "test", on_error=loop.fail)
        self.subscription = Subscription(
            loop,
            self.session,
            "log",
            HELD,
            on_delivery=self.take,
            on_lost=list,
            on_consuming=on_consuming,
            arguments=LONE,
        )
        self.subscription.resume()

    def take(self, delivery):
        self.taken.append(delivery.body)
        if len(self.taken) == HELD:
            self._on_full()


def test_a_restart_hands_held_messages_to_the_next_active_consumer_before_newer_ones(amqp_url, foreign):
    loop = EventLoop()
    foreign.declare("log", arguments=LONE)
    foreign.publish_many([b"%d" % number for number in range(2 * HELD)], "log")

    def restart():
        first.subscription.restart()

    second = Reader(loop, amqp_url, restart, loop.stop)
    first = Reader(loop, amqp_url, list, second.session.open)
    first.session.open()
    loop.call_later(20, loop.stop)
    loop.run()
    for each in (first, second):
        each.session.abandon()
    loop.close()
    assert first.taken == second.taken == [b"0", b"1", b"2"]
