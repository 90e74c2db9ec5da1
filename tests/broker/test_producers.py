"""The headers and properties that a producer may set, and those that only the broker or taskqueue can."""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.foreign import Foreign
from support.ground import Ground, peak_memory
from support.node import Node
from support.processes import Daemon, run_cli

from taskqueue.messages.forwarding import new_id
from taskqueue.private_broker.rabbitmq import USER

CONFIG = """
[DEFAULT]
workers: 0
[echo]
workers: 1
[evaluate]
workers: 1
retries: 1
retry_delay: 0
"""
MEGABYTE = 1 << 20

#: Has the handler return the headers that it sees, as far as JSON can express them.
HEADERS = "{name: str(value) for name, value in self.workitem.headers.items()}"

#: Where a workitem may be published.
PLACES = ["taskqueue", "worker_evaluate"]


@pytest.fixture(scope="module", autouse=True)
def pool(shared: Ground) -> Daemon:
    """A dispatcher and a pool."""
    queues = (
        "taskqueue",
        "results",
        "taskqueue_failed",
        "taskqueue_rejected",
        "worker_echo",
        "worker_evaluate",
    )
    for queue in queues:
        shared.foreign.declare(queue)
    shared.start("dispatcher")
    return shared.start("workerpool", CONFIG)


@pytest.fixture(scope="module")
def mallorys_url(shared: Ground, session_broker: Node) -> Iterator[str]:
    """The URL of a user of the module.

    RabbitMQ closes connections of a user's name some time after it was deleted, those of a new user, too.
    """
    yield session_broker.add_user("mallory", shared.url.rpartition("/")[2])
    session_broker.delete_user("mallory")


@pytest.fixture
def mallory(mallorys_url: str) -> Iterator[Foreign]:
    """A producer with a name and password of its own."""
    with Foreign(mallorys_url) as client:
        yield client


def evaluate(client: Foreign, queue: str, expression: str, **fields: Any) -> Any:
    """Have an expression evaluated by a handler; return its value."""
    client.publish(json.dumps(expression), queue, type="evaluate", **fields)
    result = client.get("results")
    assert result.headers["x-taskqueue-status"] == "succeeded", result.body
    return json.loads(result.body)


# --- who published it ---


@pytest.mark.parametrize("queue", PLACES)
@pytest.mark.parametrize(
    ("claimed", "vouched", "seen"),
    [
        ({"x-taskqueue-user": "root"}, None, None),
        ({"x-taskqueue-user": "root"}, "mallory", "mallory"),
        ({}, "mallory", "mallory"),
        ({}, None, None),
    ],
)
def test_a_handler_sees_the_publisher_whom_the_broker_vouches_for(
    mallory: Foreign, queue: str, claimed: dict[str, str], vouched: str | None, seen: str | None
) -> None:
    fields = {"user_id": vouched} if vouched else {}
    headers = evaluate(mallory, queue, HEADERS, application_headers=claimed, **fields)
    assert headers.get("x-taskqueue-user") == seen


@pytest.mark.parametrize("queue", PLACES)
def test_the_publisher_is_known_in_every_attempt(mallory: Foreign, queue: str) -> None:
    second = f"self.workitem.attempt == 2 and {HEADERS} or 1 / 0"
    assert evaluate(mallory, queue, second, user_id="mallory")["x-taskqueue-user"] == "mallory"
    due = {"x-taskqueue-due": datetime.now(UTC).timestamp() + 0.3}
    headers = evaluate(mallory, queue, HEADERS, user_id="mallory", application_headers=due)
    assert headers["x-taskqueue-user"] == "mallory"


@pytest.mark.parametrize("queue", PLACES)
def test_the_publisher_is_known_when_a_failed_workitem_is_retried(
    shared: Ground, mallory: Foreign, queue: str
) -> None:
    mallory.publish('"1 / 0"', queue, type="evaluate", user_id="mallory", message_id="m")
    assert json.loads(mallory.get("results").body)["error"]["type"] == "ZeroDivisionError"
    assert run_cli("failed", "retry", "m", env={"TASKQUEUE_AMQP": shared.url}).returncode == 0
    mallory.get("results")
    kept = mallory.get("taskqueue_failed")
    assert (kept.headers["x-taskqueue-user"], kept.properties["user_id"]) == ("mallory", USER)


def test_the_publisher_of_a_rejected_message_is_known(mallory: Foreign) -> None:
    mallory.publish("../x", content_type="text/plain", user_id="mallory")
    assert mallory.get("taskqueue_rejected").headers["x-taskqueue-user"] == "mallory"
    mallory.publish("../x", content_type="text/plain", application_headers={"x-taskqueue-user": "root"})
    assert "x-taskqueue-user" not in mallory.get("taskqueue_rejected").headers


# --- other headers ---


