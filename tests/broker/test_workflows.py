"""Workflows through real daemons: started by the wire, run by workers, and kept by the flow process."""

import json
import secrets

import amqp
import pytest
from support.ground import Ground
from support.waiting import wait_until
from support.workflows import Flows

from taskqueue.config import AmqpSettings
from taskqueue.errors import BadWorkflow, FlowRefused, NoFlow
from taskqueue.flow import client


@pytest.fixture(scope="module")
def shop(shared: Ground) -> Flows:
    return Flows(shared)


def test_a_graph_with_a_map_runs_in_order_and_passes_results_on(shop):
    id_ = shop.start(
        {"step": "list", "type": "numbers", "params": [5]},
        {"step": "each", "type": "double", "map": {"$result": "list"}},
        {"step": "sum", "type": "total", "params": [{"$results": "each"}]},
        shop.note("last", "map", ["sum"]),
        shop.note("end", "map", on="succeeded"),
    )  # fmt: skip
    assert shop.wait(id_) == "succeeded"
    assert shop.ask("result", id_, step="each")["result"] == [0, 2, 4, 6, 8]
    assert shop.ask("result", id_, step="sum")["result"] == 20
    wait_until(lambda: shop.noted("map") == {"last": 1, "end": 1})


def test_a_join_of_five_hundred_runs_once(shop):
    names = [f"s{number}" for number in range(500)]
    steps = [{"step": name, "type": "double", "params": [1]} for name in names]
    id_ = shop.start(*steps, shop.note("join", "join", names))
    assert shop.wait(id_) == "succeeded"
    assert shop.noted("join") == {"join": 1}
    assert shop.ask("show", id_)["steps"] == {"succeeded": 501}


def test_a_failure_skips_the_rest_and_retry_goes_on_from_there(shop):
    flag = shop.ground.open / "flag"
    id_ = shop.start(
        {"step": "a", "type": "need", "params": [str(flag)]},
        shop.note("b", "retry", ["a"]),
        shop.note("bad", "retry", on="failed"),
    )
    assert shop.wait(id_) == "failed"
    wait_until(lambda: shop.noted("retry") == {"bad": 1})
    steps = {each["step"]: each for each in shop.ask("steps", id_)["steps"]}
    assert steps["a"]["error"]["type"] == "FileNotFoundError"
    assert steps["b"]["state"] == "skipped"
    flag.touch()
    assert shop.ask("retry", id_)["again"] == 1
    assert shop.wait(id_) == "succeeded"
    assert shop.noted("retry") == {"bad": 1, "b": 1}


def test_cancel_stops_what_runs_and_what_is_queued(shop):
    id_ = shop.start(
        {"step": "long", "type": "linger", "params": [60]}, shop.note("after", "cancel", ["long"])
    )
    wait_until(lambda: shop.ask("show", id_)["steps"].get("queued") == 1, 20)
    shop.ask("cancel", id_)
    assert shop.wait(id_) == "cancelled"
    assert shop.ask("show", id_)["steps"] == {"cancelled": 2}
    assert shop.noted("cancel") == {}


def test_a_document_with_faults_is_refused_with_all_of_them(shop):
    document = {
        "workflow": "bad",
        "id": secrets.token_hex(16),
        "steps": [
            {"step": "a", "type": "x", "after": ["b"]}, {"step": "b", "type": "x", "after": ["nobody"]},
            {"step": "b", "type": "x y", "params": 5},
        ],
    }  # fmt: skip
    with pytest.raises(BadWorkflow) as caught:
        client.start(shop.amqp, document)
    assert len(caught.value.faults) == 4
    with pytest.raises(FlowRefused, match="there is no workflow"):
        shop.ask("show", document["id"])


def test_a_foreign_producer_starts_a_workflow_without_an_id(shop):
    foreign = shop.ground.foreign
    document = {"kind": "start", "workflow": "foreign", "steps": [shop.note("only", "foreign")]}
    foreign.publish(
        json.dumps(document), "taskqueue_flow_3", content_type="application/json", message_id="mine"
    )
    foreign.publish(
        json.dumps(document), "taskqueue_flow_3", content_type="application/json", message_id="mine"
    )
    wait_until(lambda: shop.noted("foreign") == {"only": 1}, 20)
    (listed,) = (each for each in client.ask_all(shop.amqp) if each["workflow"] == "foreign")
    shop.wait(listed["id"])
    assert shop.noted("foreign") == {"only": 1}


