"""Receipts that are published together: how they are, and how each is applied for itself."""

import contextlib
import json
import sqlite3
import time
import zlib

import pytest
from support.ground import Ground
from support.script import Scripted
from support.waiting import wait_until
from support.workflows import TASKS, FlowAlone, Flows

from taskqueue.broker.outbound import Outbound, OutboundListener
from taskqueue.broker.publisher import Publication
from taskqueue.broker.receipts import ReceiptPublisher
from taskqueue.flow.schema import State
from taskqueue.process.logs import Log
from taskqueue.workflows.wire import Receipt

LINES = "application/x-ndjson"


class Teller(Scripted, OutboundListener):
    """A process that publishes receipts."""

    def __init__(self, url):
        super().__init__(url)
        self.told = []
        outbound = Outbound(self.loop, self.session, self)
        self.receipts = ReceiptPublisher(self.loop, outbound, Log("test"), self.told.append)

    def tell(self, queue, *bodies, is_signed=False):
        for body in bodies:
            self.receipts.tell(Publication(queue, b"", body, is_signed=is_signed), body)

    def run(self, script):
        self.perform(script, lambda: self.session.is_up, lambda: self.told)


def test_the_receipts_of_a_round_for_one_queue_are_one_message(amqp_url, foreign):
    for queue in ("one", "other"):
        foreign.declare(queue)
    teller = Teller(amqp_url)

    def script():
        teller.tell("one", b"1", b"2")
        teller.tell("other", b"3")
        teller.tell("one", b"4")
        teller.tell("one", b"5", is_signed=True)
        yield lambda: len(teller.told) == 5
        teller.tell("one", b"6")
        yield lambda: len(teller.told) == 6

    teller.run(script())
    found = [foreign.get("one") for _ in range(3)]
    assert [(each.body, each.content_type, each.delivery_mode) for each in found] == [
        (b"1\n2\n4", LINES, 2), (b"5", "application/json", 2), (b"6", "application/json", 2)
    ]  # fmt: skip
    assert ["user_id" in each.properties for each in found] == [False, True, False]
    assert foreign.get("other").body == b"3"


def test_large_receipts_have_messages_of_their_own(amqp_url, foreign):
    foreign.declare("one")
    teller = Teller(amqp_url)
    small, large = b"s" * 5_000, b"l" * 100_000

    def script():
        teller.tell("one", small, large, small, small, small, small, small)
        yield lambda: len(teller.told) == 7

    teller.run(script())
    sizes = [len(foreign.get("one").body) for _ in range(4)]
    assert sizes == [5_000, 100_000, 3 * 5_000 + 2, 2 * 5_000 + 1]


