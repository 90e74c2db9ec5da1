"""The dispatcher routes good workitems."""

import json
import time
from datetime import UTC, datetime
from decimal import Decimal

import amqp
import pytest
from support.ground import Ground
from support.processes import Daemon
from support.waiting import wait_until
from support.wire import RawMessage, long, properties, short, table

RUOTE = {"fei": {"wfid": "20120304"}, "fields": {"params": {"worker_type": "ruote"}, "price": 1.10}}
RPC = {"jsonrpc": "2.0", "method": "rpc", "params": [1], "id": 7}

#: Every type of header that RabbitMQ knows, in forms that other codecs change; RabbitMQ 4 sorts them by name.
HEADERS = table(
    sorted(
        [
            (b"pi", b"d@\x09!\xfbTD-\x18"),
            (b"single", b"f?\x8c\xcc\xcd"),
            (b"minus-one", b"b\xff"),
            (b"short", b"s\x80\x00"),
            (b"minus-long", b"I\xff\xff\xff\x85"),
            (b"longest", b"l\x80" + bytes(7)),
            (b"unsigned", b"i\xff\xff\xff\xff"),
            (b"money", b"D\x02\x00\x00\x04\xd2"),
            (b"bytes", b"x" + long(b"\x00\xff")),
            (b"latin-1", b"S" + long(b"caf\xe9")),
            (b"when", b"T\x00\x00\x00\x00\x4f\x53\x75\x76"),
            (b"yes", b"t\x01"),
            (b"nothing", b"V"),
            (
                b"nest",
                b"F" + table([(b"deep", b"F" + table([(b"list", b"A" + long(b"I\x00\x00\x00\x01V"))]))]),
            ),
            (b"h\xe9ader", b"S" + long(b"")),
        ]
    )
)


@pytest.fixture(scope="module", autouse=True)
def dispatcher(shared: Ground) -> Daemon:
    shared.foreign.declare("taskqueue")
    return shared.start("dispatcher")


def route(ground: Ground, queue: str, body: bytes, **fields: object) -> amqp.Message:
    """Publish a message to the dispatcher and return it as it arrives at a queue."""
    ground.foreign.declare(queue)
    ground.foreign.publish(body, **fields)
    return ground.foreign.get(queue)


def publish_raw(ground: Ground, queue: str, raw: bytes) -> None:
    message = RawMessage(b"body", raw)
    ground.foreign._do(lambda channel: channel.basic_publish_confirm(message, "", queue, mandatory=True))


@pytest.mark.parametrize("content_type", ["image/png", "application/json", None])
def test_the_type_property_comes_first_and_the_body_is_not_read(
    shared: Ground, content_type: str | None
) -> None:
    body = b'{"worker_type": "other", "workitem": 1}\xff\x00'
    arrived = route(shared, "worker_by.type-1_x", body, type="by.type-1_x", content_type=content_type)
    assert arrived.body == body
    assert arrived.properties.get("content_type") == content_type


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=utf-8", None])
def test_a_native_workitem_arrives_without_its_envelope(shared: Ground, content_type: str | None) -> None:
    body = json.dumps({"worker_type": "native", "workitem": {"a": [1, None]}, "more": 2}).encode()
    arrived = route(shared, "worker_native", body, content_type=content_type)
    assert arrived.body == b'{"a": [1, null]}'
    assert arrived.properties["type"] == "native"


@pytest.mark.parametrize(
    "value",
    [
        "1.10",
        "1e400",
        "-0",
        "9007199254740993",
        '"\\u00e9"',
        '"é"',
        "[1.10,  1e400 , {}]",
        "null",
        '"\\ud800"',
    ],
)
def test_the_value_of_a_native_workitem_is_not_written_anew(shared: Ground, value: str) -> None:
    body = f' {{ "workitem" :{value}\n,"worker_type":"verbatim"}} '
    assert (
        route(shared, "worker_verbatim", body.encode(), content_type="application/json").body
        == value.encode()
    )


@pytest.mark.parametrize("whole", [RUOTE, RPC], ids=["ruote", "rpc"])
def test_ruote_workitems_and_json_rpc_requests_arrive_whole(shared: Ground, whole: dict[str, object]) -> None:
    name = "ruote" if whole is RUOTE else "rpc"
    body = json.dumps(whole, indent=1).encode()
    assert route(shared, f"worker_{name}", body, content_type="application/json").body == body


def test_a_native_workitem_comes_before_a_ruote_one_and_that_before_json_rpc(shared: Ground) -> None:
    native = {"worker_type": "native", "workitem": "it"}
    body = json.dumps(RUOTE | RPC | native).encode()
    assert route(shared, "worker_native", body).body == b'"it"'
    body = json.dumps(RPC | RUOTE).encode()
    assert route(shared, "worker_ruote", body).body == body


@pytest.mark.parametrize(
    ("body", "rest"), [(b"words two  words\n", b"two  words\n"), (b"words", b""), (b"words ", b"")]
)
def test_a_text_is_routed_by_its_first_word(shared: Ground, body: bytes, rest: bytes) -> None:
    arrived = route(shared, "worker_words", body, content_type="text/plain; charset=utf-8")
    assert (arrived.body or b"") == rest  # py-amqp gives an empty body as str


