"""Workitems that no handler can take, and results that nobody can send: each ends as a failed result."""

import json
from collections.abc import Iterator
from typing import Any

import amqp
import pytest
from support.ground import Ground, peak_memory
from support.node import Node
from support.processes import Daemon, children
from support.wire import RawMessage, long, most_nested, nested, properties, short, table

MEGABYTE = 1 << 20
ZEROS = bytes(10 * MEGABYTE)
NESTED = b"[" * 100_000 + b"]" * 100_000

#: The most memory that any process of the pool may ever have had in use after all of this.
MOST_MEMORY = 600 * MEGABYTE

CONFIG = "[DEFAULT]\nworkers: 0\n[echo]\nworkers: 1\n[evaluate]\nworkers: 1\n[picky]\nworkers: 1\n"


@pytest.fixture(scope="module")
def daemons(shared: Ground) -> Iterator[tuple[Daemon, Daemon]]:
    """A dispatcher and a pool that live through all of it."""
    shared.foreign.declare("taskqueue")
    both = shared.start("dispatcher", CONFIG), shared.start("workerpool", CONFIG)
    first = [set(children(daemon.pid)) for daemon in both]
    yield both
    assert [set(children(daemon.pid)) for daemon in both] == first, "a process was started anew"
    for daemon in both:
        assert "Traceback" not in daemon.output()
        assert peak_memory(daemon) < MOST_MEMORY


@pytest.fixture
def ground(shared: Ground, daemons: tuple[Daemon, Daemon]) -> Iterator[Ground]:
    """Fail where the daemons do not go on with other work, or left something elsewhere."""
    yield shared
    for worker_type in ("echo", "evaluate", "picky"):
        shared.foreign.publish(b"'proof'", type=worker_type, content_type="text/plain")
        assert shared.foreign.get("results").body.strip(b"'") == b"proof"
    for queue in ("taskqueue", "taskqueue_rejected", "taskqueue_failed", "results"):
        assert not shared.foreign.depth(queue), queue


def run(ground: Ground, worker_type: str, body: bytes, **fields: Any) -> amqp.Message:
    ground.foreign.publish(body, type=worker_type, **fields)
    return ground.foreign.get("results")


def failure(ground: Ground, worker_type: str, body: bytes, **fields: Any) -> dict[str, Any]:
    """Return what a failed workitem's result says, after checking that the workitem was kept."""
    result = run(ground, worker_type, body, **fields)
    assert result.headers["x-taskqueue-status"] == "failed", result.body
    kept = ground.foreign.get("taskqueue_failed")
    assert (kept.body or b"") == body
    said = json.loads(result.body)
    assert kept.headers["x-taskqueue-reason"].startswith(said["error"]["type"])
    return said


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"a": [1, 2', "the body is not application/json: Expecting ',' delimiter"),
        (b"", "the body is not application/json: Expecting value"),
        (b'"\xc3', "the body is not application/json: 'utf-8' codec can't decode"),
        (NESTED, "application/json: nested too deeply to be read"),
        (b"9" * 5000, "an integer has more than 4,300 digits; send it as a string"),
    ],
    ids=["truncated", "empty", "not UTF-8", "nested", "a long number"],
)
def test_json_that_cannot_be_read_is_a_failed_result(ground: Ground, body: bytes, message: str) -> None:
    error = failure(ground, "echo", body, content_type="application/json")["error"]
    assert error["type"] == "WorkitemUnreadable"
    assert error["message"].startswith(message)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("text/plain", "the body is not text/plain: 'utf-8' codec can't decode byte 0xff"),
        ("text/plain; charset=klingon", "the body is not text/plain: charset 'klingon' is not one of"),
        ("text/plain; charset=hex", "the body is not text/plain: charset 'hex' is not one of"),
        ("text/plain; charset=undefined", "the body is not text/plain: charset 'undefined' is not one"),
    ],
)
def test_text_that_cannot_be_read_is_a_failed_result(ground: Ground, kind: str, message: str) -> None:
    error = failure(ground, "echo", b"\xff", content_type=kind)["error"]
    assert error["message"].startswith(message)


def test_a_wrong_content_type_is_a_failed_result(ground: Ground) -> None:
    error = failure(ground, "picky", b"{}", content_type="application/json")["error"]
    assert error["message"] == "content type 'application/json' is not accepted; expected text/*"


def test_zeros_as_json_are_a_failed_result(ground: Ground) -> None:
    assert failure(ground, "echo", ZEROS)["error"]["type"] == "WorkitemUnreadable"


def test_zeros_as_bytes_come_back(ground: Ground) -> None:
    assert run(ground, "echo", ZEROS, content_type="application/octet-stream").body == ZEROS


def test_a_failure_that_is_too_large_with_its_workitem_comes_without_it(ground: Ground) -> None:
    """Ten million null bytes are sixty million characters of JSON; the broker takes sixteen."""
    result = run(ground, "evaluate", ZEROS, content_type="text/plain")
    assert result.headers["x-taskqueue-status"] == "failed"
    assert json.loads(result.body)["workitem"] is None
    kept = ground.foreign.get("taskqueue_failed")
    assert kept.body == ZEROS
    assert "null bytes" in kept.headers["x-taskqueue-reason"]


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("{1, 2}", "handle_task returned a set that cannot be sent"),
        ("object()", "handle_task returned a object that cannot be sent"),
        ("float('nan')", "handle_task returned a float that cannot be sent"),
        ("{'a': [b'bytes']}", "handle_task returned a dict that cannot be sent"),
        ("{(1, 2): 3}", "handle_task returned a dict that cannot be sent"),
        ("(lambda l: l.append(l) or l)([])", "handle_task returned a list that cannot be sent"),
        (
            "__import__('functools').reduce(lambda inner, _: [inner], range(100_000), 0)",
            "handle_task returned a list that cannot be sent",
        ),
    ],
)
def test_what_json_cannot_express_is_a_failed_result(ground: Ground, expression: str, message: str) -> None:
    error = failure(ground, "evaluate", expression.encode(), content_type="text/plain")["error"]
    assert error["type"] == "ResultUnwritable"
    assert error["message"].startswith(message)


