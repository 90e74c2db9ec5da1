"""Results: their queues and their content."""

import json
import socket
import time
from typing import Any

import amqp
import pytest
from support.ground import Ground
from support.processes import Daemon
from support.waiting import wait_until
from support.wire import RawMessage, properties, short

WEEK = "604800000"  # in AMQP's milliseconds

CONFIG = """
[DEFAULT]
workers: 1
results_expire: 5
[digest]
workers: 0
[picky]
results_routing_key: picked
results_expire: 0
[tell]
workers: quiet, loud
[tell_quiet]
workers: 0
[tell_loud]
workers: 1
own: setting
results_routing_key: told
results_expire: 604800
"""


@pytest.fixture(scope="module", autouse=True)
def pool(shared: Ground) -> Daemon:
    return shared.start("workerpool", CONFIG)


def run(
    ground: Ground, worker_type: str, body: bytes, answer: str = "results", **fields: Any
) -> amqp.Message:
    """Publish a workitem to its worker's queue; return its result."""
    ground.foreign.declare(f"worker_{worker_type}")
    if fields.get("reply_to") == answer:
        ground.foreign.declare(answer)
    ground.foreign.publish(body, f"worker_{worker_type}", **fields)
    return ground.foreign.get(answer)


def failure(ground: Ground, worker_type: str, body: bytes, answer: str = "results", **fields: Any) -> Any:
    """Return what a failed workitem's result says, after taking its copy out of `taskqueue_failed`."""
    result = run(ground, worker_type, body, answer, **fields)
    assert result.headers["x-taskqueue-status"] == "failed", result.body
    assert ground.foreign.get("taskqueue_failed").body == body
    return json.loads(result.body)


@pytest.mark.parametrize(
    ("content_type", "body", "kind", "answer"),
    [
        ("application/json", b'{"a": [1.5, null]}', "application/json", b'{"a":[1.5,null]}'),
        ("application/vnd.x+json", b"[ ]", "application/json", b"[]"),
        (None, b'"text"', "text/plain; charset=utf-8", b"text"),
        ("text/plain", "né".encode(), "text/plain; charset=utf-8", "né".encode()),
        ("text/plain; charset=latin-1", b"n\xe9", "text/plain; charset=utf-8", "né".encode()),
        ("image/png", b"\x89PNG\0\xff", "application/octet-stream", b"\x89PNG\0\xff"),
    ],
)
def test_bodies_are_decoded_and_results_encoded_by_content_type(
    shared: Ground, content_type: str | None, body: bytes, kind: str, answer: bytes
) -> None:
    result = run(shared, "echo", body, content_type=content_type)
    assert (result.properties["content_type"], result.body) == (kind, answer)


def test_a_result_says_of_what_and_when_and_where(shared: Ground) -> None:
    before = time.time()
    result = run(shared, "echo", b"1", message_id="mine")
    headers = result.headers
    assert {
        name: headers[f"x-taskqueue-{name}"] for name in ("status", "workitem", "attempt", "host", "worker")
    } == {
        "status": "succeeded",
        "workitem": "mine",
        "attempt": 1,
        "host": socket.gethostname(),
        "worker": "echo/1",
    }
    assert before - 1 < headers["x-taskqueue-started"] <= headers["x-taskqueue-ended"] < time.time() + 1
    assert result.properties["delivery_mode"] == 2
    assert result.properties["type"] == "echo"
    assert result.properties["correlation_id"] == "mine"
    assert result.properties["message_id"] != "mine"
    assert abs(result.properties["timestamp"] - before) < 5


def test_the_correlation_id_is_the_workitems_own(shared: Ground) -> None:
    result = run(shared, "echo", b"1", message_id="mine", correlation_id="yours")
    assert result.properties["correlation_id"] == "yours"
    assert result.headers["x-taskqueue-workitem"] == "mine"


