"""Deliveries as they are found among the frames that the broker sends (AMQP 0-9-1, sections 2.3.5, 4.2.6)."""

import struct

import pytest
from support.wire import properties, short

from taskqueue.broker.wire import delivered_at

PROPERTIES = properties(message_id=short(b"m"), delivery_mode=b"\2")
METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
TAG = 2**40


def frame(kind, payload, channel=3):
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


def method(index, arguments):
    return frame(METHOD, struct.pack(">HH", 60, index) + arguments)


def header(body, channel=3):
    return frame(HEADER, struct.pack(">HHQ", 60, 0, len(body)) + PROPERTIES, channel)


def deliver(*, redelivered=False):
    arguments = struct.pack(">QB", TAG, redelivered) + short(b"amq.topic") + short(b"some.key")
    return method(60, short("ctag1.ü".encode()) + arguments)


def delivery(body, *, redelivered=False):
    return deliver(redelivered=redelivered) + header(body) + (frame(BODY, body) if body else b"")


@pytest.mark.parametrize("redelivered", [False, True])
@pytest.mark.parametrize("body", [b"", b"x", b"\xce" * 5000])
@pytest.mark.parametrize("before", [b"", frame(HEARTBEAT, b"", 0)])
def test_a_delivery_is_read_as_it_was_sent(body, redelivered, before):
    data = before + delivery(body, redelivered=redelivered)
    found = delivered_at(data + b"more", len(before))
    assert found == (3, "ctag1.ü", TAG, redelivered, PROPERTIES, body, len(data))


@pytest.mark.parametrize("body", [b"", b"body"])
def test_what_is_not_whole_is_no_delivery_yet(body):
    data = delivery(body)
    assert [end for end in range(len(data) + 1) if delivered_at(data[:end], 0)] == [len(data)]


@pytest.mark.parametrize(
    "other",
    [
        frame(HEARTBEAT, b"", 0),
        method(80, struct.pack(">QB", 1, 0)),  # basic.ack
        method(50, struct.pack(">H", 312) + short(b"NO_ROUTE") + short(b"") + short(b"q")),  # basic.return
        deliver() + header(b"in two") + frame(BODY, b"in ") + frame(BODY, b"two"),
        delivery(b"")[:-1] + b"\0",
        delivery(b"body")[:-1] + b"\0",
        deliver()[:-1] + b"\0" + header(b""),
        deliver() + header(b"", channel=4),
        deliver() + header(b"body") + frame(BODY, b"body", 4),
        deliver() + frame(HEARTBEAT, b"", 0),
    ],
    ids=[
        "heartbeat", "ack", "return", "two frames", "header's end", "body's end", "method's end",
        "header of another channel", "body of another channel", "heartbeat between",
    ],
)  # fmt: skip
def test_anything_else_is_left_to_pika(other):
    assert delivered_at(other + bytes(100), 0) is None
