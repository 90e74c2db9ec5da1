"""Messages in internal queues: daemons believe the broker's word about their user, and nobody else."""

import json
import time

import pytest
from support.foreign import Foreign
from support.ground import Ground
from support.processes import run_cli
from support.waiting import wait_until

from taskqueue.limits.wire import Identity, Report
from taskqueue.messages.names import DIRECT_REPLY
from taskqueue.scheduler.state import State
from taskqueue.schedules.definition import Definition
from taskqueue.unique.wire import Ask, encode_asks

SCHEDULES, CLAIMS, GATE, REPORTS = (
    "taskqueue_schedules",
    "taskqueue_claims",
    "taskqueue_gate",
    "taskqueue_gate_reports",
)
CONFIG = "[limit one]\nconcurrency = 1\n[schedule s]\nevery = 1d\ntype = echo\nbody = ours\n"
HIGHEST = 2**53


@pytest.fixture
def other(ground: Ground, broker):
    """The URL of another broker user with all rights, as a producer or another host's daemons have it."""
    vhost = ground.url.rpartition("/")[2]
    name = f"other-{vhost}"
    yield broker.add_user(name, vhost)
    broker.delete_user(name)


def forged():
    """Return what takes a key for ever, replaces a schedule for ever, and holds a permit, by queue."""
    schedule = State(Definition("s", "echo", every=86400.0, body="theirs"), version=HIGHEST, last=time.time())
    ask = Ask(("echo", "", "key"), "w", 1, time.time(), 0.0, 2e11)
    report = Report("c", 1, Identity(*"smvhg"), 1, is_whole=True)
    change = {"kind": "entry", "term": 1, "number": 1, "changes": []}
    return {
        SCHEDULES: json.dumps(schedule.as_json()),
        CLAIMS: encode_asks("nowhere", [ask]),
        REPORTS: report.encode(),
        GATE: json.dumps(change),
    }


def shown(*command: str, url: str):
    done = run_cli(*command, "--format", "json", "--amqp", url)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nothing_that_a_producer_writes_into_internal_queues_is_believed(ground: Ground, other: str) -> None:
    daemon = ground.start("dispatcher", CONFIG)
    wait_until(lambda: all(ground.foreign.consumers(queue) for queue in (SCHEDULES, CLAIMS, GATE, REPORTS)))
    user = other.removeprefix("amqp://").partition(":")[0]
    with Foreign(other) as forger:
        for queue, body in forged().items():
            forger.publish(body, queue, reply_to=DIRECT_REPLY + ".x")
            forger.publish(body, queue, user_id=None)
    kept = [ground.foreign.get("taskqueue_rejected", 20) for _ in range(2)]
    assert {json.loads(each.body)["version"] for each in kept} == {HIGHEST}
    assert "is not trusted" in kept[0].headers["x-taskqueue-reason"]
    for queue in (SCHEDULES, CLAIMS, GATE, REPORTS):
        for who in (f"broker user '{user}'", "a publisher without user_id"):
            daemon.wait_for(
                f"a message in {queue} is ignored: {who} is not trusted: see trusted_users in [amqp]"
            )
    assert "ours" in shown("schedule", "show", "s", url=ground.url)
    assert "key" not in shown("unique", "list", url=ground.url)
    for command in (("schedule", "pause", "s"), ("unique", "release", "echo", "key"), ("limit", "list")):
        refused = run_cli(*command, "--amqp", other)
        assert refused.returncode in (1, 69)
        assert f"broker user '{user}' is not trusted: see trusted_users in [amqp]" in refused.stderr
        assert refused.stderr.count("\n") == 1
    assert '"paused": false' in shown("schedule", "show", "s", url=ground.url)


def test_trusted_users_are_believed(ground: Ground, other: str) -> None:
    user = other.removeprefix("amqp://").partition(":")[0]
    config = f"[amqp]\nurl = {ground.url}\ntrusted_users = nobody, {user}\n{CONFIG}"
    daemon = ground.start("dispatcher", config, url="")
    wait_until(lambda: all(ground.foreign.consumers(queue) for queue in (SCHEDULES, CLAIMS, GATE, REPORTS)))
    with Foreign(other) as trusted:
        trusted.publish(forged()[CLAIMS], CLAIMS)
    wait_until(lambda: "key" in shown("unique", "list", url=other))
    assert run_cli("schedule", "pause", "s", "--amqp", other).returncode == 0
    assert '"one"' in shown("limit", "list", url=other)
    assert "is not trusted" not in daemon.output()
