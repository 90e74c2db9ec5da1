"""Messages for which the broker closes the whole connection: found, put aside, and in nobody's way."""

import json
from decimal import Decimal
from pathlib import Path

import pytest
from support import remote
from support.waiting import wait_until
from support.wire import RawMessage, long, properties, short, table

from taskqueue import deadletters
from taskqueue.amqp.properties import Properties
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.publisher import Publication, Publisher, PublishResult
from taskqueue.broker.session import Session
from taskqueue.config import AmqpSettings
from taskqueue.errors import BrokerRefused

#: RabbitMQ takes what follows for a process of its own, and its channel crashes on one that it cannot read.
POISONED_REPLY = "amq.rabbitmq.reply-to.g1h2AA==.key"
CLOSED = "it made the broker close the connection: INTERNAL_ERROR (541)"
#: The first RabbitMQ that takes that for a name like another: it returns the message as unroutable.
READS_REPLIES = (4, 2)
CONFIG = "[DEFAULT]\nworkers: 0\n[echo]\nworkers: 2\nmax_prefetch: 8\n[evaluate]\nworkers: 1\nretries: 0\n"

#: What RabbitMQ cannot write into a stream: its channel crashes on such a header.
DECIMAL = table([(b"price", b"D\0\0\0\0\1")])
STREAM = {"x-queue-type": "stream"}


class Owner:
    """Publishes messages until each has its fate, and again whenever the connection was lost."""

    def __init__(self, url, messages):
        self.loop, self.fates, self.lost = EventLoop(), {}, 0
        self.session = Session(
            self.loop, AmqpSettings.from_url(url), "test", on_error=lambda _error: self.loop.stop()
        )
        self.publisher = Publisher(
            self.loop, self.session, on_ready=self.send, on_lost=self.lose, on_batch=lambda: None
        )
        self.left = [Publication(queue, Properties().encode(), body, self.settle) for queue, body in messages]

    def run(self):
        self.session.open()
        self.loop.call_later(30, self.loop.stop)
        self.loop.run()
        self.loop.close()

    def send(self):
        for publication in self.left:
            self.publisher.publish(publication)

    def lose(self):
        self.lost += 1

    def settle(self, publication, result, reason):
        self.left.remove(publication)
        self.fates[publication.body] = result, reason
        if not self.left:
            self.session.close(self.loop.stop)


@pytest.fixture
def closes_for_replies(broker):
    if broker.version >= READS_REPLIES:
        pytest.skip(
            "this RabbitMQ survives such a reply queue; nobody waits there, and the result is dropped"
        )


@pytest.fixture
def poisoned(broker):
    """The fate of a message for POISONED_REPLY."""
    is_read = broker.version >= READS_REPLIES
    return (PublishResult.RETURNED, "no such queue") if is_read else (PublishResult.REFUSED, CLOSED)