def test_nothing_that_only_we_can_know_comes_from_a_producer(shared: Ground) -> None:
    names = ("attempt", "crashes", "failures", "history", "lease", "status", "host", "unheard-of")
    forged = {f"x-taskqueue-{name}": 7 for name in names} | {
        "x-death": [{"queue": "worker_evaluate", "reason": "expired", "count": 9}],
        "x-first-death-queue": "q",
        "x-last-death-reason": "expired",
        "x-delivery-count": 30,
        "mine": "kept",
    }
    seen = evaluate(shared.foreign, "taskqueue", HEADERS, application_headers=forged)
    assert seen == {"mine": "kept"}
    assert evaluate(shared.foreign, "taskqueue", "self.workitem.attempt", application_headers=forged) == 1


@pytest.mark.parametrize("queue", PLACES)
def test_a_handler_does_not_see_the_way_that_its_workitem_took(shared: Ground, queue: str) -> None:
    due = datetime.now(UTC).timestamp() + 0.5
    headers = {"x-taskqueue-due": due, "mine": 1, "CC": []}
    seen = evaluate(shared.foreign, queue, HEADERS, application_headers=headers)
    assert seen == {"x-taskqueue-due": str(due), "mine": "1"}


@pytest.mark.parametrize("queue", ["taskqueue", "worker_echo"])
def test_due_may_be_a_timestamp_as_amqp_has_it(shared: Ground, queue: str) -> None:
    due = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2)
    headers = {"x-taskqueue-due": due.replace(tzinfo=None)}
    shared.foreign.publish("1", queue, type="echo", application_headers=headers)
    assert shared.foreign.get("results").headers["x-taskqueue-started"] > due.timestamp() - 0.06


@pytest.mark.parametrize("queue", ["taskqueue", "worker_echo"])
def test_a_deadline_may_be_a_timestamp_as_amqp_has_it(shared: Ground, queue: str) -> None:
    past = datetime(2001, 2, 3, tzinfo=UTC).replace(tzinfo=None)
    shared.foreign.publish("1", queue, type="echo", application_headers={"x-taskqueue-deadline": past})
    assert json.loads(shared.foreign.get("results").body)["error"]["type"] == "WorkitemExpired"
    shared.foreign.get("taskqueue_failed")


# --- bodies ---


@pytest.mark.parametrize("kind", ["application/octet-stream", "text/plain", "application/x-unheard-of", None])
def test_json_is_decoded_for_the_handler_whatever_content_type_it_came_under(
    shared: Ground, kind: str | None
) -> None:
    body = b'{"worker_type": "evaluate", "workitem": "[type(body).__name__, self.workitem.content_type]"}'
    shared.foreign.publish(body, content_type=kind)
    assert json.loads(shared.foreign.get("results").body) == ["str", "application/json"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32-be"])
@pytest.mark.parametrize("fields", [{"type": "echo"}, {}], ids=str)
def test_json_in_another_encoding_is_read_with_and_without_a_type(
    shared: Ground, encoding: str, fields: dict[str, str]
) -> None:
    request = {"jsonrpc": "2.0", "method": "echo", "params": ["grüß"], "id": 1}
    shared.foreign.publish(json.dumps(request, ensure_ascii=False).encode(encoding), **fields)
    assert json.loads(shared.foreign.get("results").body)["result"] == request


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_handler_gets_a_compressed_body_decompressed(
    shared: Ground, encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    native = b'{"worker_type": "echo", "workitem": {"a": [1.10]}}'
    shared.foreign.publish(pack(native), content_encoding=encoding)
    assert shared.foreign.get("results").body == b'{"a":[1.1]}'
    picture = {"type": "echo", "content_type": "image/png", "content_encoding": encoding}
    shared.foreign.publish(pack(b"\x89PNG"), **picture)
    assert shared.foreign.get("results").body == b"\x89PNG"


def kept_reason(ground: Ground, body: bytes, *, is_named: bool, **fields: str) -> str:
    """Return why a message is kept: that names its worker type, which the worker reads, or that does not."""
    id_ = new_id()
    ground.foreign.publish(body, message_id=id_, **fields, **({"type": "echo"} if is_named else {}))
    if is_named:
        ground.foreign.get("results", 60)
    kept = None
    while (
        kept is None or kept.properties["message_id"] != id_
    ):  # of an earlier message there may be two copies
        kept = ground.foreign.get("taskqueue_failed" if is_named else "taskqueue_rejected", 60)
    return str(kept.headers["x-taskqueue-reason"])


@pytest.mark.parametrize("how", ["named", "unnamed"])
def test_an_encoding_that_nobody_reads_is_named_in_the_reason(shared: Ground, how: str) -> None:
    reason = kept_reason(shared, b"\x1b", is_named=how == "named", content_encoding="br")
    assert "content encoding 'br' is not one of gzip, deflate" in reason


@pytest.mark.parametrize("how", ["named", "unnamed"])
def test_a_bomb_takes_no_more_memory_than_a_large_body(shared: Ground, pool: Daemon, how: str) -> None:
    bomb = gzip.compress(bytes(1 << 28), 1)
    for _ in range(2):
        reason = kept_reason(
            shared, bomb, is_named=how == "named", content_encoding="gzip", content_type="text/plain"
        )
        assert "bytes when it is decompressed" in reason
    assert peak_memory(pool) < 500 * MEGABYTE
    assert "Traceback" not in pool.output()
