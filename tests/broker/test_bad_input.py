"""The dispatcher keeps bad input with its reason and never loops; routing goes on."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from support.ground import Ground, peak_memory
from support.node import Node
from support.processes import Daemon, dispatchers
from support.wire import RawMessage, long, most_nested, nested, properties, short, table

MEGABYTE = 1 << 20
ZEROS = bytes(10 * MEGABYTE)
NESTED = b"[" * 100_000 + b"]" * 100_000

#: The most memory that a dispatcher may ever have had in use after all of this.
MOST_MEMORY = 250 * MEGABYTE


def native(worker_type: Any, workitem: Any = 1) -> bytes:
    return json.dumps({"worker_type": worker_type, "workitem": workitem}).encode()


MANY = "more than 500,000 values of JSON; name the worker type by the property type"
REQUEST = b'[{"jsonrpc": "2.0", "method": "good", "params": [1]}]'
MEMBERS = json.dumps({f"a{number}": 1 for number in range(400_000)}).encode()
BAD_BODIES = {
    "truncated JSON": (b'{"worker_type": "good", "workitem": [1, 2', "the body is not JSON: "),
    "truncated within a name": (b'{"worker_ty', "the body is not JSON: Unterminated string"),
    "truncated within UTF-8": (b'{"worker_type": "good", "workitem": "\xc3', "byte 37 is not UTF-8"),
    "zeros": (ZEROS, "the body is not a JSON object: it begins with "),
    "empty": (b"", "the body is empty; expected a JSON object"),
    "nested": (NESTED, "the body is JSON nested too deeply to be read"),
    "nested in a native workitem": (
        b'{"worker_type": "good", "workitem": ' + NESTED + b"}",
        "JSON nested too deeply to be read",
    ),
    "nested in a Ruote workitem": (
        b'{"fields": {"params": {"worker_type": "good"}, "x": ' + NESTED + b"}}",
        "JSON nested too deeply to be read",
    ),
    "two objects": (native("good") + b"{}", "text goes on after the object"),
    "an array": (b'["good", 1]', "is no JSON-RPC 2.0 batch: none of its elements is a request"),
    "a batch of a thousand": (b"[" + b"{}," * 1_000 + b"{}]", "a batch has more than 1000 requests"),
    "a batch of a million": (b"[" + b"{}," * 2_000_000 + b"{}]", MANY),
    "a batch with a large request": (REQUEST[:-2] + b"[]," * 5_000_000 + b"1]}]", MANY),
    "empty lists": (b'{"worker_type": "good", "workitem": [' + b"[]," * 5_000_000 + b"1]}", MANY),
    "small objects": (b'{"worker_type": "good", "workitem": [' + b'{"":0},' * 2_000_000 + b"1]}", MANY),
    "many numbers": (b'{"worker_type": "good", "workitem": [' + b"1000," * 3_000_000 + b"1]}", MANY),
    "many members": (MEMBERS, "the JSON object has more than 1,000 members"),
    "a number": (b"7", "is not a JSON object"),
    "no type": (b'{"workitem": 1}', "the JSON object names no worker type"),
    "no version of JSON-RPC": (b'{"method": "good", "id": 1}', "the JSON object names no worker type"),
    "a path as type": (native("../../x"), "worker type '../../x' is not 1 to 100 of letters"),
    "300 letters as type": (native("x" * 300), "worker type 'x{56} ... x{56}' is not 1 to 100"),
    "null bytes in the type": (native("a\0b"), r"worker type 'a\\x00b' is not"),
    "a surrogate as type": (native("\ud800"), r"worker type '\\ud800' is not"),
    "a newline after the type": (native("good\n"), r"worker type 'good\\n' is not"),
    "an empty type": (native(""), "worker type '' is not"),
    "a number as type": (native(7), "worker type 7 is not"),
    "null as type": (native(None), "worker type None is not"),
    "an object as type": (native({"a": [1] * 1000}), "worker type {'a': .*is not"),
    "a path as Ruote's type": (b'{"fields": {"params": {"worker_type": "../x"}}}', "worker type '../x'"),
    "a list as Ruote's fields": (b'{"fields": []}', "names no worker type"),
    "a number as method": (b'{"jsonrpc": "2.0", "method": 1}', "worker type 1 is not"),
    "a number beyond reading": (
        b'{"worker_type": "good", "workitem": ' + b"9" * 5000 + b"}",
        "more than 4,300 digits",
    ),
}
BAD_TYPES = ["../../x", "x" * 101, "a\0b", " good", "good ", "-good", "gööd", "a/b", "a\nb", "#", "*"]


@pytest.fixture(scope="module")
def dispatcher(shared: Ground) -> Iterator[Daemon]:
    """A dispatcher that lives through all of it."""
    shared.foreign.declare("taskqueue")
    daemon = shared.start("dispatcher")
    (first,) = dispatchers(daemon.pid)
    yield daemon
    assert dispatchers(daemon.pid) == [first], "the dispatcher was started anew"
    assert peak_memory(daemon) < MOST_MEMORY
    assert "Traceback" not in daemon.output()


@pytest.fixture
def ground(shared: Ground, dispatcher: Daemon) -> Iterator[Ground]:
    """Fail where the dispatcher does not route any more, or left something elsewhere."""
    shared.foreign.declare("worker_good")
    yield shared
    shared.foreign.publish(b"proof", type="good")
    assert shared.foreign.get("worker_good").body == b"proof"
    assert not shared.foreign.depth("taskqueue_rejected")
    assert shared.foreign.depth("taskqueue") == 0


def rejected(ground: Ground, body: bytes, reason: str, **fields: Any) -> dict[str, Any]:
    """Publish a message; return its headers after checking that it was kept, whole, for this reason."""
    ground.foreign.publish(body, **fields)
    kept = ground.foreign.get("taskqueue_rejected")
    assert (kept.body or b"") == body
    assert re.search(reason, kept.headers["x-taskqueue-reason"]), kept.headers["x-taskqueue-reason"]
    assert len(kept.headers["x-taskqueue-reason"]) < 1000
    assert kept.headers["x-taskqueue-queue"] == "taskqueue"
    return kept.headers


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_body_that_cannot_be_routed_is_kept_with_the_reason(ground: Ground, name: str) -> None:
    body, reason = BAD_BODIES[name]
    headers = rejected(ground, body, reason, content_type="application/json", message_id="m", priority=3)
    original = headers["x-taskqueue-original"]
    assert original == {
        "content_type": "application/json",
        "message_id": "m",
        "priority": 3,
        "delivery_mode": 2,
    }


@pytest.mark.parametrize("name", BAD_TYPES)
def test_a_bad_type_property_is_rejected_whatever_the_body(ground: Ground, name: str) -> None:
    headers = rejected(ground, native("good"), "worker type .* is not 1 to 100 of letters", type=name)
    assert headers["x-taskqueue-original"]["type"] == name


def test_a_type_property_that_is_no_text_is_rejected(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_raw(ground, properties(type=short(b"\xff\xfe")))
    assert rb"worker type '\udcff\udcfe' is not 1 to 100" in get_raw(
        ground, "taskqueue_rejected", monkeypatch
    )


def test_zeros_as_text_are_rejected(ground: Ground) -> None:
    rejected(ground, ZEROS, r"worker type '\\x00.* is not", content_type="text/plain")


@pytest.mark.parametrize("content_type", ["image/png", "text/html", "nonsense", "\0", "x" * 255])
def test_a_wrong_content_type_without_a_type_is_rejected(ground: Ground, content_type: str) -> None:
    rejected(
        ground,
        b"good " + native("good"),
        "no type property, content type .* is not one of application/json, text/plain, and the body",
        content_type=content_type,
    )


@pytest.mark.parametrize("body", [ZEROS, b"", NESTED], ids=["zeros", "empty", "nested"])
def test_with_a_type_property_the_body_does_not_matter(ground: Ground, body: bytes) -> None:
    ground.foreign.publish(body, type="good", content_type="application/json")
    assert (ground.foreign.get("worker_good").body or b"") == body


def test_a_type_of_taskqueue_is_no_loop(ground: Ground) -> None:
    ground.foreign.declare("worker_taskqueue")
    for fields in ({"type": "taskqueue"}, {"content_type": "text/plain"}):
        ground.foreign.publish(b"taskqueue round and round", **fields)
    arrived = ground.foreign.collect("worker_taskqueue", 2)
    assert {message.body for message in arrived} == {b"taskqueue round and round", b"round and round"}


def test_the_original_properties_and_headers_are_kept_beside_the_reason(ground: Ground) -> None:
    nest = {"a": {"b": [1, -2, {"c": 0.5}]}, "x-death": [{"count": 1}], "CC": ["worker_good"]}
    user = ground.url.partition("//")[2].partition(":")[0]
    fields = {"correlation_id": "c", "reply_to": "r", "expiration": "50000", "app_id": "a", "user_id": user}
    headers = rejected(ground, b"?", "not a JSON object", application_headers=nest, **fields)
    assert headers["a"] == nest["a"]
    assert "x-death" not in headers
    assert headers["x-taskqueue-original"] == fields | {"delivery_mode": 2}
    assert ground.foreign.get("worker_good").body == b"?"  # the copy that the producer itself asked for


def test_what_was_rejected_does_not_expire(ground: Ground) -> None:
    ground.foreign.publish(b"?", expiration="50000")
    assert "expiration" not in ground.foreign.get("taskqueue_rejected").properties


def test_a_timestamp_that_no_header_can_hold_is_kept(ground: Ground) -> None:
    publish_raw(ground, properties(timestamp=b"\xff" * 8))
    original = ground.foreign.get("taskqueue_rejected").headers["x-taskqueue-original"]
    assert original == {"timestamp": "18446744073709551615"}


@pytest.mark.parametrize("depth", [5, 5_000, 21_000])
def test_headers_of_nested_tables_pass_through(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, broker: Node, depth: int
) -> None:
    nest = nested(depth, most_nested(broker))
    publish_raw(ground, properties(headers=table([(b"nest", nest)]), type=short(b"good")))
    assert nest in get_raw(ground, "worker_good", monkeypatch)


@pytest.mark.parametrize("depth", [5, 5_000, 21_000])
def test_what_is_rejected_keeps_headers_of_nested_tables(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, broker: Node, depth: int
) -> None:
    nest = nested(depth, most_nested(broker))
    publish_raw(ground, properties(headers=table([(b"nest", nest)])))
    raw = get_raw(ground, "taskqueue_rejected", monkeypatch)
    assert nest in raw
    assert b"the body is not a JSON object" in raw


@pytest.mark.parametrize("room", [60, 400])
def test_headers_that_nearly_fill_a_frame_pass_through(ground: Ground, room: int) -> None:
    big = publish_big(ground, room, type=short(b"good"))
    assert ground.foreign.get("worker_good").headers == {"big": big}


def test_headers_that_leave_no_room_for_ours_are_rejected_without_them(ground: Ground) -> None:
    publish_big(ground, 0, type=short(b"good"))
    kept = ground.foreign.get("taskqueue_rejected")
    assert kept.body == b"body"
    reason = kept.headers["x-taskqueue-reason"]
    assert reason.startswith(
        "the broker refused the message: the properties have 131086 bytes; the broker accepts 131052;"
    )
    assert "; kept without its properties: " in reason
    assert "big" not in kept.headers


def test_what_cannot_be_routed_and_leaves_no_room_is_kept_with_both_reasons(ground: Ground) -> None:
    publish_big(ground, 10)
    reason = ground.foreign.get("taskqueue_rejected").headers["x-taskqueue-reason"]
    assert re.match("the body is not a JSON object: .*; kept without its properties: ", reason)


def publish_big(ground: Ground, room: int, **fields: bytes) -> bytes:
    """Publish a message with one big header that leaves `room` bytes; return that header.

    A frame holds 131072 bytes, 8 of them around it and 12 before the properties.
    """
    without = len(properties(headers=table([(b"big", b"x" + long(b""))]), **fields))
    big = bytes(131_072 - 8 - 12 - without - room)
    publish_raw(ground, properties(headers=table([(b"big", b"x" + long(big))]), **fields))
    return big


def get_raw(ground: Ground, queue: str, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Return the properties of the next message undecoded: py-amqp goes no deeper than Python's stack."""
    with monkeypatch.context() as patch:
        patch.setattr("amqp.method_framing.Message", RawMessage)
        return ground.foreign.get(queue).raw


def publish_raw(ground: Ground, raw: bytes) -> None:
    message = RawMessage(b"body", raw)
    ground.foreign._do(
        lambda channel: channel.basic_publish_confirm(message, "", "taskqueue", mandatory=True)
    )