@pytest.mark.parametrize("others", [0, 1, 40])
def test_a_message_that_has_the_broker_close_the_connection_is_found_among_others(
    amqp_url, foreign, poisoned, others
):
    foreign.declare("target")
    good = [("target", b"%d" % number) for number in range(others)]
    owner = Owner(amqp_url, [*good[: others // 2], (POISONED_REPLY, b"poison"), *good[others // 2 :]])

    owner.run()

    assert owner.fates.pop(b"poison") == poisoned
    assert owner.fates == dict.fromkeys((body for _, body in good), (PublishResult.CONFIRMED, ""))
    arrived = foreign.collect("target", foreign.depth("target"))  # some of them twice
    assert {message.body for message in arrived} == set(owner.fates)
    assert owner.lost <= 3


def test_several_such_messages_are_found(amqp_url, foreign, poisoned):
    foreign.declare("target")
    messages = [
        each
        for number in range(3)
        for each in [("target", b"good%d" % number), (POISONED_REPLY, b"poison%d" % number)]
    ]
    owner = Owner(amqp_url, messages)

    owner.run()

    assert owner.fates == {
        body: (PublishResult.CONFIRMED, "") if queue == "target" else poisoned for queue, body in messages
    }


def test_a_message_is_not_to_blame_where_the_broker_ends_the_connection_itself(amqp_url, broker, foreign):
    foreign.declare("target")
    owner = Owner(amqp_url, [("target", b"waits")])

    def lose():
        owner.lost += 1
        if owner.lost == 3:
            broker.set_alarm(on=False)

    def close_all():
        broker.evaluate(
            '[rabbit_networking:close_connection(Pid, "test") || Pid <- rabbit_networking:connections()]'
        )
        if owner.lost < 3:
            owner.loop.call_later(0.1, close_all)

    owner.publisher._on_lost = lose
    owner.session._on_error = lambda _error: None  # it may be closed while it opens
    broker.set_alarm(on=True)
    try:
        owner.loop.call_later(0.1, close_all)
        owner.run()
    finally:
        broker.set_alarm(on=False)

    assert owner.fates == {b"waits": (PublishResult.CONFIRMED, "")}
    assert owner.lost >= 3


def test_a_dispatcher_finds_it_and_keeps_it_with_the_reason(ground):
    for queue in ("taskqueue", "taskqueue_rejected", "worker_good"):
        ground.foreign.declare(queue)
    ground.foreign.declare("worker_logged", arguments=STREAM)
    for number in range(20):
        ground.foreign.publish(b"%d" % number, type="good")
    publish_raw(ground, properties(headers=DECIMAL, message_id=short(b"poison"), type=short(b"logged")))
    dispatcher = ground.start("dispatcher")
    ground.foreign.publish(b"20", type="good")

    kept = ground.foreign.get("taskqueue_rejected", timeout=20)
    assert kept.properties["message_id"] == "poison"
    assert kept.headers["x-taskqueue-reason"] == f"the broker refused the message: {CLOSED}"
    assert kept.headers["price"] == 1
    wait_until(lambda: ground.foreign.depth("worker_good") >= 21)
    arrived = ground.foreign.collect("worker_good", ground.foreign.depth("worker_good"))
    assert {message.body for message in arrived} == {b"%d" % number for number in range(21)}
    assert dispatcher.stop() == 0
    assert ground.foreign.depth("taskqueue") == 0
    assert dispatcher.output().count("lost the connection to the broker") <= 3


def test_what_cannot_even_be_kept_with_its_properties_is_kept_without_them(ground):
    ground.foreign.declare("taskqueue")
    for queue in ("worker_logged", "taskqueue_rejected"):
        ground.foreign.declare(queue, arguments=STREAM)
    ground.foreign.declare("worker_good")
    publish_raw(ground, properties(headers=DECIMAL, type=short(b"logged")))
    dispatcher = ground.start("dispatcher")
    dispatcher.wait_for("rejected: the broker refused the message: ")
    ground.foreign.publish(b"other", type="good")

    assert ground.foreign.get("worker_good", timeout=20).body == b"other"
    wait_until(lambda: ground.foreign.depth("taskqueue_rejected") == 1)
    assert dispatcher.stop() == 0
    assert ground.foreign.depth("taskqueue") == 0


def test_a_call_that_nobody_serves_is_kept_once_although_it_cannot_be_answered(ground):
    for queue in ("taskqueue", "taskqueue_rejected", "worker_good"):
        ground.foreign.declare(queue)
    request = b'{"jsonrpc": "2.0", "method": "nobody", "id": 1}'
    ground.foreign.publish(request, reply_to=POISONED_REPLY)
    dispatcher = ground.start("dispatcher")
    ground.foreign.publish(b"other", type="good")

    assert ground.foreign.get("taskqueue_rejected", timeout=20).body == request
    assert ground.foreign.get("worker_good", timeout=20).body == b"other"
    assert dispatcher.stop() == 0
    assert [ground.foreign.depth(queue) for queue in ("taskqueue", "taskqueue_rejected")] == [0, 0]


@pytest.fixture
def small_messages(broker):
    """Have the broker take only small messages from new channels, as after a change of its configuration."""
    yield lambda: broker.limit_messages(5000)
    broker.limit_messages(16_777_216)


def test_what_cannot_be_kept_at_all_stays_and_stops_nobody(ground, broker, small_messages):
    for queue in ("taskqueue", "worker_good"):
        ground.foreign.declare(queue)
    ground.foreign.publish_many([bytes(6000)] * 12, type="good")
    small_messages()
    dispatcher = ground.start("dispatcher", "[dispatcher]\nwindow: 4")
    dispatcher.wait_for("left unacknowledged in ", times=12)
    ground.foreign.publish_many([b"small"] * 50, type="good")

    assert [message.body for message in ground.foreign.collect("worker_good", 50)] == [b"small"] * 50
    assert dispatcher.stop() == 0
    assert dispatcher.output().count("left unacknowledged in ") == 12
    wait_until(lambda: ground.foreign.depth("taskqueue") == 12)


def start_pool(ground):
    for queue in ("worker_echo", "worker_evaluate", "results", "taskqueue_failed"):
        ground.foreign.declare(queue)
    return ground.start("workerpool", CONFIG)


@pytest.mark.usefixtures("closes_for_replies")
def test_a_result_that_has_the_broker_close_the_connection_goes_where_the_groups_go(ground):
    pool = start_pool(ground)
    for number in range(20):
        ground.foreign.publish(b"%d" % number, "worker_echo")
    ground.foreign.publish(b"10000", "worker_echo", reply_to=POISONED_REPLY, message_id="poison")
    for number in range(20, 40):
        ground.foreign.publish(b"%d" % number, "worker_echo")

    bodies = set()
    while len(bodies) < 41:
        bodies.add(int(ground.foreign.get("results", timeout=30).body))
    assert bodies == {*range(40), 10000}
    assert f"reply_to {POISONED_REPLY} cannot be used: {CLOSED}; the result goes to results" in pool.output()
    assert pool.stop() == 0
    assert ground.foreign.depth("worker_echo") == 0
    assert pool.output().count("lost the connection to the broker") <= 4


@pytest.mark.usefixtures("closes_for_replies")
def test_progress_that_has_the_broker_close_the_connection_is_told_no_more(ground):
    headers = {"x-taskqueue-notify": True}
    ground.foreign.declare("results")
    pool = ground.work(Path(remote.__file__), "-n", "1")
    request = b'{"jsonrpc": "2.0", "method": "walk", "params": [60], "id": 1}'
    ground.foreign.publish(request, "worker_walk", reply_to=POISONED_REPLY, application_headers=headers)

    assert json.loads(ground.foreign.get("results", timeout=30).body)["result"] == 60
    assert pool.stop() == 0
    assert pool.output().count("lost the connection to the broker") <= 4


def test_a_failed_copy_that_cannot_be_kept_stops_nobody(ground, small_messages):
    start_pool(ground).stop()
    ground.foreign.publish_many([b"1/0 #" + bytes(6000)] * 3, "worker_evaluate", content_type="text/plain")
    small_messages()
    pool = start_pool(ground)
    pool.wait_for("left unacknowledged in ", times=3)
    ground.foreign.publish(b"6 * 7", "worker_evaluate", content_type="text/plain")

    wait_until(lambda: ground.foreign.get("results").body == b"42")
    assert pool.stop() == 0
    assert pool.output().count("left unacknowledged in ") == 3
    wait_until(lambda: ground.foreign.depth("worker_evaluate") == 3)


def test_a_next_run_that_the_broker_refuses_is_reported_and_kept(ground):
    for queue in ("worker_evaluate", "results", "taskqueue_failed"):
        ground.foreign.declare(queue)
    ground.start("workerpool", "[DEFAULT]\nworkers: 0\n[evaluate]\nworkers: 1\nretries: 5\n")
    big = table([(b"big", b"x" + long(bytes(130_900)))])  # leaves no room for a history
    raw = properties(content_type=short(b"text/plain"), headers=big, message_id=short(b"m"))
    publish_raw(ground, raw, b"1/0", "worker_evaluate")

    error = json.loads(ground.foreign.get("results").body)["error"]
    assert error["type"] == "RunRefused"
    assert error["message"].startswith("the broker refuses its next run: the properties have 131")
    kept = ground.foreign.get("taskqueue_failed")
    assert (kept.body, kept.properties["message_id"]) == (b"1/0", "m")


def test_what_is_retried_beside_it_goes_back(amqp_url, foreign):
    for queue in ("worker_good", "taskqueue_failed"):
        foreign.declare(queue)
    foreign.declare("worker_logged", arguments=STREAM)
    for number in range(20):
        foreign.publish(b"%d" % number, "taskqueue_failed", type="good", message_id=f"good{number}")
        if number == 10:
            headers = {"price": Decimal(1)}
            foreign.publish(
                b"", "taskqueue_failed", type="logged", message_id="poison", application_headers=headers
            )

    with pytest.raises(BrokerRefused) as caught:
        deadletters.retry(AmqpSettings.from_url(amqp_url), "taskqueue_failed", lambda _each: True)

    assert str(caught.value) == (
        f"20 retried; 1 stay in taskqueue_failed\npoison: the broker refused the message: {CLOSED}"
    )
    wait_until(lambda: foreign.depth("taskqueue_failed") == 1)
    arrived = foreign.collect("worker_good", foreign.depth("worker_good"))
    assert {message.body for message in arrived} == {b"%d" % number for number in range(20)}


def publish_raw(ground, raw, body=b"body", queue="taskqueue"):
    message = RawMessage(body, raw)
    ground.foreign._do(lambda channel: channel.basic_publish_confirm(message, "", queue, mandatory=True))
