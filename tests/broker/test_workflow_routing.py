"""The way of a step to its workers: straight to its type's queue, or through a dispatcher that acts on it."""

import time

import pytest
from support.ground import Ground
from support.told import Record
from support.waiting import wait_until
from support.workflows import FlowAlone

from taskqueue.flow.schema import State
from taskqueue.messages.events import Routed

SECTIONS = """
[laned]
lanes: 4
[secret]
redact: password
[brief]
record_body: 20
"""


def text_of(message):
    return message.body if isinstance(message.body, str) else message.body.decode()


@pytest.fixture
def alone(ground: Ground) -> FlowAlone:
    ground.foreign.declare("taskqueue")
    return FlowAlone(ground, SECTIONS)


def test_a_step_goes_straight_to_the_queue_of_its_worker_type(alone):
    alone.ground.foreign.declare("worker_plain")
    options = {"priority": 7, "tags": ["red", "blue"]}
    id_ = alone.start({"step": "one", "type": "plain", "params": [1], "options": options}, tenant="acme")
    message = alone.take("worker_plain")
    assert (message.type, message.message_id, message.priority) == ("plain", f"{id_}.one", 7)
    assert (message.content_type, message.delivery_mode) == ("application/json", 2)
    headers, user = message.headers, alone.amqp.user
    assert (headers["x-taskqueue-tenant"], headers["x-taskqueue-labels"]) == ("acme", "red blue")
    assert (headers["x-taskqueue-user"], message.user_id) == (user, user)
    assert alone.ground.foreign.poll("taskqueue") is None


@pytest.mark.parametrize(
    ("type_", "options"),
    [
        ("plain", {"unique": "key"}),
        ("plain", {"delay": 60}),
        ("plain", {"unique": "key", "debounce": 5}),
        ("laned", {}),
        ("unheard", {}),  # it has no queue
    ],
)
def test_a_step_on_which_a_dispatcher_acts_goes_to_dispatchers(alone, type_, options):
    alone.ground.foreign.declare("worker_plain")
    alone.ground.foreign.declare("worker_laned")
    id_ = alone.start({"step": "one", "type": type_, "options": options})
    message = alone.take("taskqueue")
    assert (message.type, message.message_id) == (type_, f"{id_}.one")
    assert message.headers["x-taskqueue-workflow"] == id_
    for queue in ("worker_plain", "worker_laned"):
        assert alone.ground.foreign.poll(queue) is None


def test_the_record_is_told_of_what_no_dispatcher_sees(alone):
    foreign = alone.ground.foreign
    record = Record(foreign)
    alone.daemon.stop()
    alone = FlowAlone(alone.ground, SECTIONS)  # it finds that somebody records
    for name in ("plain", "secret", "brief", "laned"):
        foreign.declare(f"worker_{name}")
    begun = time.time()
    id_ = alone.start(
        {"step": "plain", "type": "plain", "params": ["x"], "options": {"tags": ["red", "blue"]}},
        {"step": "secret", "type": "secret", "body": {"user": "me", "password": "hidden"}},
        {"step": "brief", "type": "brief", "params": ["x" * 100]},
        {"step": "laned", "type": "laned"},
        tenant="acme",
    )  # fmt: skip
    bodies = {name: text_of(alone.take(f"worker_{name}")) for name in ("plain", "secret", "brief")}
    assert alone.take("taskqueue").type == "laned"  # a dispatcher tells of it
    told = {each.worker_type: each for each in record.wait_for(Routed, 3)}
    assert sorted(told) == ["brief", "plain", "secret"]
    plain = told["plain"]
    assert (plain.id, plain.tenant, plain.labels) == (f"{id_}.plain", "acme", "red blue")
    assert (plain.size, plain.head, plain.due) == (len(bodies["plain"]), bodies["plain"], None)
    assert begun - 1 <= plain.at <= time.time()
    assert told["secret"].head == '{"user": "me", "password": "***"}'
    assert told["brief"].head == bodies["brief"][:20]
    record.assert_numbered()


def test_a_workitem_is_noted_as_published_once_the_record_knows_of_it(alone):
    foreign = alone.ground.foreign
    foreign.declare("taskqueue_events", arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    foreign.bind("taskqueue_events")
    foreign.declare("worker_plain")
    alone.daemon.stop()
    alone = FlowAlone(alone.ground, SECTIONS)  # its first event fills the queue
    wait_until(lambda: foreign.depth("taskqueue_events") >= 1, 20)
    alone.start({"step": "one", "type": "plain"})
    alone.take("worker_plain")
    assert alone.states() == {"one": State.READY}  # after a kill it would be published, and told of, again
    wait_until(
        lambda: alone.states() == {"one": State.QUEUED}, 20
    )  # the broker takes no events: work goes on
    assert "are not recorded: the broker" in alone.daemon.output()
