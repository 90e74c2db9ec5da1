"""Calls on the wire: what another language sends and gets, by py-amqp and amqp-tools."""

import gzip
import json
import subprocess
from pathlib import Path

import amqp
import pytest
from support import remote
from support.waiting import wait_until

from taskqueue import CallTimeout, Client, UnknownTask

JSON = "application/json"


@pytest.fixture(scope="module")
def served(shared):
    """A ground where a dispatcher runs, the tasks are served, and a queue is there for replies."""
    shared.work(Path(remote.__file__), "-n", "1")
    shared.start("dispatcher")
    shared.foreign.declare("answers")
    return shared


@pytest.fixture
def ask(served):
    """Send a request as JSON text with reply_to; return the next answer."""

    def ask(body, queue="taskqueue", **properties):
        send(served, body, queue, **properties)
        return json.loads(served.foreign.get("answers", 20).body)

    yield ask
    assert served.foreign.depth("answers") == 0


def send(served, body, queue="taskqueue", **properties):
    text = body if isinstance(body, str | bytes) else json.dumps(body)
    served.foreign.publish(text, queue, reply_to="answers", content_type=JSON, **properties)


def request(method, params, **more):
    return {"jsonrpc": "2.0", "method": method, "params": params} | more


@pytest.mark.parametrize("id_", [7, "seven", None])
@pytest.mark.parametrize("params", [[5, 6], {"a": 5, "b": 6}])
def test_a_request_by_position_or_name_is_answered_under_its_id(ask, id_, params):
    assert ask(request("add", params, id=id_)) == {"jsonrpc": "2.0", "result": 11, "id": id_}


def test_amqp_tools_can_call(served):
    body = '{"jsonrpc": "2.0", "method": "add", "params": [5, 6], "id": 1}'
    publish = ["amqp-publish", "-u", served.url, "-r", "taskqueue", "-C", JSON, "-t", "answers", "-b", body]
    subprocess.run(publish, check=True, timeout=30)
    consume = ["amqp-consume", "-u", served.url, "-q", "answers", "-c", "1", "cat"]
    done = subprocess.run(consume, check=True, capture_output=True, timeout=30)
    assert json.loads(done.stdout) == {"jsonrpc": "2.0", "result": 11, "id": 1}


def test_a_notification_is_performed_and_not_answered(served, ask, tmp_path):
    gate, note = tmp_path / "gate", tmp_path / "note"
    gate.touch()
    send(served, request("wait", [str(gate), str(note)]))
    wait_until(note.exists)
    send(served, request("divide", [1, 0]))
    assert ask(request("add", [1, 2], id=1))["result"] == 3  # the one worker is through with them
    assert served.foreign.depth("results") in (0, None)


def test_a_batch_is_answered_by_a_list_without_its_notifications(ask):
    batch = [
        request("add", [1, 2], id="1"),
        request("add", [1, 2]),
        request("divide", [1, 0], id="2"),
        {"foo": "boo"},
        request("nothing", [], id="5"),
    ]
    first, failed, invalid, unknown = ask(batch)
    assert first == {"jsonrpc": "2.0", "result": 3, "id": "1"}
    assert (failed["id"], failed["error"]["code"], failed["error"]["message"]) == (
        "2",
        -32000,
        "division by zero",
    )
    assert (invalid["id"], invalid["error"]["code"]) == (None, -32600)
    assert (unknown["id"], unknown["error"]["code"]) == ("5", -32601)


@pytest.mark.parametrize("first", [1, {}, {"foo": "boo"}, [], request(1, []), request("../x", "params")])
def test_a_batch_whose_first_element_is_invalid_is_performed_and_each_element_answered(ask, first):
    invalid, sum_, other = ask([first, request("add", [5, 6], id=1), 7])
    assert (invalid["id"], invalid["error"]["code"]) == (None, -32600)
    assert sum_ == {"jsonrpc": "2.0", "result": 11, "id": 1}
    assert (other["id"], other["error"]["code"]) == (None, -32600)


def test_a_compressed_request_or_one_in_utf_16_that_nobody_serves_is_answered(ask):
    body = json.dumps(request("nothing", [], id=1))
    packed = {"content_encoding": "gzip", "type": "nothing"}
    for encoded, fields in ((body.encode("utf-16"), {}), (gzip.compress(body.encode()), packed)):
        error = ask(encoded, **fields)["error"]
        assert (error["code"], error["message"]) == (
            -32601,
            "queue worker_nothing does not exist: no worker serves it",
        )


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (request("add", [1], id=1), -32602, "add(a, b): missing a required argument: 'b'"),
        (request("add", "12", id=1), -32600, "params are neither a list nor an object"),
        (request("nothing", [], id=1), -32601, "queue worker_nothing does not exist: no worker serves it"),
        (request("die", [], id=1), -32000, "killed by SIGKILL; 3 crashes in all"),
    ],
)
def test_an_error_has_its_code(ask, body, code, message):
    answer = ask(body)
    assert (answer["id"], answer["error"]["code"], answer["error"]["message"]) == (1, code, message)


def test_a_failures_data_has_type_and_traceback(ask):
    error = ask(request("divide", [1, 0], id=1))["error"]
    assert (error["code"], error["data"]["type"]) == (-32000, "ZeroDivisionError")
    assert "return a / b" in error["data"]["traceback"]


