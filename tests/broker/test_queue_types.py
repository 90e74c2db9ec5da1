"""Queues come to be with the type that is asked for, and existing ones are used as they are."""

from collections.abc import Iterator

import pytest
from support.foreign import Foreign
from support.node import Node
from support.waiting import wait_until

from taskqueue.broker.declaration import Provider
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.session import Session, SessionListener
from taskqueue.broker.topology import DELAYS, Queue, delay_queue, lease_queue
from taskqueue.config import AmqpSettings

INTERNAL = [Queue("taskqueue_rejected"), Queue("taskqueue_failed"), lease_queue("digest", 300)]
DELAY_QUEUES = [*map(delay_queue, DELAYS)]
SHARED = [Queue("taskqueue"), Queue("worker_digest"), Queue("results")]
SHORTEST = delay_queue(0)


class Declaring(SessionListener):
    """Declares queues as the daemons do."""

    def __init__(self, amqp: AmqpSettings, queues: list[Queue]) -> None:
        self._loop = EventLoop()
        self._session = Session(self._loop, amqp, "declaring", on_error=pytest.fail)
        self._provider = Provider(self._loop, self._session)
        self._session.attach(self)
        self._missing = queues
        self._session.open()
        self._loop.run()
        self._loop.close()

    def session_up(self) -> None:
        if not self._missing:
            self._session.close(self._loop.stop)
            return
        self._provider.provide(self._missing[0], done=self._done, failed=pytest.fail)

    def _done(self) -> None:
        self._missing = self._missing[1:]
        self.session_up()


def declare(url: str, queues: list[Queue], **types: str) -> None:
    address = AmqpSettings.from_url(url)
    Declaring(AmqpSettings(address.hosts, address.user, address.password, address.vhost, **types), queues)


@pytest.mark.parametrize(
    ("internal", "shared", "delays"),
    [
        ("default", "default", DELAY_QUEUES),
        ("classic", "quorum", DELAY_QUEUES[:1]),  # a new one takes a second
        ("quorum", "default", DELAY_QUEUES[:1]),
    ],
)
def test_a_queue_has_the_type_that_is_asked_for_and_is_bare_otherwise(
    broker: Node, vhost: str, internal: str, shared: str, delays: list[Queue]
) -> None:
    for _ in range(2):  # as every daemon does
        declare(
            broker.url_of(vhost),
            INTERNAL + SHARED + delays,
            queue_type=internal,
            shared_queue_type=shared,
        )
    made = broker.queues(vhost)
    assert made.keys() == {queue.name for queue in INTERNAL + SHARED + delays}
    noted = {"x-queue-type": "classic"} if broker.version >= (4,) else {}  # RabbitMQ 4 notes its own default
    for queues, kind in ((INTERNAL, internal), (SHARED, shared), (delays, "quorum")):
        for queue in queues:
            found = made[queue.name]
            assert found.pop("type") == (kind if kind != "default" else "classic")  # as RabbitMQ has it
            unlimited = {"x-delivery-limit"} if kind == "quorum" and broker.version >= (4,) else set()
            assert {name for name in found if name == "x-delivery-limit"} == unlimited
            assert found.pop("x-delivery-limit", -1) == -1
            if not queue.arguments:
                assert found == ({"x-queue-type": kind} if kind != "default" else noted)


def test_an_existing_rung_of_another_type_is_used_as_it_is(
    foreign: Foreign, amqp_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = {"x-message-ttl": 250, "x-dead-letter-exchange": ""}
    foreign.declare(SHORTEST.name, arguments=arguments)  # and nothing leads to it: its maker died
    declare(amqp_url, [SHORTEST, Queue("worker_late")])
    foreign.publish_to(SHORTEST.name, "worker_late", "1")
    assert foreign.get("worker_late").body == "1"
    assert caplog.text.count("other arguments; using it unchanged") == 1


@pytest.fixture
def impatient(broker: Node) -> Iterator[None]:
    """Have dead-lettering tried again after a quarter of a second instead of three minutes."""
    option = "rabbit, dead_letter_worker_publisher_confirm_timeout"
    broker.evaluate(f"application:set_env({option}, 250)")
    yield
    broker.evaluate(f"application:set_env({option}, 180000)")


def test_a_rung_keeps_what_has_no_queue_to_go_to(impatient: None, foreign: Foreign, amqp_url: str) -> None:
    declare(amqp_url, [SHORTEST])
    foreign.publish_to(SHORTEST.name, "worker_late", "1")
    wait_until(lambda: foreign.depth(SHORTEST.name) == 0)  # its time is over
    foreign.declare("worker_late")
    assert foreign.get("worker_late").body == "1"
