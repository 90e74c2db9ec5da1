"""A connection that is closed while the broker still answers what was asked on it: that is no bug of ours."""

import pytest

from taskqueue.broker.broadcast import BroadcastConsumer, BroadcastExchange
from taskqueue.broker.declaration import Declaration
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.publisher import Publisher
from taskqueue.broker.session import Session
from taskqueue.broker.topology import Queue
from taskqueue.config import AmqpSettings


@pytest.fixture
def close_behind(amqp_url, monkeypatch):
    """Have a connection closed as soon as a method has asked something of the broker; serve until it is."""

    def close_behind(kind, method, begin):
        loop = EventLoop()
        session = Session(loop, AmqpSettings.from_url(amqp_url), "test", on_error=lambda _error: loop.stop())
        ask, asked = getattr(kind, method), []

        def ask_and_close(self, *arguments):
            ask(self, *arguments)
            asked.append(self)
            session.close(loop.stop)

        monkeypatch.setattr(kind, method, ask_and_close)
        begin(loop, session)
        session.open()
        loop.call_later(20, loop.stop)
        loop.run()  # raises what a callback raised
        loop.close()
        assert asked

    return close_behind


def on_up(session, action):
    """Have something done when the session is up."""
    session.attach(type("WhenUp", (), {"session_up": lambda _: action(), "session_down": lambda _: None})())


def test_a_listener_that_is_closed_before_its_queue_is_there_ends_in_peace(close_behind):
    close_behind(
        BroadcastConsumer,
        "_open",
        lambda loop, session: BroadcastConsumer(
            loop, session, "test-fanout", on_message=print, on_settled=list
        ),
    )


def test_a_listener_that_is_closed_before_its_exchange_is_found_ends_in_peace(close_behind, foreign):
    foreign.declare("test-found")
    foreign.bind("test-found")

    def begin(loop, session):
        def listen(_frame):  # on a channel for errands that is open, so that the question goes out at once
            BroadcastConsumer(loop, session, "test-found", on_message=print, on_settled=list).session_up()

        def ask():
            session.errands.run(
                lambda channel, answered: channel.queue_declare(
                    "test-found", passive=True, callback=answered
                ),
                listen,
                print,
            )

        on_up(session, ask)

    close_behind(BroadcastExchange, "_check", begin)


def test_an_exchange_that_is_declared_when_all_is_closed_ends_in_peace(close_behind):
    def begin(loop, session):
        exchange = BroadcastExchange(loop, session, "test-fanout")
        on_up(session, lambda: exchange.provide(list, print))

    close_behind(BroadcastExchange, "_declare", begin)


@pytest.mark.parametrize("method", ["_find_exchange", "_make_exchange", "_find_queue", "_declare", "_bind"])
def test_a_queue_with_an_exchange_that_is_declared_when_all_is_closed_ends_in_peace(
    close_behind, foreign, method
):
    queue = Queue("test-queue", has_exchange=True)
    foreign.declare(queue.name)  # so that there is something to go on with

    def begin(loop, session):
        on_up(session, lambda: Declaration(loop, session, queue, done=list, failed=print))

    close_behind(Declaration, method, begin)


def test_a_publisher_that_is_closed_before_it_hears_replies_ends_in_peace(close_behind):
    def begin(loop, session):
        Publisher(loop, session, on_ready=list, on_lost=list, on_batch=list, on_reply=print)

    close_behind(Publisher, "_channel_open", begin)