def test_a_request_straight_to_the_tasks_queue_is_answered(ask):
    assert ask(request("add", [1, 2], id=1), "worker_add")["result"] == 3


@pytest.mark.parametrize(("hosts", "mode"), [(1, 1), (2, 2)])
def test_the_request_of_who_waits_is_persistent_only_where_there_are_more_hosts(served, hosts, mode):
    assert mode_of_waiting(served, with_hosts(served.url, hosts)) == mode


@pytest.mark.parametrize(("hosts", "mode"), [(1, 1), (2, 2)])
def test_a_dispatcher_that_knows_more_hosts_makes_it_persistent(ground, hosts, mode):
    ground.start("dispatcher", url=with_hosts(ground.url, hosts))
    assert mode_of_waiting(ground, ground.url) == mode


def with_hosts(url, number):
    """Return a broker's URL that names its host so often."""
    start, _, rest = url.partition("@")
    host, _, vhost = rest.partition("/")
    return f"{start}@{','.join([host] * number)}/{vhost}"


def mode_of_waiting(ground, url):
    """Return the delivery mode in which a call arrives that somebody waits for."""
    ground.foreign.declare("worker_unserved")
    with Client(url) as client:
        with pytest.raises(UnknownTask):
            client.call("nothing")  # now it is connected
        with pytest.raises(CallTimeout):
            client.call("unserved", timeout=0.5)
    return ground.foreign.get("worker_unserved").properties["delivery_mode"]


def test_what_nobody_serves_is_kept_and_no_queue_is_made_for_it(served, ask):
    served.foreign.declare("taskqueue_rejected")
    served.foreign.purge("taskqueue_rejected")
    ask(request("nobody", [], id=1), message_id="lost")
    kept = served.foreign.get("taskqueue_rejected")
    assert kept.properties["message_id"] == "lost"
    assert kept.headers["x-taskqueue-reason"] == "queue worker_nobody does not exist: no worker serves it"
    assert served.foreign.depth("worker_nobody") is None


def test_a_workitem_that_is_no_request_has_its_arguments_and_a_plain_result(served):
    for body in ("[5, 6]", '{"a": 5, "b": 6}'):
        served.foreign.publish(body, type="add", reply_to="answers", content_type=JSON)
        answer = served.foreign.get("answers")
        assert (answer.body, answer.headers["x-taskqueue-status"]) == (b"11", "succeeded")


def test_who_asks_is_told_what_happens_on_the_way(served, tmp_path):
    headers = {"x-taskqueue-notify": True}
    notes = str(tmp_path / "notes")
    send(served, request("stubborn", [notes], id=3), application_headers=headers, correlation_id="mine")
    answers = served.foreign.collect("answers", 7)
    assert {answer.properties["correlation_id"] for answer in answers} == {"mine"}
    *told, last = [json.loads(answer.body) for answer in answers]
    assert last == {"jsonrpc": "2.0", "result": "at last", "id": 3}
    assert [each["method"] for each in told] == [
        "started",
        "retrying",
        "started",
        "retrying",
        "started",
        "finished",
    ]
    assert [each["params"].get("attempt") for each in told] == [1, 2, 2, 3, 3, None]
    assert told[1]["params"]["error"] == "Retry: not yet"
    assert told[-1]["params"] == {"id": "mine", "status": "succeeded"}
    assert all("id" not in each for each in told)


@pytest.mark.parametrize(
    ("method", "params", "told"),
    [
        ("add", [1, 2], ["started", "succeeded"]),
        ("divide", [1, 0], ["started", "failed"]),
        ("refuse", [], ["started", "rejected"]),
        ("die", [], ["started", "retrying", "started", "retrying", "started", "failed"]),
    ],
)
def test_who_asks_is_told_how_it_finished(served, method, params, told):
    headers = {"x-taskqueue-notify": True}
    send(served, request(method, params, id=3), application_headers=headers, correlation_id="mine")
    *notices, last = served.foreign.collect("answers", len(told) + 1)
    notices = [json.loads(each.body) for each in notices]
    assert [each["params"].get("status", each["method"]) for each in notices] == told
    assert notices[-1]["method"] == "finished"
    assert last.headers["x-taskqueue-status"] == told[-1]
    assert json.loads(last.body)["id"] == 3


def test_another_language_cancels_by_the_exchange(served, tmp_path):
    note = tmp_path / "note"
    headers = {"x-taskqueue-notify": True}
    call = request("wait", [str(tmp_path / "never"), str(note)], id=1)
    send(served, call, message_id="mine", application_headers=headers)
    wait_until(note.exists)
    served.foreign._do(  # an exchange returns what no queue is bound to; here the consumers' are
        lambda channel: channel.basic_publish(
            amqp.Message(b"", correlation_id="mine"), "taskqueue_cancel", ""
        )
    )
    *told, answer = served.foreign.collect("answers", 4, 20)
    told = [json.loads(each.body) for each in told]
    assert [each["method"] for each in told] == ["started", "progress", "finished"]
    assert told[-1]["params"] == {"id": "mine", "status": "cancelled"}
    assert answer.headers["x-taskqueue-status"] == "cancelled"
    error = json.loads(answer.body)["error"]
    assert (error["code"], error["message"]) == (-32001, "cancelled by its caller")