GARBAGE = [
    b"", b"null", b"[1]", b"{", b"\xff", b'{"kind": 5}', b'{"kind": "receipt"}', b"[" * 100_000,
    b'{"a":' * 5000,
    b'{"kind": "receipt", "ended": NaN}', b'{"kind": "start"}', b'{"kind": "start", "steps": [[[]]]}',
    b'{"kind": "command"}', b'{"kind": "command", "action": ["x"]}', b'{"kind": "tick", "x": 1e999}',
    b'{"kind": "command", "action": "show", "workflow": "\\ud800"}',
    b'{"kind": "command", "action": "list", "before": 99999999999999999999999}',
    b'{"kind": "start", "workflow": "x", "tenant": "a\\u0000", "steps": [{"step": "a", "type": "b"}]}',
    b'{"kind": "start", "workflow": "x", "id": "ffffffffffffffffffffffffffffffff", "steps": '
    b'[{"step": "a", "type": "b", "options": {"priority": ' + b"[" * 90 + b"]" * 90 + b"}}]}",
]  # fmt: skip


def test_garbage_in_the_queue_of_a_shard_ends_nothing(shop):
    foreign = shop.ground.foreign
    for body in GARBAGE:
        for number in range(4):
            foreign.publish(body, f"taskqueue_flow_{number}")
    id_ = shop.start(shop.note("a", "garbage"))
    assert shop.wait(id_) == "succeeded"
    assert "Traceback" not in shop.dispatcher.output()


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (
            b'{"kind":"start","workflow":"a","steps":[{"step":"a","type":"a","params":[1e999]}]}',
            "a message that is no JSON: 1e999 is too large for a number of JSON",
        ),
        (b'{"kind":"start","workflow":', "a message that is no JSON: Expecting value: line 1 column 28"),
        (b'{"kind":"start","x":' + b"[" * 200_000, "a message that is nested too deep"),
    ],
)
def test_whoever_sends_what_cannot_be_read_is_told_why(shop, body, error):
    with shop.ground.foreign._do(lambda channel: channel.connection.channel()) as channel:
        replies: list[amqp.Message] = []
        channel.basic_consume("amq.rabbitmq.reply-to", no_ack=True, callback=replies.append)
        message = amqp.Message(body, reply_to="amq.rabbitmq.reply-to", correlation_id="mine")
        channel.basic_publish(message, "", "taskqueue_flow_1")
        while not replies:
            channel.connection.drain_events(timeout=20)
    assert replies[0].correlation_id == "mine"
    assert json.loads(replies[0].body)["error"].startswith(error)


def test_without_a_flow_process_a_start_says_so_clearly(ground):
    amqp = AmqpSettings.from_url(ground.url)
    with pytest.raises(
        NoFlow, match=r"has run on this broker yet: start a dispatcher with a section \[flow\]"
    ):
        client.ask(amqp, "show", "0" * 32)


def test_a_flow_daemon_that_stops_leaves_nothing_to_be_run_twice_by_the_next_one(shop):
    second = shop.ground.start("flow", shop.config)
    second.wait_for("flow process stands by")
    names = [f"s{number}" for number in range(50)]
    steps = [shop.note(name, "stop") for name in names]
    id_ = shop.start(*steps, shop.note("join", "stop", names))
    shop.dispatcher.stop()
    second.wait_for("keeps workflows of 4 shards of 4", timeout=30)
    shop.dispatcher = shop.ground.start("dispatcher", shop.config)
    assert shop.wait(id_) == "succeeded"
    assert shop.noted("stop") == dict.fromkeys([*names, "join"], 1)


def test_forged_messages_keep_the_flow_process_from_nothing(shop):
    id_ = secrets.token_hex(16)
    queue, foreign = shop.queue(id_), shop.ground.foreign
    forged = {"workflow": id_, "step": "a", "run": 1, "proof": "another.database.1"}
    foreign.publish(json.dumps({"kind": "receipt", "status": "failed", "ended": 1} | forged), queue)
    call = {"jsonrpc": "2.0", "method": "double", "params": [1], "id": "1"}
    headers = {f"x-taskqueue-{name}": value for name, value in forged.items()}
    foreign.publish(json.dumps(call), application_headers=headers, content_type="application/json")
    odd = '{"kind":"start","workflow":"a","steps":[{"step":"a","type":"a","params":[1e999]}]}'
    foreign.publish(odd, queue)
    step = {"step": "a", "type": "double", "params": [1]}
    foreign.publish(json.dumps({"kind": "start", "workflow": "a", "tenant": None, "steps": [step]}), queue)
    wait_until(lambda: foreign.depth(queue) == 0)
    client.start(shop.amqp, {"workflow": "test", "id": id_, "steps": [step]})
    assert shop.wait(id_) == "succeeded"
    wait_until(lambda: foreign.depth("worker_double") == 0)  # the forged step has run, and has a receipt
    assert shop.ask("extend", id_, steps=[step | {"step": "b"}])["state"] == "running"
    assert shop.wait(id_) == "succeeded"
