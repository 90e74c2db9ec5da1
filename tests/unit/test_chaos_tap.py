"""The eyes of the chaos suite: who has which workitem, by the frames that pass over a line."""

import math
import struct

import amqp
import pytest
from amqp.serialization import dumps
from chaos.tap import Tap

FIRST, SECOND = "<1-instant>", "<2-eating-memory>"
TICK = "0f2d1c5e-9a4b-5c6d-8e7f-001122334455"


class Line:
    """A connection with a service that consumes `worker_quick` on channel 1."""

    def __init__(self, queue: str = "worker_quick") -> None:
        self.tap = Tap()
        self.connection = self.tap.connection()
        self.send(b"AMQP\0\0\x09\x01" + consume(queue))

    def send(self, data: bytes, *, of_service: bool = True) -> bytes:
        return self.connection(of_service, data)

    def deliver(self, workitem: str, tag: int) -> None:
        self.send(delivery(workitem, tag), of_service=False)

    def is_held(self, workitem: str) -> bool:
        return any(until == math.inf for _, until in self.tap.had[workitem])


def method(group: int, number: int, formats: str, *arguments: object) -> bytes:
    """Return a method's frame on channel 1; py-amqp writes its arguments."""
    return frame(1, struct.pack(">HH", group, number) + dumps(formats, arguments))


def header(**properties: str) -> bytes:
    """Return the frame of a message's properties; the message has an empty body."""
    return frame(2, struct.pack(">HHQ", 60, 0, 0) + amqp.Message(**properties)._serialize_properties())


def frame(kind: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, 1, len(payload)) + payload + b"\xce"


def consume(queue: str) -> bytes:
    return method(60, 20, "BssbbbbF", 0, queue, "tag", False, False, False, False, {})


def delivery(workitem: str, tag: int) -> bytes:
    return method(60, 60, "sLbss", "tag", tag, False, "", "worker_quick") + header(message_id=workitem)


def ack(tag: int, *, multiple: bool = False) -> bytes:
    return method(60, 80, "Lb", tag, multiple)


REJECT, NACK = method(60, 90, "Lb", 3, True), method(60, 120, "Lbb", 3, False, True)
CLOSE = method(20, 40, "BsBB", 200, "", 0, 0)
PUBLISH = method(60, 40, "Bssbb", 0, "", "results", False, False)


@pytest.fixture
def line() -> Line:
    line = Line()
    line.deliver(FIRST, 1)
    line.deliver(SECOND, 2)
    line.deliver(TICK, 3)
    return line


def test_a_service_has_what_was_delivered_until_it_acknowledges_it(line: Line) -> None:
    assert all(map(line.is_held, (FIRST, SECOND, TICK)))
    line.send(ack(2))
    assert [line.is_held(each) for each in (FIRST, SECOND, TICK)] == [True, False, True]
    ((since, until),) = line.tap.had[SECOND]
    assert since <= until


def test_one_acknowledgement_may_be_for_all_before(line: Line) -> None:
    line.send(ack(2, multiple=True))
    assert [line.is_held(each) for each in (FIRST, SECOND, TICK)] == [False, False, True]


@pytest.mark.parametrize("given_back", [REJECT, NACK], ids=["reject", "nack"])
def test_a_service_has_no_more_what_it_has_given_back(line: Line, given_back: bytes) -> None:
    line.send(given_back)
    assert [line.is_held(each) for each in (FIRST, SECOND, TICK)] == [True, True, False]


@pytest.mark.parametrize("of_service", [True, False])
def test_a_service_has_nothing_more_of_a_channel_that_is_closed(line: Line, of_service: bool) -> None:  # noqa: FBT001
    line.send(CLOSE, of_service=of_service)
    assert not any(map(line.is_held, (FIRST, SECOND, TICK)))


def test_a_service_has_nothing_more_of_a_connection_that_has_ended(line: Line) -> None:
    line.connection.close()
    assert not any(map(line.is_held, (FIRST, SECOND, TICK)))


def test_what_waits_in_a_log_is_in_nobodys_hands() -> None:
    line = Line(queue="taskqueue_claims")
    line.deliver(FIRST, 1)
    assert not line.tap.had[FIRST]


def test_what_a_service_publishes_has_gone_from_it(line: Line) -> None:
    line.send(PUBLISH + header(correlation_id=FIRST))
    assert set(line.tap.went) == {FIRST}


def test_what_passes_is_seen_in_pieces_as_well() -> None:
    line, rest = Line(), b""
    for each in delivery(FIRST, 1):
        rest = line.connection(False, rest + bytes((each,)))
    assert line.is_held(FIRST)
    assert rest == b""
