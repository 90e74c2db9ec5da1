"""Foreign clients such as Ruote's AMQP participant: they declare plainly, publish, and get all back."""

import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.ground import Ground
from support.waiting import wait_until

FIXTURE = Path(__file__).parents[1] / "fixtures" / "ruote-workitem.json"
QUEUES = ("taskqueue", "ruote_workitems")
CONFIG = "[DEFAULT]\nworkers: 0\nresults_routing_key: ruote_workitems\n[digest]\nworkers: 1\n"


class PyAmqp:
    """py-amqp, as a Ruote participant and receiver."""

    def __init__(self, ground: Ground) -> None:
        self._foreign = ground.foreign

    def declare(self, queue: str) -> None:
        self._foreign.declare(queue)

    def publish(self, body: bytes) -> None:
        self._foreign.publish(body)

    def get(self, queue: str) -> bytes:
        return self._foreign.get(queue).body


class AmqpTools:
    """The programs of Debian's package amqp-tools."""

    def __init__(self, ground: Ground) -> None:
        self._url = ground.url

    def declare(self, queue: str) -> None:
        assert self._run("amqp-declare-queue", "-d", "-q", queue).strip() == queue.encode()

    def publish(self, body: bytes) -> None:
        self._run("amqp-publish", "-p", "-r", "taskqueue", "-b", body.decode())

    def get(self, queue: str) -> bytes:
        return self._run("amqp-consume", "-q", queue, "-c", "1", "cat")

    def _run(self, program: str, *arguments: str) -> bytes:
        command = [program, "-u", self._url, *arguments]
        return subprocess.run(command, check=True, capture_output=True, timeout=30).stdout


@pytest.fixture(params=[PyAmqp, AmqpTools])
def client(request: pytest.FixtureRequest) -> Callable[[Ground], PyAmqp | AmqpTools]:
    """The parts that make a foreign client of a ground."""
    return request.param


def workitem(**fields: str) -> dict[str, Any]:
    item = json.loads(FIXTURE.read_text())
    item["fields"] |= fields
    return item


def digest(path: str) -> dict[str, Any]:
    data = Path(path).read_bytes()
    return {
        "path": path,
        "size": len(data),
        "lines": data.count(b"\n"),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def start(ground: Ground) -> None:
    ground.start("dispatcher")
    ground.start("workerpool", CONFIG)


def test_who_declares_before_the_daemons_start_gets_the_whole_workitem_back(
    ground: Ground, client: Callable[[Ground], PyAmqp | AmqpTools]
) -> None:
    ruote = client(ground)
    for queue in QUEUES:
        ruote.declare(queue)
    ruote.publish(FIXTURE.read_bytes())  # it waits there
    start(ground)
    returned = json.loads(ruote.get("ruote_workitems"))
    sent = json.loads(FIXTURE.read_text())
    assert returned["fields"].pop("digest") == digest(sent["fields"]["path"])
    assert returned == sent
    for queue in (*QUEUES, "worker_digest"):
        ruote.declare(queue)  # again, as it does at each start


def test_who_declares_after_the_daemons_have_started_agrees_with_them(
    ground: Ground, client: Callable[[Ground], PyAmqp | AmqpTools]
) -> None:
    ruote = client(ground)
    start(ground)
    ruote.declare("taskqueue")
    ruote.publish(FIXTURE.read_bytes())
    wait_for_result(ground)
    ruote.declare("ruote_workitems")  # by now the pool has declared it, too
    returned = json.loads(ruote.get("ruote_workitems"))
    assert returned["fei"] == workitem()["fei"]
    assert returned["fields"]["digest"]["path"] == workitem()["fields"]["path"]


def wait_for_result(ground: Ground) -> None:
    wait_until(lambda: ground.foreign.depth("ruote_workitems") == 1, what="the result")


def test_a_path_that_does_not_exist_comes_back_with_error_and_trace(
    ground: Ground, client: Callable[[Ground], PyAmqp | AmqpTools]
) -> None:
    ruote = client(ground)
    for queue in (*QUEUES, "taskqueue_failed"):
        ruote.declare(queue)
    start(ground)
    sent = workitem(path="/nowhere/at/all")
    ruote.publish(json.dumps(sent).encode())
    returned = json.loads(ruote.get("ruote_workitems"))
    error, trace = returned.pop("error"), returned.pop("trace")
    assert error == "FileNotFoundError: [Errno 2] No such file or directory: '/nowhere/at/all'"
    assert "digest_plugin.py" in trace
    assert trace.rstrip().endswith(error)
    assert returned == sent
    assert json.loads(ground.foreign.get("taskqueue_failed").body) == sent


def test_amqp_get_finds_a_result(ground: Ground) -> None:
    ruote = AmqpTools(ground)
    for queue in QUEUES:
        ruote.declare(queue)
    start(ground)
    ruote.publish(FIXTURE.read_bytes())
    wait_for_result(ground)
    assert json.loads(ruote._run("amqp-get", "-q", "ruote_workitems"))["fields"]["digest"]


def test_a_result_that_nobody_fetches_leaves_ruotes_queue_in_time(ground: Ground) -> None:
    for queue in ("expired", "worker_digest"):
        ground.foreign.declare(queue)
    elsewhere = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "expired"}
    ground.foreign.declare("ruote_workitems", arguments=elsewhere)
    ground.start("workerpool", CONFIG + "results_expire: 0.2\n")
    ground.foreign.publish(FIXTURE.read_bytes(), "worker_digest")
    result = ground.foreign.get("expired")
    assert json.loads(result.body)["fields"]["digest"]
    (death,) = result.headers["x-death"]
    assert (death["reason"], death["queue"]) == ("expired", "ruote_workitems")
    assert ground.foreign.depth("ruote_workitems") == 0
