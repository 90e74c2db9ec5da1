"""A client in its process: threads, forks, the interpreter's end, and a broker that comes and goes."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.foreign import Foreign
from support.node import Node
from support.waiting import wait_until

from taskqueue import AsyncClient, BrokerUnavailable, Client, ReplyLost, UnknownTask


def test_any_number_of_threads_may_use_one_client(client):
    sums = {}

    def add(number):
        sums[number] = [client.add(number, other) for other in range(10)]

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sums == {number: [number + other for other in range(10)] for number in range(8)}


def test_after_a_fork_parent_and_child_each_have_their_own_connection(client, forked):
    assert client.add(1, 2) == 3
    child = forked(lambda: print(client.add(3, 4), client.add(5, 6)))
    assert client.add(7, 8) == 15
    assert (child.wait(20), child.output()) == (0, "7 11\n")
    assert client.add(9, 10) == 19


IN_A_POOL = """
import multiprocessing
from taskqueue import Client, TaskFailed

def divide(number):
    return Client({url!r}).call("divide", 1, number)

if __name__ == "__main__":
    with multiprocessing.Pool(2) as pool:
        try:
            print(pool.map_async(divide, [1, 0]).get(timeout=20))
        except TaskFailed as error:
            print(error, error.type, error.__notes__[0].splitlines()[-1])
"""


def test_a_call_that_fails_in_a_pool_of_processes_fails_there(served):
    code = IN_A_POOL.format(url=served.url)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    last = "ZeroDivisionError: division by zero"
    assert (done.stdout, done.stderr) == (f"{last} ZeroDivisionError {last}\n", "")


@pytest.mark.parametrize("kind", ["Client", "AsyncClient"])
def test_the_interpreters_end_sends_what_was_called_and_is_quick_and_quiet(served, kind, tmp_path):
    note = tmp_path / "note"
    last = f"client.wait('/', {str(note)!r})"
    code = f"from taskqueue import {kind}\nclient = {kind}({served.url!r})\n{last}"
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert time.monotonic() - begun < 10
    wait_until(lambda: note.exists() and len(note.read_text().split()) == 1)


def test_a_client_outlives_its_connection(proxy, foreign, amqp_url):
    foreign.declare("worker_add")
    with (
        AsyncClient(proxy.url, direct=True) as client,
        AsyncClient(proxy.url, direct=True, name="a") as named,
    ):
        lost, kept = client.add(1, 2), named.add(3, 4)
        wait_until(lambda: (lost.status(), kept.status()) == ("QUEUED", "QUEUED"))
        proxy.cut()
        with pytest.raises(ReplyLost) as caught:
            lost.result(10)
        print(caught.value)
        assert str(caught.value) == f"connection lost while waiting for the reply of call {lost.id} of add"
        assert (lost.status(), kept.status()) == ("FAILED", "QUEUED")
        wait_until(lambda: foreign.depth("worker_add") == 2)
        requests = [foreign.get("worker_add") for _ in range(2)]
        (request,) = [each for each in requests if each.properties["reply_to"] == "replies_a"]
        reply = json.dumps({"jsonrpc": "2.0", "result": 7, "id": json.loads(request.body)["id"]})
        foreign.publish(
            reply,
            "replies_a",
            content_type="application/json",
            correlation_id=request.properties["correlation_id"],
        )
        assert kept.result(20) == 7
        again = client.add(1, 2)
        wait_until(lambda: again.status() == "QUEUED", 20)


def test_with_the_broker_ends_the_request_of_who_waits_and_of_nobody_else(
    node_directory: Path, rabbitmq: None
):
    node, caught = Node(node_directory / "ended"), []

    def call():
        with pytest.raises(ReplyLost) as error:
            client.add(1, 2)
        caught.append(str(error.value))

    node.start()
    try:
        with Foreign(node.url) as foreign, Client(node.url, direct=True) as client:
            foreign.declare("worker_add")
            waiting = threading.Thread(target=call)
            waiting.start()
            wait_until(lambda: foreign.depth("worker_add") == 1)
            submitted = client.submit_call("add", (3, 4), {})
            wait_until(lambda: submitted.status() == "QUEUED")  # and so is what was sent before
            node.kill_settled()
            waiting.join(30)
            print(*caught)
            assert [text.partition(" while")[0] for text in caught] == ["connection lost"]
            node.start()
            assert json.loads(foreign.get("worker_add", 30).body)["params"] == [3, 4]
            assert foreign.depth("worker_add") == 0
    finally:
        node.stop()


def test_a_client_survives_a_restart_of_the_broker(node_directory: Path, rabbitmq: None):
    node = Node(node_directory / "restarted")
    node.start()
    try:
        with Client(node.url, direct=True, broker_timeout=1) as client:
            with pytest.raises(UnknownTask, match="no task 'add': queue worker_add does not exist"):
                client.add(1, 2)
            node.kill()
            with pytest.raises(BrokerUnavailable):
                client.add(1, 2)
            node.start()
            wait_until(lambda: _is_unknown(client), 30)
    finally:
        node.stop()


def _is_unknown(client):
    try:
        client.add(1, 2)
    except UnknownTask:
        return True
    except BrokerUnavailable:
        return False
    raise AssertionError("there is no worker")