@pytest.mark.parametrize(
    ("expression", "kind"),
    [
        (r"'\ud800'", "ResultUnwritable"),
        ("type('Mute', (Exception,), {'__str__': lambda self: 1 / 0})().throw", "AttributeError"),
        ("(_ for _ in ()).throw(type('Mute', (Exception,), {'__str__': lambda self: 1 / 0}))", "Mute"),
        ("(_ for _ in ()).throw(ValueError('x' * 1_000_000))", "ValueError"),
        (r"(_ for _ in ()).throw(ValueError('\ud800\x00\n'))", "ValueError"),
        ("exit(3)", "SystemExit"),
        ("(_ for _ in ()).throw(KeyboardInterrupt)", "KeyboardInterrupt"),
        ("(lambda f: f(f))(lambda f: f(f))", "RecursionError"),
    ],
)
def test_whatever_a_handler_raises_is_a_failed_result(ground: Ground, expression: str, kind: str) -> None:
    said = failure(ground, "evaluate", expression.encode(), content_type="text/plain")
    assert said["error"]["type"] == kind
    assert len(json.dumps(said)) < 100_000


@pytest.mark.parametrize("expression", ["bytes(17 << 20)", "'x' * (17 << 20)", "['x' * (17 << 20)]"])
def test_a_result_larger_than_the_broker_allows_is_a_failed_result(ground: Ground, expression: str) -> None:
    said = failure(ground, "evaluate", expression.encode(), content_type="text/plain")
    assert said["error"]["type"] == "ResultRefused"
    assert "message size 17825" in said["error"]["message"]
    assert said["workitem"] == expression


def test_results_around_one_that_is_too_large_arrive(ground: Ground) -> None:
    """The broker closes the channel without saying which message it was."""
    expressions = ["'a'", "bytes(17 << 20)", "'b'", "'c'"]
    for worker_type, expression in zip(
        ["evaluate", "evaluate", "echo", "evaluate"], expressions, strict=True
    ):
        ground.foreign.publish(expression.encode(), type=worker_type, content_type="text/plain")
    results = ground.foreign.collect("results", 4)
    assert (
        sorted(str(result.headers["x-taskqueue-status"]) for result in results)
        == ["failed"] + ["succeeded"] * 3
    )
    assert ground.foreign.get("taskqueue_failed").body == b"bytes(17 << 20)"


@pytest.mark.parametrize("depth", [5, 60, 100, 5_000, 21_000])
def test_nested_headers_do_no_harm(ground: Ground, broker: Node, depth: int) -> None:
    headers = table([(b"nest", nested(depth, most_nested(broker)))])
    publish_raw(ground, properties(headers=headers, type=short(b"echo")))
    assert ground.foreign.get("results").body == b"1"


@pytest.mark.parametrize("name", ["deadline", "attempt", "crashes"])
@pytest.mark.parametrize(
    "value",
    [nested(5_000), b"A" + long(b"V"), b"V", b"S" + long(b"soon"), b"l\x7f" + b"\xff" * 7],
    ids=["nested", "list", "nothing", "text", "large"],
)
def test_nonsense_in_our_own_headers_does_no_harm(ground: Ground, name: str, value: bytes) -> None:
    headers = table([(b"x-taskqueue-" + name.encode(), value)])
    publish_raw(ground, properties(headers=headers, type=short(b"echo")))
    assert ground.foreign.get("results").body == b"1"


@pytest.mark.parametrize("field", ["message_id", "correlation_id", "content_type"])
def test_properties_that_are_no_text_do_no_harm(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    publish_raw(ground, properties(**{field: short(b"\xff\xfe"), "type": short(b"echo")}))
    with monkeypatch.context() as patch:  # py-amqp would not read them
        patch.setattr("amqp.method_framing.Message", RawMessage)
        assert ground.foreign.get("results").body == b"1"


def test_headers_that_leave_no_room_for_ours_end_as_a_failed_copy_without_them(ground: Ground) -> None:
    """What the dispatcher could pass on, `taskqueue_failed` cannot take with a reason beside it."""
    big = b"x" + long(bytes(130_850))
    publish_raw(ground, properties(headers=table([(b"big", big)]), type=short(b"evaluate")), b"1/0")
    result = ground.foreign.get("results")
    assert json.loads(result.body)["error"]["type"]
    kept = ground.foreign.get("taskqueue_failed")
    assert kept.body == b"1/0"
    assert "big" not in kept.headers


def publish_raw(ground: Ground, raw: bytes, body: bytes = b"1") -> None:
    message = RawMessage(body, raw)
    ground.foreign._do(
        lambda channel: channel.basic_publish_confirm(message, "", "taskqueue", mandatory=True)
    )