def test_a_correlation_id_that_is_no_text_comes_back_as_it_was(
    shared: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_raw(shared, properties(correlation_id=short(b"\xff\x00\xfe")))
    with monkeypatch.context() as patch:  # py-amqp would not read it
        patch.setattr("amqp.method_framing.Message", RawMessage)
        assert short(b"\xff\x00\xfe") in shared.foreign.get("results").raw


def test_a_group_has_a_key_and_an_expiration_of_its_own(shared: Ground) -> None:
    assert run(shared, "echo", b"1").properties["expiration"] == "5000"
    assert "expiration" not in run(shared, "picky", b"x", "picked", content_type="text/plain").properties
    told = run(shared, "tell", b"1", "told")
    assert told.properties["expiration"] == WEEK
    assert told.headers["x-taskqueue-worker"] == "tell_loud/1"
    assert json.loads(told.body)["settings"] == {"own": "setting"}


def test_reply_to_comes_before_the_groups_key(shared: Ground) -> None:
    assert run(shared, "echo", b"1", "mine", reply_to="mine").body == b"1"
    assert not shared.foreign.depth("results")


def test_a_reply_queue_that_is_gone_gives_way_to_the_groups_key(shared: Ground, pool: Daemon) -> None:
    assert run(shared, "echo", b"1", reply_to="gone").body == b"1"
    assert shared.foreign.depth("gone") is None
    pool.wait_for("reply_to gone does not exist; the result goes to results")


@pytest.mark.parametrize("queue", ["taskqueue", "taskqueue_rejected", "worker_echo", "worker_other"])
def test_a_reply_to_that_would_be_a_loop_is_ignored(shared: Ground, pool: Daemon, queue: str) -> None:
    shared.foreign.declare(queue)
    assert run(shared, "echo", b"1", reply_to=queue).body == b"1"
    pool.wait_for(f"reply_to {queue} would be a loop; ignored")
    assert shared.foreign.depth(queue) == 0


@pytest.mark.parametrize("name", [b"\xff\xfe", b"\0", b"x" * 255, "naïve".encode()])
def test_a_reply_to_that_names_no_queue_gives_way_to_the_groups_key(shared: Ground, name: bytes) -> None:
    publish_raw(shared, properties(reply_to=short(name)))
    assert shared.foreign.get("results").body == b"1"


def test_a_direct_reply_arrives(shared: Ground) -> None:
    with shared.foreign._do(lambda channel: channel.connection.channel()) as channel:
        replies: list[amqp.Message] = []
        channel.basic_consume("amq.rabbitmq.reply-to", no_ack=True, callback=replies.append)
        message = amqp.Message(b'"now"', reply_to="amq.rabbitmq.reply-to")
        channel.basic_publish(message, "", "worker_echo")
        while not replies:
            channel.connection.drain_events(timeout=10)
    assert replies[0].body == b"now"
    assert not shared.foreign.depth("results")


def test_a_failure_has_type_message_and_traceback_and_the_workitem(shared: Ground) -> None:
    said = failure(shared, "evaluate", b'"1 / 0"')
    assert said["error"]["type"] == "ZeroDivisionError"
    assert said["error"]["message"] == "division by zero"
    assert said["error"]["traceback"].startswith("Traceback (most recent call last):\n")
    assert "taskqueue/worker/" not in said["error"]["traceback"]
    assert said["workitem"] == "1 / 0"


def test_the_failure_of_bytes_comes_without_them(shared: Ground) -> None:
    said = failure(shared, "picky", b"\xff", "picked", content_type="image/png")
    assert said["error"]["type"] == "WorkitemUnreadable"
    assert said["error"]["message"] == "content type 'image/png' is not accepted; expected text/*"
    assert said["workitem"] is None


def test_the_copy_of_a_failed_workitem_says_why(shared: Ground) -> None:
    headers = {"mine": 0.5}
    run(shared, "evaluate", b'"1 / 0"', message_id="m", correlation_id="c", application_headers=headers)
    kept = shared.foreign.get("taskqueue_failed")
    assert kept.headers["mine"] == 0.5
    assert kept.headers["x-taskqueue-reason"] == "ZeroDivisionError: division by zero"
    assert kept.headers["x-taskqueue-queue"] == "worker_evaluate"
    assert (kept.properties["message_id"], kept.properties["correlation_id"]) == ("m", "c")


def test_a_workitem_that_expired_before_it_was_run_has_failed(shared: Ground) -> None:
    late = {"x-taskqueue-deadline": time.time() - 1}
    said = failure(shared, "echo", b"1", application_headers=late)
    assert said["error"]["type"] == "WorkitemExpired"
    in_time = {"x-taskqueue-deadline": time.time() + 60}
    assert run(shared, "echo", b"1", application_headers=in_time).body == b"1"


def test_a_missing_results_queue_is_declared_so_that_foreign_declarations_agree(shared: Ground) -> None:
    shared.foreign.delete("results")
    shared.foreign.publish(b"1", "worker_echo")
    wait_until(lambda: shared.foreign.depth("results") == 1)
    shared.foreign.declare("results")
    assert run(shared, "echo", b"2").body == b"1"
    assert shared.foreign.get("results").body == b"2"


def test_a_results_queue_with_other_arguments_is_used_as_it_is(shared: Ground) -> None:
    shared.foreign.declare("shaped", arguments={"x-queue-type": "quorum", "x-max-length": 5})
    shared.foreign.publish(b"1", "worker_echo", reply_to="shaped")
    assert shared.foreign.get("shaped").body == b"1"


def test_results_for_a_full_queue_wait_for_room(shared: Ground, pool: Daemon) -> None:
    shared.foreign.declare("narrow", arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    for number in range(3):
        shared.foreign.publish(b"%d" % number, "worker_echo", reply_to="narrow")
    pool.wait_for("queue narrow refused a message")
    first, *others = (message.body for message in shared.foreign.collect("narrow", 3))
    assert (first, set(others)) == (b"0", {b"1", b"2"})  # whoever is tried again when there is room


@pytest.mark.parametrize("full", ["results", "taskqueue_failed"])
def test_a_failed_workitem_is_acknowledged_when_both_report_and_copy_are_confirmed(
    ground: Ground, full: str
) -> None:
    (other,) = {"results", "taskqueue_failed"} - {full}
    ground.foreign.declare("worker_evaluate")
    ground.foreign.declare(full, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    ground.foreign.publish(b"in the way", full)
    pool = ground.start("workerpool", "[DEFAULT]\nworkers: 0\n[evaluate]\nworkers: 1")
    ground.foreign.publish(b'"1 / 0"', "worker_evaluate")
    pool.wait_for(f"queue {full} refused a message")
    assert ground.foreign.get(other).body
    pool.kill()
    wait_until(lambda: ground.foreign.depth("worker_evaluate") == 1, what="the workitem")


def test_without_reports_nothing_is_published_but_for_who_asks(ground: Ground) -> None:
    for queue in ("worker_echo", "worker_evaluate", "mine"):
        ground.foreign.declare(queue)
    config = "[DEFAULT]\nreport_results: no\nworkers: 0\n[echo]\nworkers: 1\n[evaluate]\nworkers: 1"
    pool = ground.start("workerpool", config)
    ground.foreign.publish(b"1", "worker_echo")
    ground.foreign.publish(b'"1 / 0"', "worker_evaluate")
    ground.foreign.publish(b"2", "worker_echo", reply_to="mine")
    assert ground.foreign.get("mine").body == b"2"
    assert ground.foreign.get("taskqueue_failed").body == b'"1 / 0"'
    assert pool.stop() == 0
    assert [ground.foreign.depth(queue) for queue in ("worker_echo", "worker_evaluate")] == [0, 0]
    assert ground.foreign.depth("results") is None


def test_the_key_can_be_set_for_all_groups(ground: Ground) -> None:
    ground.start("workerpool", "[DEFAULT]\nresults_routing_key: all\nworkers: 0\n[echo]\nworkers: 1")
    assert run(ground, "echo", b"1", "all").body == b"1"
    assert ground.foreign.depth("results") is None


def publish_raw(ground: Ground, raw: bytes) -> None:
    message = RawMessage(b"1", raw)
    ground.foreign._do(
        lambda channel: channel.basic_publish_confirm(message, "", "worker_echo", mandatory=True)
    )
