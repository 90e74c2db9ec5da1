"""The bytes are made by py-amqp, or by hand where py-amqp never makes the like."""

import random
import struct
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from amqp import Message

from taskqueue.amqp.properties import Properties, with_user
from taskqueue.amqp.tables import MAX_DEPTH, MalformedProperties

HEADERS = {
    "text": "grüß",
    "yes": True,
    "no": False,
    "small": -7,
    "large": -(2**62),
    "real": 1.5,
    "nothing": None,
    "list": [1, "two", [3.0, None]],
    "table": {"inner": {"deep": -1}},
}
FIELDS = {
    "content_type": "application/json",
    "content_encoding": "utf-8",
    "delivery_mode": 2,
    "priority": 9,
    "correlation_id": "c",
    "reply_to": "r",
    "expiration": "1000",
    "message_id": "m",
    "timestamp": 1_700_000_000,
    "type": "digest",
    "user_id": "guest",
    "app_id": "a",
    "cluster_id": "k",
}

#: Headers as RabbitMQ's clients write them: type letter and content, and what they mean.
WRITTEN = [
    (b"b\xff", -1),
    (b"B\xff", 255),
    (b"s\xff\xfe", -2),
    (b"U\xff\xfe", -2),
    (b"u\xff\xfe", 65534),
    (b"I\xff\xff\xff\xff", -1),
    (b"i\xff\xff\xff\xff", 2**32 - 1),
    (b"l\xff\xff\xff\xff\xff\xff\xff\xff", -1),
    (b"L\xff\xff\xff\xff\xff\xff\xff\xff", -1),
    (b"f\x3f\x80\0\0", 1.0),
    (b"d\x3f\xf0\0\0\0\0\0\0", 1.0),
    (b"t\0", False),
    (b"t\x02", True),
    (b"V", None),
    (b"D\x02\0\0\0\x7b", 1.23),
    (b"S\0\0\0\x02\xff!", "\udcff!"),
    (b"x\0\0\0\x02\xff!", b"\xff!"),
    (b"T\0\0\0\0\0\0\0\x01", datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)),
    (b"T\xff\xff\xff\xff\xff\xff\xff\xff", 2**64 - 1),
    (b"A\0\0\0\x03t\x01V", [True, None]),
    (b"F\0\0\0\x04\x01aB\x07", {"a": 7}),
]


def written_by_pyamqp(headers=None, **fields):
    if headers is not None:
        fields["application_headers"] = headers
    return Message(**fields)._serialize_properties()


def read_by_pyamqp(raw):
    message = Message()
    message._load_properties(message.CLASS_ID, raw, 0)
    return message.properties


def entry(name, value):
    return bytes((len(name),)) + name.encode() + value


def nested(levels, kind=b"F"):
    value = b"V"
    for _ in range(levels):
        inner = entry("x", value) if kind == b"F" else value
        value = kind + struct.pack(">I", len(inner)) + inner
    return entry("x", value)


def test_what_another_client_wrote_is_read_and_written_the_same():
    raw = written_by_pyamqp(HEADERS, **FIELDS)
    properties = Properties.decode(raw)
    assert properties.as_dict() == {"headers": HEADERS} | FIELDS
    assert properties.encode() == raw


def test_another_client_reads_what_is_written():
    headers = {name: value for name, value in HEADERS.items() if value is not None}
    properties = Properties(**FIELDS).with_headers(headers)
    assert read_by_pyamqp(properties.encode()) == {"application_headers": headers} | FIELDS


@pytest.mark.parametrize("name", FIELDS)
def test_each_property_stands_alone(name):
    raw = written_by_pyamqp(**{name: FIELDS[name]})
    assert Properties.decode(raw).as_dict() == {name: FIELDS[name]}
    assert Properties.decode(raw).encode() == raw


def test_no_properties_are_two_bytes():
    assert Properties().encode() == b"\0\0"
    assert Properties.decode(b"\0\0") == Properties()
    assert Properties().headers == Properties().as_dict() == {}


@pytest.mark.parametrize(("written", "meant"), WRITTEN, ids=[repr(raw) for raw, _ in WRITTEN])
def test_a_header_of_each_type_is_read_and_passes_through_unchanged(written, meant):
    raw = Properties(header_table=entry("other", b"V") + entry("name", written)).encode()
    properties = Properties.decode(raw)
    assert properties.header("name") == meant
    assert type(properties.header("name")) is type(meant)
    assert properties.headers == {"other": None, "name": meant}
    assert properties.encode() == raw


@pytest.mark.parametrize("price", ["12.5", "-1.5", "0", "-21474836.48", "21474836.47"])
def test_a_decimal_of_another_client_is_read(price):
    written = written_by_pyamqp({"price": Decimal(price)})
    assert Properties.decode(written).header("price") == float(price)


def test_text_that_is_not_utf_8_leaves_as_it_came():
    raw = b"\x80\x00\x02\xff\xfe"  # a content type of these two bytes
    assert Properties.decode(raw).encode() == raw


def test_editing_headers_keeps_the_others_byte_for_byte():
    kept = [entry(f"h{number}", written) for number, (written, _) in enumerate(WRITTEN)]
    table = kept[0] + entry("old", b"I\0\0\0\x01") + b"".join(kept[1:]) + entry("gone", nested(3)[2:])
    edited = Properties(header_table=table).with_headers({"old": "new", "more": 1, "h3": None}, ["gone"])
    assert edited.header_table == b"".join(
        [*kept[:3], *kept[4:], entry("old", b"S\0\0\0\x03new"), entry("more", b"l" + struct.pack(">q", 1))]
    )


