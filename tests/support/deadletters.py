"""Dead letters as a test makes them, and the commands that work on them."""

import json
import subprocess
from collections.abc import Iterable
from typing import Any

import amqp
from support.foreign import Foreign
from support.processes import run_cli
from support.waiting import wait_until

from taskqueue.private_broker.rabbitmq import USER

FAILED, REJECTED = "taskqueue_failed", "taskqueue_rejected"
EARLIER = [
    {"attempt": 1, "what": "crashed", "error": "killed by SIGSEGV", "host": "h", "worker": "digest/1",
     "started": 1700000000.5, "ended": 1700000001.5, "peak_memory": 1048576},
    {"attempt": 2, "what": "failed", "error": "ValueError: no", "host": "h", "worker": "digest/2",
     "started": 1700000002.5, "ended": 1700000003.5},
]  # fmt: skip


def keep(foreign: Foreign, name: str, body: str | bytes = "1", **options: Any) -> None:
    """Publish a workitem as it is kept after it failed."""
    kind = options.pop("type", "digest")
    headers = {
        "x-taskqueue-reason": options.pop("reason", "ValueError: no"),
        "x-taskqueue-queue": options.pop("queue", f"worker_{kind}"),
        "x-taskqueue-attempt": 2,
        "x-taskqueue-crashes": 1,
        "x-taskqueue-failures": 1,
        "x-taskqueue-deadline": 1700000000.0,
        "x-taskqueue-ended": 1700000003.5,
        "x-taskqueue-history": EARLIER,
        "x-taskqueue-user": "joe",
        "x-taskqueue-tenant": options.pop("tenant", None),
        "mine": ["kept", 1.5],
    }
    where = options.pop("where", FAILED)
    headers = {name: value for name, value in headers.items() if value is not None}
    fields = {"type": kind, "message_id": name, "user_id": USER} | options
    foreign.publish(body, where, application_headers=headers, **fields)


def keep_many(foreign: Foreign, number: int, **options: Any) -> list[str]:
    foreign.declare(FAILED)
    return keep_in_order(foreign, number, **options)


def keep_in_order(foreign: Foreign, number: int, **options: Any) -> list[str]:
    """Keep messages in the queue, which exists; return their ids."""
    names = [f"id{each:04}" for each in range(number)]
    for name in names:
        keep(foreign, name, **options)
    return names


def run(url: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return run_cli(*arguments, env={"TASKQUEUE_AMQP": url}, **options)


def output(url: str, *arguments: str) -> str:
    """Return what a command prints; it must succeed."""
    done = run(url, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def value(url: str, *arguments: str) -> Any:
    return json.loads(output(url, *arguments, "--format", "json"))


def listed(url: str, *arguments: str) -> list[str]:
    return [each["id"] for each in value(url, "failed", "list", *arguments)]


def ids(messages: Iterable[amqp.Message]) -> list[str]:
    return [message.properties["message_id"] for message in messages]


def left(foreign: Foreign, number: int, queue: str = FAILED) -> list[str]:
    """Return the ids of a queue's messages in their order, which must be so many."""
    wait_until(lambda: foreign.depth(queue) == number, what=lambda: f"{number}, not {foreign.depth(queue)}")
    return ids(foreign.collect(queue, number))


def keep_kinds(foreign: Foreign) -> None:
    foreign.declare(FAILED)
    keep(foreign, "a")
    keep(foreign, "b", type="resize", reason="KeyError: 1")
    keep(foreign, "c", reason="KeyError: 2")
