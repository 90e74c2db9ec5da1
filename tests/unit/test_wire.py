"""Deliveries as they are found among the frames that the broker sends (AMQP 0-9-1, sections 2.3.5, 4.2.6)."""

import struct
from types import SimpleNamespace

import pytest
from support.wire import properties, short

from taskqueue.amqp.frames import ack_frame, confirmed_at, delivered_at
from taskqueue.broker.connection import RawConnection

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


@pytest.mark.parametrize("multiple", [False, True])
def test_a_confirm_is_read_and_an_acknowledgement_written_as_amqp_has_it(multiple):
    written = method(80, struct.pack(">QB", TAG, multiple))
    assert ack_frame(3, TAG, multiple=multiple) == written
    assert confirmed_at(b"before" + written + b"after", 6) == (3, TAG, multiple)


def test_what_is_not_whole_is_no_confirm_yet():
    data = ack_frame(3, TAG, multiple=False)
    assert [end for end in range(len(data) + 1) if confirmed_at(data[:end], 0)] == [len(data)]


@pytest.mark.parametrize(
    "other",
    [
        frame(HEARTBEAT, b"", 0) * 3,
        method(120, struct.pack(">QB", TAG, 0)),  # basic.nack
        delivery(b"body"),
        ack_frame(3, TAG, multiple=False)[:-1] + b"\0",
    ],
    ids=["heartbeats", "refusal", "delivery", "end"],
)
def test_anything_else_is_no_confirm(other):
    assert confirmed_at(other, 0) is None


class Stream(RawConnection):
    """A connection without a socket: the broker's bytes are put in, and what is left to pika is noted."""

    def __init__(self):
        self._on_confirm, self._frame_buffer, self.bytes_received = {}, b"", 0
        self.channel = SimpleNamespace(channel_number=3, _consumers={}, _cancelled=set())
        self._channels = {3: self.channel}
        self.said = []
        self.take_confirms(self.channel, lambda tag, multiple: self.said.append((tag, multiple)))

    def _process_frame(self, found):
        self.said.append(type(getattr(found, "method", found)).__name__)

    def hear(self, data, piece):
        for start in range(0, len(data), piece):
            self._on_data_available(data[start : start + piece])


@pytest.mark.parametrize("piece", [1, 20, 21, 22, 1000])
def test_confirms_and_refusals_keep_their_order_however_the_bytes_come(piece):
    stream = Stream()
    nack = method(120, struct.pack(">QB", 2, 0))
    heartbeat = frame(HEARTBEAT, b"", 0)
    stream.hear(
        ack_frame(3, 1, multiple=False) + nack + heartbeat + ack_frame(3, 9, multiple=True) + nack, piece
    )
    assert stream.said == [(1, False), "Nack", "Heartbeat", (9, True), "Nack"]


def test_a_confirm_for_a_channel_that_is_another_by_now_is_left_to_pika():
    stream = Stream()
    stream._channels = {3: SimpleNamespace(channel_number=3), 4: SimpleNamespace(channel_number=4)}
    stream.hear(ack_frame(3, 1, multiple=False) + ack_frame(4, 1, multiple=False), 1000)
    assert stream.said == ["Ack", "Ack"]