def test_headers_are_dropped_by_a_test_of_their_name():
    properties = Properties().with_headers({"x-a": 1, "b": 2, "x-c": 3})
    assert properties.with_headers({}, lambda name: name.startswith("x-")).headers == {"b": 2}


def test_a_header_that_stands_twice_is_replaced_twice():
    table = entry("a", b"B\x01") * 2 + entry("b", b"B\x02")
    assert Properties(header_table=table).with_headers({"a": 3}).headers == {"a": 3, "b": 2}
    assert Properties(header_table=table).with_headers({"a": None}).header_table == entry("b", b"B\x02")


def test_without_the_last_header_there_is_no_header_table():
    assert Properties().with_headers({"a": 1}).with_headers({"a": None}) == Properties()


def test_a_header_that_is_missing_is_none():
    properties = Properties().with_headers({"name": "value with a word in it"})
    assert properties.header("word") is None
    assert Properties().header("word") is None


def test_one_header_is_read_beside_others_that_nest_too_deep():
    properties = Properties(header_table=nested(MAX_DEPTH + 1) + entry("a", b"B\x01"))
    assert properties.header("a") == 1
    assert properties.with_headers({"x": None}).headers == {"a": 1}


@pytest.mark.parametrize("kind", [b"F", b"A"])
def test_headers_nest_as_deep_as_allowed_and_not_deeper(kind):
    assert Properties(header_table=nested(MAX_DEPTH, kind)).headers
    for levels in (MAX_DEPTH + 1, 20_000):
        properties = Properties.decode(Properties(header_table=nested(levels, kind)).encode())
        with pytest.raises(MalformedProperties, match="nest deeper than 64 levels"):
            _ = properties.headers


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (b"", "ends early"),
        (b"\x80", "ends early"),
        (b"\x80\x00", "ends early"),
        (b"\x80\x00\x05abc", "ends early"),
        (b"\x20\x00\0\0\0\x05abcd", "ends early"),
        (b"\x00\x40\0\0\0\0\0\0\0", "ends early"),
        (b"\x00\x01", "does not have"),
        (b"\x00\x02", "does not have"),
    ],
)
def test_a_property_list_that_is_none_is_refused(raw, complaint):
    with pytest.raises(MalformedProperties, match=complaint):
        Properties.decode(raw)


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        (b"\x05ab", "ends early"),
        (b"\x01a", "ends early"),
        (b"\x01aI\0\0", "ends early"),
        (b"\x01aS\0\0\0\x05abc", "ends early"),
        (b"\x01aF\xff\xff\xff\xff", "ends early"),
        (b"\x01aF\0\0\0\x02\x05a", "ends early"),
        (b"\x01aA\0\0\0\x02I\0", "ends early"),
        (b"\x01aZ", "unknown type 'Z'"),
        (b"\x01aA\0\0\0\x01Z", "unknown type 'Z'"),
    ],
)
def test_a_header_table_that_is_none_is_refused_where_it_is_read(table, complaint):
    properties = Properties.decode(Properties(header_table=table).encode())
    with pytest.raises(MalformedProperties, match=complaint):
        _ = properties.headers


def test_a_damaged_property_list_is_read_or_refused_and_nothing_else():
    dice = random.Random(20121)
    table = b"".join(entry(f"h{number}", written) for number, (written, _) in enumerate(WRITTEN))
    whole = Properties(header_table=table + nested(5), **FIELDS).encode()
    refused = 0
    for _ in range(1500):
        raw = bytearray(whole)
        for _ in range(dice.randint(1, 4)):
            raw[dice.randrange(len(raw))] = dice.randrange(256)
        del raw[dice.choice([len(raw), len(raw), dice.randrange(len(raw))]) :]
        try:
            properties = Properties.decode(bytes(raw))
            properties.encode()
            properties.header("h5")
            properties.with_headers({"x-new": 1}, ["h1"]).as_dict()
        except MalformedProperties:
            refused += 1
    assert 200 < refused < 1500


@pytest.mark.parametrize("value", [{1}, object(), {"a": {1}}, [b"", 1j]])
def test_what_no_header_can_hold_is_a_type_error(value):
    with pytest.raises(TypeError, match="a header cannot hold a"):
        Properties().with_headers({"a": value})


def test_a_property_of_more_than_255_bytes_is_a_value_error():
    assert Properties.decode(Properties(type="x" * 255).encode()).type == "x" * 255
    with pytest.raises(ValueError, match="256 bytes are too long"):
        Properties(type="ä" * 128).encode()


def test_replace_changes_and_removes_fields():
    properties = Properties(type="a", user_id="u").replace(type="b", user_id=None)
    assert properties == Properties(type="b")


@pytest.mark.parametrize(
    "there", [[], ["type", "message_id"], [*FIELDS], ["delivery_mode", "app_id"], ["user_id"]]
)
def test_a_user_stands_at_its_place_among_any_properties(there):
    fields = {name: FIELDS[name] for name in there}
    expected = written_by_pyamqp(HEADERS, **(fields | {"user_id": "worker"}))
    assert with_user(written_by_pyamqp(HEADERS, **fields), "worker") == expected
