"""A rejected message is kept, and its sender gets the reply that it asked for."""

import gzip
import json
import time
from typing import Any

import amqp
import pytest
from support.ground import Ground
from support.processes import Daemon
from support.waiting import wait_until

CONFIG = "[DEFAULT]\nworkers: 0\n[echo]\nworkers: 1\n[spurn]\nworkers: 1\n"
RUOTE = {"fei": {"wfid": "20120304"}, "fields": {"params": {"worker_type": "../x"}, "price": 1.5}}
BAD_TYPE = "is not 1 to 100 of letters, digits, '_', '-', '.', beginning with a letter or digit"


@pytest.fixture(scope="module", autouse=True)
def dispatcher(shared: Ground) -> Daemon:
    """A dispatcher, and a pool with a few plugins."""
    for queue in ("taskqueue", "answers"):
        shared.foreign.declare(queue)
    for worker_type in ("echo", "spurn"):
        shared.foreign.declare(f"worker_{worker_type}")
    shared.start("workerpool", CONFIG)
    return shared.start("dispatcher")


def ask(ground: Ground, body: str | bytes | Any, reply_to: str = "answers", **fields: Any) -> None:
    """Publish a message that asks for a reply; what is neither bytes nor str, as JSON."""
    data = body if isinstance(body, bytes | str) else json.dumps(body)
    ground.foreign.publish(data, reply_to=reply_to, **{"message_id": "m"} | fields)


def refused(ground: Ground, body: str | bytes | Any, **fields: Any) -> tuple[Any, amqp.Message]:
    """Return the decoded answer to a message that is rejected, and the copy that is kept."""
    ask(ground, body, **fields)
    answer = ground.foreign.get("answers")
    assert answer.headers["x-taskqueue-status"] == "rejected"
    assert answer.headers["x-taskqueue-workitem"] == "m"
    assert answer.properties["correlation_id"] == fields.get("correlation_id", "m")
    assert answer.properties["content_type"] == "application/json"
    return json.loads(answer.body), ground.foreign.get("taskqueue_rejected")


@pytest.mark.parametrize(
    ("body", "fields", "workitem"),
    [
        ({"worker_type": "../x", "workitem": 1.5}, {}, {"worker_type": "../x", "workitem": 1.5}),
        ({"a": 1}, {"content_type": "application/octet-stream"}, {"a": 1}),
        ("../x grüß", {"content_type": "text/plain"}, "../x grüß"),
        ('{"a": "grüß"}'.encode("utf-16"), {}, {"a": "grüß"}),
        (gzip.compress(b'{"a": 1}', mtime=0), {"content_encoding": "gzip"}, {"a": 1}),
        (b"\x89PNG", {"content_type": "image/png"}, None),
        (b"no gzip", {"content_encoding": "gzip"}, None),
        (b"{", {}, None),
        (b"{}", {"content_encoding": "br"}, None),
        ([1, 2], {"type": "../x"}, [1, 2]),
        ({"a": "x" * 5_000_000}, {}, None),
    ],
)
def test_a_rejected_message_is_answered_with_the_reason_and_itself(
    shared: Ground, body: Any, fields: dict[str, Any], workitem: Any
) -> None:
    said, kept = refused(shared, body, **fields, correlation_id="c")
    assert said["error"] == {
        "type": "Unroutable",
        "message": kept.headers["x-taskqueue-reason"],
        "traceback": "",
    }
    assert said["workitem"] == workitem


@pytest.mark.parametrize("worker_type", ["../x", None, 7])
@pytest.mark.parametrize("content_type", ["application/json", "application/octet-stream"])
def test_a_rejected_ruote_workitem_comes_back_with_its_error(
    shared: Ground, worker_type: Any, content_type: str
) -> None:
    sent = RUOTE | {"fields": {"params": {"worker_type": worker_type}, "price": 1.5}}
    said, kept = refused(shared, sent, content_type=content_type)
    reason = kept.headers["x-taskqueue-reason"]
    assert said == sent | {"error": f"Unroutable: {reason}", "trace": reason}


