"""Messages of a producer that may write to the gate's queues: no gate dies of one, and limits go on."""

import json
import signal

from support.waiting import wait_until

from taskqueue.broker.standby import SIGNALS
from taskqueue.config import AmqpSettings, LoggingSettings
from taskqueue.gate.client import limits_in_use
from taskqueue.gate.gate import Gate
from taskqueue.limits.definition import Limit
from taskqueue.messages.names import DIRECT_REPLY
from taskqueue.process import logs
from taskqueue.process.daemon import Signals

LOG, REPORTS = "taskqueue_gate", "taskqueue_gate_reports"
HUGE = 10**400
LATER = 2**40  # than the terms of gates
IDENTITY = list("smvhg")
KEY = ["one", "", ""]
STATE = {"consumers": {}, "permits": [], "starts": []}


def start(url, forked):
    """Start a gate; wait until it leads."""

    def run():
        logs.set_up(LoggingSettings(), "gate")
        with Signals(SIGNALS) as signals:
            tell = lambda state: print(state, flush=True)  # noqa: E731 -- in a process of its own
            return Gate(AmqpSettings.from_url(url), [Limit("one", concurrency=1)], signals, tell).run()

    gate = forked(run)
    gate.wait_for("leads 1 limit", timeout=30)
    return gate


def changes(*found):
    return {"kind": "entry", "term": LATER, "number": 1, "changes": list(found)}


def snapshot(**state):
    return {"kind": "snapshot", "term": 2, "number": 1, "state": STATE | state}


IN_LOG = [
    {"kind": []},
    {"kind": "entry", "term": 1, "number": 1, "changes": 5},
    {"kind": "entry", "term": 2**60, "number": 1, "changes": []},
    {"kind": "entry", "term": 2**52, "number": 1, "changes": []},
    changes(5, [], ["known", "c", [1, 2]], ["known", [], IDENTITY], ["granted", "c", "x", [KEY]]),
    changes(["known", "c", IDENTITY], ["granted", "c", 1, [KEY]], ["started", "c", 1, "x"]),
    changes(["granted", "c", 2, [[1, 2, 3]]], ["started", "c", 1, HUGE], ["ended", "c", 9, None]),
    {"kind": "snapshot", "term": 2**60, "number": 1, "state": STATE},
    {"kind": "snapshot", "term": 2, "number": 1},
    snapshot(starts=[[KEY, [HUGE]]]),
    snapshot(starts=[[KEY, ["x", float("nan")]]]),
    snapshot(consumers={"c": ["s"]}),
    snapshot(permits=[["c", 1, [KEY], "x"]]),
    snapshot() | {"part": 1, "parts": 1},
    snapshot() | {"part": "x", "parts": 1},
]
REPORT = {"kind": "report", "consumer": "c", "number": 1, "identity": IDENTITY, "capacity": 1, "asks": [],
          "ends": [], "held": [], "whole": True}  # fmt: skip
IN_REPORTS = [
    REPORT | {"ends": [[1, HUGE]]},
    REPORT | {"held": [[1, [KEY], HUGE, ""]]},
    REPORT | {"asks": [[[KEY], [1], HUGE]]},
]


def test_no_message_ends_a_gate_or_keeps_the_next_one_from_leading(amqp_url, forked, foreign):
    first = start(amqp_url, forked)
    wait_until(lambda: foreign.consumers(REPORTS))
    for message in IN_REPORTS:
        foreign.publish(json.dumps(message), REPORTS, reply_to=DIRECT_REPLY + ".x")
    for message in IN_LOG:
        foreign.publish(json.dumps(message), LOG)
    assert [each["name"] for each in limits_in_use(AmqpSettings.from_url(amqp_url))] == ["one"]
    first.signal(signal.SIGKILL)
    wait_until(lambda: not foreign.consumers(LOG))
    for message in IN_LOG:
        foreign.publish(json.dumps(message), LOG)
    second = start(amqp_url, forked)
    found = limits_in_use(AmqpSettings.from_url(amqp_url))
    assert [each["name"] for each in found] == ["one"]
    whole = [each for each in IN_LOG if isinstance(each.get("changes"), list) and each["term"] == LATER]
    assert second.output().count("dropped from the log of the gate") == len(IN_LOG) - len(whole)
    assert "changes in the log cannot be read; nothing is granted for 3 s" in second.output()
    assert "Traceback" not in first.output() + second.output()


def part(number, count, term=1, place=1, **state):
    message = snapshot(**state) | {"term": term, "leader": term, "part": number, "parts": count}
    return message | {"number": place + number}


def held(name):
    """Return the state in which a consumer runs something."""
    return {"consumers": {name: IDENTITY}, "permits": [[name, 1, [KEY], 1.0]]}


def test_a_state_in_parts_counts_once_all_of_them_are_there(amqp_url, forked, foreign, broker):
    arguments = {"x-queue-type": "quorum", "x-single-active-consumer": True}
    foreign.declare(LOG, arguments=arguments)
    entry = {"kind": "entry", "term": 1, "number": 9, "changes": [["granted", "b", 2, [KEY]]]}
    whole = [part(0, 2, **held("a")), part(1, 2, **held("b")), entry]
    later = [part(0, 3, 2, **held("x")), part(2, 3, 2, **held("y"))]
    for message in whole + later:
        foreign.publish(json.dumps(message), LOG)
    start(amqp_url, forked)
    (found,) = limits_in_use(AmqpSettings.from_url(amqp_url))
    assert found["in_use"] == 3
    vhost = amqp_url.rpartition("/")[2]
    wait_until(lambda: broker.messages(vhost, LOG) == 1, what="the next state to replace all that")


def test_reports_that_nobody_reads_are_bounded(amqp_url, forked, foreign):
    first = start(amqp_url, forked)
    wait_until(lambda: foreign.consumers(REPORTS))
    first.signal(signal.SIGKILL)
    wait_until(lambda: not foreign.consumers(REPORTS))
    foreign.publish_many(["{}"] * 20_500, REPORTS, reply_to=DIRECT_REPLY + ".x")
    assert foreign.depth(REPORTS) == 20_000
    start(amqp_url, forked)
    wait_until(lambda: not foreign.depth(REPORTS), 60)
    assert limits_in_use(AmqpSettings.from_url(amqp_url))
