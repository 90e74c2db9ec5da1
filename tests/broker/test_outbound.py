"""The outbound path, with a real broker: what it publishes again, and what it does not."""

import pytest

from taskqueue.amqp.properties import Properties
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.outbound import Outbound, OutboundListener
from taskqueue.broker.publisher import Publication, PublishResult
from taskqueue.broker.session import Session
from taskqueue.config import AmqpSettings

PROPERTIES = Properties(delivery_mode=2).encode()


class Owner(OutboundListener):
    """The owner of an outbound path, which begins when it is ready and ends when `done` is true."""

    def __init__(self, url, begin):
        self.loop, self.results, self.begin = EventLoop(), {}, begin
        amqp = AmqpSettings.from_url(url)
        self.session = Session(self.loop, amqp, "test", on_error=lambda _error: self.loop.stop())
        self.outbound = Outbound(self.loop, self.session, self)

    def send(self, queue, body, settled=None, **options):
        self.outbound.send(Publication(queue, PROPERTIES, body, **options), settled or self.settled)

    def settled(self, publication, result, _reason):
        self.results.setdefault(publication.body, []).append(result)

    def outbound_ready(self):
        begin, self.begin = self.begin, lambda _owner: None
        begin(self)

    def run(self, bodies):
        """Run until each of the bodies is settled; return all results."""
        self.is_wanted = lambda: set(self.results) >= set(bodies)
        self.session.open()
        self.loop.call_later(30, self.loop.stop)
        self.loop.run()
        self.loop.close()
        return self.results

    def outbound_progress(self):
        if self.is_wanted():
            self.session.close(self.loop.stop)


def test_a_returned_message_has_its_queue_declared_and_is_confirmed_once(amqp_url, foreign):
    owner = Owner(amqp_url, lambda owner: owner.send("missing", b"one"))
    assert owner.run([b"one"]) == {b"one": [PublishResult.CONFIRMED]}
    assert [message.body for message in foreign.collect("missing", 1)] == [b"one"]


def test_a_returned_message_whose_queue_may_not_be_declared_is_returned_to_its_owner(amqp_url, foreign):
    owner = Owner(amqp_url, lambda owner: owner.send("missing", b"one", declares=False))
    assert owner.run([b"one"]) == {b"one": [PublishResult.RETURNED]}
    assert foreign.depth("missing") is None


@pytest.mark.parametrize("how", ["forget", "forget_all"])
def test_what_is_forgotten_while_its_queue_is_declared_is_not_published(amqp_url, foreign, how):
    """The broker delivers its origin again: published, it would come twice."""

    def returned(publication, result, _reason):
        assert result is PublishResult.RETURNED
        owner.outbound.declare_and_send(publication, owner.settled)
        owner.outbound.forget_all() if how == "forget_all" else owner.outbound.forget(publication)
        owner.send("missing", b"after")  # it waits for the same declaration

    owner = Owner(amqp_url, lambda owner: owner.send("missing", b"forgotten", returned, declares=False))
    assert owner.run([b"after"]) == {b"after": [PublishResult.CONFIRMED]}
    assert [message.body for message in foreign.collect("missing", 1)] == [b"after"]
    assert foreign.depth("missing") == 0


def test_after_a_reconnect_only_what_is_not_forgotten_is_published_again(proxy, foreign):
    kept, forgotten = (Publication("late", PROPERTIES, body) for body in (b"kept", b"forgotten"))

    def begin(owner):
        proxy.stall()
        for publication in (kept, forgotten):
            owner.outbound.send(publication, owner.settled)
        owner.loop.at_round_end(lambda: cut(owner))

    def cut(owner):
        owner.outbound.forget(forgotten)
        proxy.cut()
        proxy.resume()

    owner = Owner(proxy.url, begin)
    assert owner.run([b"kept"]) == {b"kept": [PublishResult.CONFIRMED]}
    assert [message.body for message in foreign.collect("late", 1)] == [b"kept"]
    assert foreign.depth("late") == 0


@pytest.mark.parametrize(("wait", "exchange"), [(0.0, "taskqueue_delay_0.25"), (1.0, "taskqueue_delay_1")])
def test_a_delayed_message_takes_the_longest_rung_that_its_whole_delay_allows(
    amqp_url, foreign, wait, exchange
):
    later = Publication("later", PROPERTIES, b"later")
    owner = Owner(amqp_url, lambda owner: owner.outbound.send(later, owner.settled, wait))
    assert owner.run([b"later"]) == {b"later": [PublishResult.CONFIRMED]}
    assert later.exchange == exchange
    assert [message.body for message in foreign.collect("later", 1)] == [b"later"]