INVALID = (-32600, "no JSON-RPC 2.0 request", None)


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        ({"jsonrpc": "2.0", "method": 1, "params": "bar"}, INVALID),
        ({"jsonrpc": "2.0", "params": [1], "id": "7"}, (-32600, "no JSON-RPC 2.0 request", "7")),
        ({"jsonrpc": "2.0", "method": "../x", "id": 7}, (-32601, BAD_TYPE, 7)),
        ('{"jsonrpc": "2.0", "method": "a", "par', (-32700, "is not JSON", None)),
        ('[{"jsonrpc": "2.0", "method": "a"}, {"', (-32700, "is not JSON", None)),
        ([], INVALID),
        ([1], [INVALID]),
        ([1, 2, 3], [INVALID] * 3),
        ([{"jsonrpc": "2.0", "method": "../x", "id": 5}, {"foo": "boo"}], [(-32601, BAD_TYPE, 5), INVALID]),
        ([1] * 1001, (-32600, "a batch has more than 1000 requests", None)),
        ({"jsonrpc": "2.0", "method": "a", "params": [0] * 600_000}, (-32600, "500,000 values", None)),
        ([{"jsonrpc": "2.0", "method": "a", "params": [0] * 600_000}], (-32600, "500,000 values", None)),
        ('{"jsonrpc": "2.0", "method": "a", "id": ' + "9" * 5000 + "}", (-32600, "4,300 digits", None)),
    ],
)
def test_a_rejected_request_is_answered_as_its_specification_says(
    shared: Ground, body: Any, errors: Any
) -> None:
    said, _ = refused(shared, body)
    assert isinstance(said, list) == isinstance(errors, list)
    pairs = zip(said, errors, strict=True) if isinstance(said, list) else [(said, errors)]
    for response, (code, message, id_) in pairs:
        assert (response["jsonrpc"], response["error"]["code"], response["id"]) == ("2.0", code, id_)
        assert message in response["error"]["message"]


def test_a_workitem_of_too_many_values_is_answered_without_it(shared: Ground) -> None:
    said, _ = refused(shared, {"worker_type": "a", "workitem": [0] * 600_000})
    assert said["workitem"] is None
    assert "more than 500,000 values" in said["error"]["message"]


def test_a_notification_that_nobody_can_perform_is_answered_by_nothing(shared: Ground) -> None:
    ask(shared, {"jsonrpc": "2.0", "method": "../x"})
    shared.foreign.get("taskqueue_rejected")
    assert shared.foreign.poll("answers") is None


def test_a_message_whose_headers_cannot_be_read_is_answered(shared: Ground) -> None:
    deep: Any = 1
    for _ in range(100):
        deep = {"a": deep}
    said, _ = refused(shared, "../x", content_type="text/plain", application_headers={"x": deep})
    assert BAD_TYPE in said["error"]["message"]


def test_a_direct_reply_says_that_a_message_is_rejected(shared: Ground) -> None:
    with shared.foreign._do(lambda channel: channel.connection.channel()) as channel:
        replies: list[amqp.Message] = []
        channel.basic_consume("amq.rabbitmq.reply-to", no_ack=True, callback=replies.append)
        channel.basic_publish(amqp.Message(b"{", reply_to="amq.rabbitmq.reply-to"), "", "taskqueue")
        while not replies:
            channel.connection.drain_events(timeout=10)
    assert json.loads(replies[0].body)["error"]["type"] == "Unroutable"
    shared.foreign.get("taskqueue_rejected")


@pytest.mark.parametrize("queue", ["taskqueue", "taskqueue_rejected", "worker_echo", "worker_none"])
def test_a_reply_to_that_would_be_a_loop_is_logged_and_not_answered(
    shared: Ground, dispatcher: Daemon, queue: str
) -> None:
    ask(shared, "../x", reply_to=queue, content_type="text/plain")
    assert shared.foreign.get("taskqueue_rejected").body == "../x"
    assert shared.foreign.depth(queue) in (0, None)
    dispatcher.wait_for(f"reply_to {queue} would be a loop; ignored")


