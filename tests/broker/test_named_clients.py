"""Clients with a name: their calls outlive them."""

import gc
from pathlib import Path

import pytest
from support import remote
from support.waiting import wait_until

from taskqueue import AsyncClient, TaskFailed, UnknownCall
from taskqueue.errors import AlreadyRunning, TaskError


def test_who_comes_back_under_a_name_finds_its_calls(served, tmp_path):
    gate = tmp_path / "gate"
    with AsyncClient(served.url, name="billing") as client:
        done, waiting, failed = client.add(5, 6), client.wait(str(gate)), client.divide(1, 0)
        done.wait(10)
        failed.wait(10)
        wait_until(lambda: waiting.status() == "RUNNING")
    gate.touch()
    with AsyncClient(served.url, name="billing") as client:
        assert client.get(done.id).result(10) == 11
        assert client.get(waiting.id).result(10) > 0
        with pytest.raises(TaskFailed, match="ZeroDivisionError"):
            client.get(failed.id).result(10)
        with pytest.raises(UnknownCall) as caught:
            client.get("never")
    print(caught.value)
    assert str(caught.value) == "no call 'never' was submitted, or its result was fetched or has expired"
    with AsyncClient(served.url, name="billing") as client, pytest.raises(UnknownCall):
        client.get(done.id)  # it was fetched


def test_every_result_that_was_not_fetched_is_there_for_the_next_clients(served):
    with AsyncClient(served.url, name="billing") as client:
        calls = [client.add(number, 1) for number in range(150)]
        for call in calls:
            call.wait(20)
    with AsyncClient(served.url, name="billing") as client:
        assert client.get(calls[0].id).result(10) == 1
    with AsyncClient(served.url, name="billing") as client:
        fetched = [client.get(call.id).result(10) for call in calls[1:]]
    assert fetched == [number + 1 for number in range(1, 150)]
    wait_until(lambda: served.foreign.depth("replies_billing") == 0)


def test_a_call_that_is_queued_is_told_from_one_that_was_never_submitted(ground):
    ground.foreign.declare("worker_add")
    with AsyncClient(ground.url, name="billing", direct=True) as client:
        call = client.add(1, 2)
        wait_until(lambda: call.status() == "QUEUED")
    with AsyncClient(ground.url, name="billing", direct=True) as client:
        assert client.get(call.id).status() == "QUEUED"
        with pytest.raises(UnknownCall):
            client.get("never")
        ground.work(Path(remote.__file__), "-n", "1")
        assert client.get(call.id).result(20) == 3
    wait_until(lambda: ground.foreign.depth("replies_billing") == 0)


def test_two_clients_of_one_name_are_one_too_many(served):
    with AsyncClient(served.url, name="twin") as one, AsyncClient(served.url, name="twin") as other:
        assert one.add(1, 2).result(10) == 3
        with pytest.raises(AlreadyRunning) as caught:
            other.add(1, 2).result(20)
    print(caught.value)
    assert str(caught.value) == "another client with the name 'twin' is connected"


def test_a_call_keeps_its_client(served):
    call = AsyncClient(served.url, name="brief").add(1, 2)
    gc.collect()
    assert call.result(10) == 3


def error_of_a_call_whose_client_is_closed_while_the_broker_is_silent(proxy):
    client = AsyncClient(proxy.url, name="brief")
    first = client.add(1, 2)
    wait_until(lambda: first.status() == "QUEUED")
    proxy.stall()
    second = client.add(1, 2)
    client.close()
    return second.error()


def test_a_named_client_is_closed_although_the_broker_is_silent(proxy):
    error = error_of_a_call_whose_client_is_closed_while_the_broker_is_silent(proxy)
    assert str(error) == "the client was closed before the reply came"
    gc.collect()  # pytest reports each socket that is still open as an error of this test


def test_a_name_that_no_queue_can_have_is_refused(served):
    with pytest.raises(TaskError, match="client name 'a b' is not 1 to 100 of letters"):
        AsyncClient(served.url, name="a b").add(1, 2)


def test_replies_outlive_more_clients_of_their_name_than_a_quorum_queue_allows(ground, tmp_path):
    queue, gate = "replies_worn", tmp_path / "gate"
    ground.foreign.declare(
        queue, arguments={"x-queue-type": "quorum"}
    )  # without RabbitMQ 4's limit of 20 off
    ground.work(Path(remote.__file__), "-n", "2")
    with AsyncClient(ground.url, name="worn", direct=True) as client:
        done, waiting = client.add(5, 6), client.wait(str(gate))
        done.wait(20)
        wait_until(lambda: waiting.status() == "RUNNING")
    for _ in range(25):
        with AsyncClient(ground.url, name="worn", direct=True) as client:
            assert client.get(done.id).done()
            assert client.get(waiting.id).status() != "SUCCEEDED"
    gate.touch()
    with AsyncClient(ground.url, name="worn", direct=True) as client:
        assert client.get(done.id).result(20) == 11
        assert client.get(waiting.id).result(20) > 0
    wait_until(lambda: ground.foreign.depth(queue) == 0)