def test_nothing_counts_as_told_before_the_broker_has_it(amqp_url, foreign, monkeypatch):
    monkeypatch.setattr("taskqueue.broker.publisher._FIRST_RETRY", 0.01)
    foreign.declare("one", arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    foreign.publish("full", "one")
    teller = Teller(amqp_url)

    def script():
        teller.tell("one", b"1", b"2")
        tried = time.monotonic() + 0.5  # it is refused again and again
        yield lambda: time.monotonic() > tried
        assert teller.told == []
        foreign.get("one")
        yield lambda: teller.told == [b"1", b"2"]

    teller.run(script())


@contextlib.contextmanager
def limited(broker, size):
    """Have the broker accept only messages of so many bytes."""
    broker.limit_messages(size)
    try:
        yield
    finally:
        broker.limit_messages(16 * 1024 * 1024)


def test_a_receipt_that_is_larger_than_the_broker_accepts_tells_of_a_failure(amqp_url, foreign, broker):
    """Without any receipt, its workflow would never end, and its workitem would stay in its queue."""
    foreign.declare("one")
    teller = Teller(amqp_url)
    origin = {"workflow": "ab" * 16, "step": "s", "run": 2, "proof": "1.2.3", "status": "succeeded"}
    large = Receipt(**origin, ended=1.0, result=json.dumps("l" * 200_000)).encode()

    def script():
        teller.tell("one", b"1", large, b"2")
        yield lambda: len(teller.told) == 3

    with limited(broker, 100_000):
        teller.run(script())
    wait_until(lambda: foreign.depth("one") >= 3)
    found = [text(foreign.get("one")) for _ in range(foreign.depth("one"))]  # some come again
    told = next(json.loads(body) for body in found if len(body) > 1)
    error = told.pop("error")
    assert told == {"kind": "receipt", **origin, "status": "failed", "ended": 1.0}
    assert error["type"] == "ResultRefused"
    assert "max size 100000" in error["message"]


def test_receipts_that_are_larger_together_than_the_broker_accepts_are_told_singly(amqp_url, foreign, broker):
    foreign.declare("one")
    teller = Teller(amqp_url)
    bodies = [b"1" * 3000, b"2" * 3000]

    def script():
        teller.tell("one", *bodies)
        yield lambda: len(teller.told) == 2

    with limited(broker, 5000):
        teller.run(script())
    assert sorted(text(foreign.get("one")).encode() for _ in bodies) == bodies


def test_a_consumer_tells_of_each_step_once(ground: Ground) -> None:
    """No flow process runs: the receipts stay in their queue."""
    number, id_ = 1000, "ab" * 16
    queue = f"taskqueue_flow_{zlib.crc32(id_.encode()) % 4}"
    ground.foreign.declare(queue)
    ground.foreign.declare("worker_double")
    for step in range(number):
        headers = {"x-taskqueue-workflow": id_, "x-taskqueue-step": f"s{step}", "x-taskqueue-run": 1}
        ground.foreign.publish_once(
            json.dumps([step]), "worker_double", type="double", content_type="application/json",
            message_id=f"{id_}.s{step}", application_headers=headers | {"x-taskqueue-proof": "1.2.3"},
        )  # fmt: skip
    ground.work(TASKS, "-n", "2")
    messages, receipts = 0, []
    deadline = time.monotonic() + 60
    while len(receipts) < number and time.monotonic() < deadline:
        message = ground.foreign.get(queue, 20)
        lines = text(message).split("\n")
        assert message.content_type == (LINES if len(lines) > 1 else "application/json")
        messages += 1
        receipts += [json.loads(line) for line in lines]
    assert {each["step"]: each["result"] for each in receipts} == {
        f"s{step}": 2 * step for step in range(number)
    }
    assert len(receipts) == number
    assert messages < number
    wait_until(lambda: ground.foreign.depth("worker_double") == 0)


def text(message):
    return message.body if isinstance(message.body, str) else message.body.decode()


def receipt_of(message, **others):
    """Return the receipt of a step's workitem, as docs/protocol.md has it."""
    headers = message.headers
    origin = {name: headers[f"x-taskqueue-{name}"] for name in ("workflow", "step", "run", "proof")}
    plain = {"kind": "receipt", "status": "succeeded", "ended": time.time(), "result": 1, **origin, **others}
    return json.dumps(plain)


@pytest.fixture
def alone(ground: Ground) -> FlowAlone:
    ground.foreign.declare("worker_plain")
    return FlowAlone(ground)


def started(alone, number, **others):
    """Start a workflow of so many steps; return its id, and their workitems by their names."""
    id_ = alone.start(*({"step": f"s{each}", "type": "plain"} for each in range(number)), **others)
    found = [alone.take("worker_plain") for _ in range(number)]
    return id_, {each.headers["x-taskqueue-step"]: each for each in found}


def test_each_receipt_of_a_message_is_applied_for_itself(alone):
    id_, items = started(alone, 5)
    foreign = receipt_of(items["s4"], proof="0123456789abcdef.0123456789abcdef.5")
    lines = [
        receipt_of(items["s0"]),
        "no JSON", "[1]", '{"kind": "start", "steps": []}', '{"kind": "receipt"}', "[" * 10_000, "",
        receipt_of(items["s1"], status="failed", error={"type": "E", "message": "bad"}),
        receipt_of(items["s2"], proof="wrong"),
        foreign,
        receipt_of(items["s3"], result=[1, 2]),
    ]  # fmt: skip
    alone.ground.foreign.publish("\n".join(lines), Flows.queue(id_), content_type=LINES)
    expected = {
        "s0": State.SUCCEEDED, "s1": State.FAILED, "s2": State.QUEUED, "s3": State.SUCCEEDED,
        "s4": State.QUEUED,
    }  # fmt: skip
    wait_until(lambda: alone.states() == expected, 20, alone.states)
    log = alone.daemon.output()
    assert log.count("dropped: ") == 7
    for word in (
        "no JSON:",
        "no JSON object",
        "no receipt among receipts",
        "cannot be read",
        "nested too deep",
    ):
        assert word in log
    assert "kept by another database" not in log
    assert alone.ground.foreign.depth(Flows.queue(id_)) == 0


def test_a_receipt_that_cannot_be_applied_stops_no_other_of_its_message(alone):
    id_, items = started(alone, 4)
    with contextlib.closing(sqlite3.connect(alone.ground.open / "flow.db", isolation_level=None)) as file:
        file.execute(
            "CREATE TRIGGER poison BEFORE UPDATE OF result ON step WHEN new.result LIKE '%poison%' "
            "BEGIN SELECT RAISE(ABORT, 'poison'); END"
        )
        results = {"s0": 1, "s1": "poison", "s2": "poison too", "s3": 4}
        lines = [receipt_of(items[name], result=result) for name, result in results.items()]
        alone.ground.foreign.publish("\n".join(lines), Flows.queue(id_), content_type=LINES, message_id="m")
        wait_until(lambda: alone.ground.foreign.depth("taskqueue_rejected") == 1, 20)
        assert [alone.states()[f"s{each}"] for each in (0, 3)] == [State.SUCCEEDED] * 2
        kept = alone.ground.foreign.get("taskqueue_rejected")
        assert [json.loads(line)["step"] for line in text(kept).split("\n")] == ["s1", "s2"]
        file.execute("DROP TRIGGER poison")
    alone.ground.foreign.publish(
        kept.body, Flows.queue(id_), content_type=kept.content_type
    )  # as a retry does
    wait_until(lambda: alone.show(id_)["state"] == "succeeded", 20)


def test_many_receipts_in_few_messages_are_applied_in_several_rounds(alone):
    id_, items = started(alone, 600)
    lines = [receipt_of(each) for each in items.values()]
    for _ in range(20):  # most of them come again and again
        alone.ground.foreign.publish("\n".join(lines), Flows.queue(id_), content_type=LINES)
    wait_until(lambda: alone.show(id_)["state"] == "succeeded", 30)
    wait_until(lambda: alone.ground.foreign.depth(Flows.queue(id_)) == 0)
    alone.ground.foreign.publish("\n" * 10_000, Flows.queue(id_), content_type=LINES)
    alone.daemon.wait_for("10,001 receipts in a message; at most 10,000 are read", timeout=20)