@pytest.mark.parametrize("queue", ["gone", "x" * 255, "amq.rabbitmq.reply-to.gone", "naïve"])
def test_a_reply_queue_that_is_gone_loses_the_answer_and_nothing_else(
    shared: Ground, dispatcher: Daemon, queue: str
) -> None:
    ask(shared, "../x", reply_to=queue, content_type="text/plain")
    assert shared.foreign.get("taskqueue_rejected").body == "../x"
    if not queue.startswith("amq."):
        assert shared.foreign.depth(queue) is None
        dispatcher.wait_for("cannot send the rejection to the producer")


def test_a_message_is_acknowledged_only_when_its_answer_is_confirmed(ground: Ground) -> None:
    ground.foreign.declare("taskqueue")
    ground.foreign.declare("narrow", arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    killed = ground.start("dispatcher")
    ask(ground, "../first", reply_to="narrow", content_type="text/plain")
    assert ground.foreign.get("taskqueue_rejected").body == "../first"
    ask(ground, "../second", reply_to="narrow", content_type="text/plain")
    killed.wait_for("queue narrow refused a message")
    killed.kill()
    wait_until(lambda: ground.foreign.depth("taskqueue") == 1)
    ground.foreign.get("narrow")
    ground.start("dispatcher")
    assert ground.foreign.get("narrow").properties["correlation_id"] == "m"
    wait_until(lambda: ground.foreign.depth("taskqueue") == 0)


def test_replies_that_find_no_room_hold_nobody_up(shared: Ground, dispatcher: Daemon) -> None:
    shared.foreign.declare("full", arguments={"x-max-length": 0, "x-overflow": "reject-publish"})
    hostile = {"reply_to": "full", "content_type": "text/plain"}
    shared.foreign.publish_many((b"../x" for _ in range(1500)), **hostile)  # more than the window
    shared.foreign.publish(b"1", type="echo")
    assert shared.foreign.get("results", 30).body == b"1"
    assert len(shared.foreign.collect("taskqueue_rejected", 1500)) == 1500
    dispatcher.wait_for("cannot send the rejection to the producer: queue full accepts no messages")


# --- by the consumer ---


def test_an_expired_workitem_is_answered(shared: Ground) -> None:
    late = {"x-taskqueue-deadline": time.time() - 1}
    ask(shared, RUOTE, type="echo", application_headers=late)
    answer = json.loads(shared.foreign.get("answers").body)
    assert answer == RUOTE | {
        "error": "WorkitemExpired: expired before a worker was free",
        "trace": "expired before a worker was free",
    }
    shared.foreign.get("taskqueue_failed")


def test_a_workitem_that_its_handler_rejects_is_answered(shared: Ground) -> None:
    item = RUOTE | {"fields": {"params": {"worker_type": "spurn"}}}
    ask(shared, item)
    answer = shared.foreign.get("answers")
    assert answer.headers["x-taskqueue-status"] == "rejected"
    assert json.loads(answer.body)["error"] == "Reject: unwanted: dict"
    shared.foreign.get("taskqueue_rejected")


@pytest.mark.parametrize("queue", ["taskqueue", "worker_echo"])
def test_a_workitem_that_would_wait_for_ever_is_answered(shared: Ground, queue: str) -> None:
    never = {"application_headers": {"x-taskqueue-due": 1e300}, "type": "echo"}
    shared.foreign.publish("1", queue, reply_to="answers", **never)
    answer = shared.foreign.get("answers")
    assert answer.headers["x-taskqueue-status"] == "rejected"
    assert "more than ten years ahead" in json.loads(answer.body)["error"]["message"]
    shared.foreign.get("taskqueue_rejected")