def test_every_property_arrives_byte_for_byte(shared: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = properties(
        content_type=short(b"image/\xe9"),
        headers=HEADERS,
        delivery_mode=b"\x02",
        correlation_id=short(b"\xff\xfe"),
        reply_to=short(b"somewhere"),
        message_id=short(b"id-1"),
        timestamp=b"\xff" * 8,
        type=short(b"bytes"),
    )
    shared.foreign.declare("direct")
    shared.foreign.declare("worker_bytes")
    publish_raw(shared, "direct", raw)
    publish_raw(shared, "taskqueue", raw)
    monkeypatch.setattr("amqp.method_framing.Message", RawMessage)
    arrived = shared.foreign.get("worker_bytes").raw
    assert arrived == shared.foreign.get("direct").raw  # as the broker itself passes them on
    assert HEADERS in arrived


def test_headers_arrive_as_another_client_wrote_them(shared: Ground) -> None:
    headers = {
        "float": 0.1,
        "negative": -5,
        "big": -(2**40),
        "decimal": Decimal("12.34"),
        "nested": {"list": [1, -1, {"a": None}]},
        "when": datetime(2012, 3, 4, 14, 0, 22, tzinfo=UTC).replace(tzinfo=None),
        "flag": True,
    }
    arrived = route(
        shared, "worker_heads", b"", type="heads", application_headers=headers, priority=3, app_id="x"
    )
    assert arrived.properties["application_headers"] == headers
    assert (arrived.properties["priority"], arrived.properties["app_id"]) == (3, "x")


def test_an_id_is_given_where_there_is_none_and_messages_become_persistent(shared: Ground) -> None:
    first = route(shared, "worker_words", b"words", content_type="text/plain", delivery_mode=1)
    second = route(shared, "worker_words", b"words", content_type="text/plain", delivery_mode=1)
    assert len({first.properties["message_id"], second.properties["message_id"]}) == 2
    assert first.properties["delivery_mode"] == 2
    kept = route(shared, "worker_words", b"words", content_type="text/plain", message_id="mine")
    assert kept.properties["message_id"] == "mine"


def test_what_would_route_or_authenticate_again_stays_behind(shared: Ground) -> None:
    shared.foreign.declare("copies")
    headers = {
        "CC": ["copies"],
        "BCC": ["copies"],
        "x-death": [{"queue": "taskqueue", "reason": "expired", "count": 1}],
        "x-first-death-queue": "taskqueue",
        "x-last-death-reason": "expired",
        "kept": 1,
    }
    user = shared.url.partition("//")[2].partition(":")[0]
    arrived = route(
        shared, "worker_once", b"", type="once", application_headers=headers, user_id=user, message_id="m"
    )
    assert arrived.properties["application_headers"] == {"kept": 1, "x-taskqueue-user": user}
    assert arrived.properties["user_id"] == user  # the dispatcher's, by which it vouches for the header
    # The broker made the two copies that the producer had asked for, and the dispatcher no more.
    assert {copy.properties["message_id"] for copy in shared.foreign.collect("copies", 1)} == {"m"}
    assert shared.foreign.poll("copies") is None


def test_an_expiration_becomes_a_deadline(shared: Ground) -> None:
    before = time.time()
    arrived = route(shared, "worker_late", b"", type="late", expiration="60000")
    assert "expiration" not in arrived.properties
    deadline = arrived.properties["application_headers"]["x-taskqueue-deadline"]
    assert before + 59.9 < deadline < time.time() + 60.1


def test_a_type_without_a_queue_gets_one_that_foreign_declarations_agree_with(shared: Ground) -> None:
    for number in range(3):
        shared.foreign.publish(b"%d" % number, type="unheard-of")
    wait_until(lambda: shared.foreign.depth("worker_unheard-of") == 3)
    shared.foreign.declare("worker_unheard-of")
    assert sorted(message.body for message in shared.foreign.collect("worker_unheard-of", 3)) == [
        b"0",
        b"1",
        b"2",
    ]


@pytest.mark.parametrize(
    "arguments",
    [{"x-max-length": 1000}, {"x-message-ttl": 600_000}, {"x-queue-type": "quorum"}, {"x-max-priority": 5}],
    ids=str,
)
def test_a_worker_queue_with_other_arguments_is_used_as_it_is(
    shared: Ground, arguments: dict[str, object]
) -> None:
    name = "shaped-" + "".join(filter(str.isalnum, str(arguments)))
    shared.foreign.declare(f"worker_{name}", arguments=arguments)
    shared.foreign.publish(b"shaped", type=name)
    assert shared.foreign.get(f"worker_{name}").body == b"shaped"


def test_it_never_ended_meanwhile(dispatcher: Daemon) -> None:
    assert "Traceback" not in dispatcher.output()
    assert "ended" not in dispatcher.output()
