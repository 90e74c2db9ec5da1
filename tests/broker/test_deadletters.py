"""`taskqueue failed` and `taskqueue rejected` on the real broker."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import amqp
import pytest
from support.foreign import Foreign
from support.ground import Ground, peak_of
from support.node import Node
from support.processes import Daemon, cli, run_cli
from support.proxy import Proxy
from support.waiting import wait_until

from taskqueue import deadletters
from taskqueue.config import AmqpSettings
from taskqueue.private_broker.rabbitmq import USER

FAILED, REJECTED = "taskqueue_failed", "taskqueue_rejected"
FULL = {"x-max-length": 1, "x-overflow": "reject-publish"}
EARLIER = [
    {"attempt": 1, "what": "crashed", "error": "killed by SIGSEGV", "host": "h", "worker": "digest/1",
     "started": 1700000000.5, "ended": 1700000001.5, "peak_memory": 1048576},
    {"attempt": 2, "what": "failed", "error": "ValueError: no", "host": "h", "worker": "digest/2",
     "started": 1700000002.5, "ended": 1700000003.5},
]  # fmt: skip
#: Prints, when the command has ended, the most memory that it had in use, in KiB.
MEASURED = """
import resource, sys
from taskqueue import cli
try:
    cli.main()
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


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
        "mine": ["kept", 1.5],
    }
    where = options.pop("where", FAILED)
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


# --- looking ---


def test_a_list_tells_what_failed_oldest_first(amqp_url: str, foreign: Foreign) -> None:
    keep_many(foreign, 3)
    first, *_ = value(amqp_url, "failed", "list")
    assert first == {
        "id": "id0000",
        "type": "digest",
        "attempts": 2,
        "reason": "ValueError: no",
        "when": 1700000003.5,
        "queue": "worker_digest",
    }
    lines = output(amqp_url, "failed", "list").splitlines()
    assert lines[1].split() == ["id", "type", "attempts", "reason", "when"]
    assert [line.split()[:3] for line in lines[2:]] == [[f"id000{n}", "digest", "2"] for n in range(3)]


def test_a_reason_of_many_lines_is_shortened_to_one(amqp_url: str, foreign: Foreign) -> None:
    foreign.declare(FAILED)
    keep(foreign, "a", reason="Error: one\ntwo\x1b[31m" + "x" * 500)
    [_, _, row] = output(amqp_url, "failed", "list").splitlines()
    assert "Error: one\\ntwo\\x1b[31mxxx" in row
    assert len(row) < 140


@pytest.mark.parametrize("name", ["0123456789abcdef" * 2, "x" * 255])
@pytest.mark.parametrize("width", [None, 40, 80])
def test_an_id_is_listed_in_one_piece_on_a_terminal_of_any_width(
    amqp_url: str, foreign: Foreign, name: str, width: int | None
) -> None:
    foreign.declare(FAILED)
    keep(foreign, name, reason="ValueError: " + "no " * 30)
    if width is None:
        assert name in output(amqp_url, "failed", "list").split()
        return
    master, slave = pty.openpty()
    env = {**os.environ, "TASKQUEUE_AMQP": amqp_url, "COLUMNS": str(width), "TERM": "xterm"}
    subprocess.run(cli("failed", "list"), env=env, stdout=slave, check=True, timeout=60)
    assert name in os.read(master, 65_536).decode().split()
    os.close(slave)
    os.close(master)


def test_where_nothing_is_kept_none_is_listed_and_no_queue_made(amqp_url: str, foreign: Foreign) -> None:
    assert output(amqp_url, "failed", "list") == "No failed message is kept.\n"
    assert value(amqp_url, "rejected", "list") == []
    assert value(amqp_url, "failed", "purge", "--yes") == {"purged": 0}
    assert foreign.depth(FAILED) is foreign.depth(REJECTED) is None


@pytest.mark.parametrize("arguments", [["list"], ["list", "--limit", "7"], ["show", "id0013"]])
@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_looking_leaves_the_order_as_it_was(
    amqp_url: str, foreign: Foreign, kind: str, arguments: list[str]
) -> None:
    foreign.declare(FAILED, arguments={"x-queue-type": kind})
    names = keep_in_order(foreign, 30)
    for _ in range(2):
        assert run(amqp_url, "failed", *arguments).returncode == 0
    assert left(foreign, 30) == names


def test_no_more_is_listed_than_was_asked_for(amqp_url: str, foreign: Foreign) -> None:
    names = keep_many(foreign, 12)
    assert listed(amqp_url, "--limit", "5") == names[:5]
    done = run(amqp_url, "failed", "list", "--limit", "5")
    assert done.stderr == "These are the oldest 5; --limit shows more.\n"


def test_a_list_can_be_narrowed_by_type_and_error(amqp_url: str, foreign: Foreign) -> None:
    keep_kinds(foreign)
    assert listed(amqp_url, "--type", "digest") == ["a", "c"]
    assert listed(amqp_url, "--error", "KEYERROR") == ["b", "c"]
    assert listed(amqp_url, "--error", "keyerror", "--type", "digest") == ["c"]
    assert listed(amqp_url, "--error", "keyerror", "--limit", "1") == ["b"]
    assert "No failed message of that kind" in output(amqp_url, "failed", "list", "--type", "none")


def keep_kinds(foreign: Foreign) -> None:
    foreign.declare(FAILED)
    keep(foreign, "a")
    keep(foreign, "b", type="resize", reason="KeyError: 1")
    keep(foreign, "c", reason="KeyError: 2")


@pytest.fixture
def half_read(foreign: Foreign, proxy: Proxy, daemon: Any) -> Daemon:
    """A list that has read a part of 200 messages, and waits for the rest behind a stalled line."""
    keep_many(foreign, 200, body="x" * 200_000)
    reading: Daemon = daemon(cli("failed", "list", "--limit", "200"), env={"TASKQUEUE_AMQP": proxy.url})
    wait_until(lambda: foreign.depth(FAILED) != 200)
    proxy.stall()
    assert reading.status is None
    return reading


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 1), (signal.SIGKILL, -signal.SIGKILL)])
def test_interrupting_a_list_leaves_everything_in_order(
    half_read: Daemon, foreign: Foreign, proxy: Proxy, number: signal.Signals, status: int
) -> None:
    half_read.signal(number)
    assert half_read.wait() == status
    assert "Traceback" not in half_read.output()
    proxy.cut()
    assert left(foreign, 200) == [f"id{each:04}" for each in range(200)]


def test_a_connection_lost_while_reading_is_status_69_and_loses_nothing(
    half_read: Daemon, foreign: Foreign, proxy: Proxy
) -> None:
    proxy.cut()
    assert half_read.wait() == 69
    assert "taskqueue: the connection to the broker was lost before all was done" in half_read.output()
    assert left(foreign, 200) == [f"id{each:04}" for each in range(200)]


def test_ten_thousand_kept_messages_are_listed_in_bounded_memory(amqp_url: str, foreign: Foreign) -> None:
    def peak(limit: int) -> int:
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, "failed", "list", "--format", "json", "--limit", str(limit),
             "--amqp", amqp_url], capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        assert len(json.loads(done.stdout)) == limit
        return int(done.stderr.split()[-1])

    foreign.declare(FAILED)
    foreign.publish_many(("x" * 10_000 for _ in range(10_000)), FAILED, message_id="m", type="t")
    assert peak(10_000) - peak(1) < 30_000  # KiB; the bodies are 100,000
    wait_until(lambda: foreign.depth(FAILED) == 10_000)


def test_messages_of_strangers_are_listed_and_stay_where_nobody_knows_where_to_send_them(
    amqp_url: str, foreign: Foreign
) -> None:
    foreign.declare(FAILED)
    foreign.publish(
        b"\xff", FAILED, application_headers={"x-taskqueue-attempt": "?", "x-taskqueue-ended": "?"}
    )
    [only] = value(amqp_url, "failed", "list")
    assert only == {"id": "", "type": "", "attempts": None, "reason": "", "when": None, "queue": ""}
    done = run(amqp_url, "failed", "retry", "--all")
    assert done.returncode == 77
    assert done.stderr.startswith(
        "taskqueue: 0 retried; 1 stay where they are\ntaskqueue: no id: worker type None"
    )
    assert foreign.get(FAILED).body == b"\xff"


def test_one_message_is_shown_whole(amqp_url: str, foreign: Foreign) -> None:
    foreign.declare(FAILED)
    keep(foreign, "abc1", '{"path": "/x"}', content_type="application/json", priority=3)
    keep(foreign, "abd2", b"\xff\x00")
    shown = value(amqp_url, "failed", "show", "abc")
    assert (shown["id"], shown["body"], shown["history"]) == ("abc1", '{"path": "/x"}', EARLIER)
    assert shown["properties"]["priority"] == 3
    assert shown["properties"]["headers"]["mine"] == ["kept", 1.5]
    assert value(amqp_url, "failed", "show", "abd2")["body_base64"] == "/wA="
    text = output(amqp_url, "failed", "show", "abc1")
    assert text.endswith('\nBody\n{"path": "/x"}\n')
    assert "killed by SIGSEGV" in text
    assert "['kept', 1.5]" in text


def test_what_a_hostile_producer_sent_does_nothing_to_the_terminal_and_is_exact_in_json(
    amqp_url: str, foreign: Foreign
) -> None:
    nasty = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"
    foreign.declare(FAILED)
    history = [{"attempt": 1, "error": nasty, f"[/x]{nasty}": nasty}]
    headers = {"x-taskqueue-reason": f"reason {nasty}", "x-taskqueue-history": history, f"[/x]{nasty}": nasty}
    body = f'"{nasty}"\n\tend'
    foreign.publish(
        body, FAILED, message_id=f"id{nasty}", type=nasty, reply_to=nasty, application_headers=headers
    )
    for command in (
        ["list"],
        ["show", "id"],
        ["show", f"id{nasty}"],
        ["show", f"no{nasty}"],
        ["retry", "x\x1b"],
    ):
        done = run(amqp_url, "failed", *command)
        said = done.stdout + done.stderr
        assert r"\x1b" in said
        assert not set(said) & set("\x1b\x07\x9b\u202e"), command
    assert output(amqp_url, "failed", "show", "id").endswith(
        '"\\x1b]0;owned\\x07\\x1b[2J\\x9b31m\\u202e"\n\tend\n'
    )
    shown = value(amqp_url, "failed", "show", "id")
    assert (shown["id"], shown["body"], shown["history"]) == (f"id{nasty}", body, history)


@pytest.mark.parametrize(
    ("beginning", "complaint"),
    [("zzz", "no message 'zzz' is kept"), ("ab", "'ab' fits several: abc1, abd2")],
)
@pytest.mark.parametrize("command", ["show", "retry"])
def test_an_unknown_or_ambiguous_id_is_an_error_line_and_status_1(
    amqp_url: str, foreign: Foreign, command: str, beginning: str, complaint: str
) -> None:
    foreign.declare(FAILED)
    keep(foreign, "abc1")
    keep(foreign, "abd2")
    done = run(amqp_url, "failed", command, beginning)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"taskqueue: {complaint}\n")
    assert left(foreign, 2) == ["abc1", "abd2"]


# --- sending back ---


def test_a_retried_workitem_goes_back_to_its_queue_as_if_it_had_never_run(
    amqp_url: str, foreign: Foreign
) -> None:
    names = keep_many(foreign, 5, reply_to="asker", correlation_id="c", priority=2)
    assert output(amqp_url, "failed", "retry", "id0001", "id0003") == "retried 2\n"
    assert left(foreign, 3) == [names[0], names[2], names[4]]
    first, second = foreign.collect("worker_digest", 2)
    assert ids([first, second]) == ["id0001", "id0003"]
    assert first.body == "1"
    assert first.headers == {"x-taskqueue-user": "joe", "mine": ["kept", 1.5]}
    expected = {"type": "digest", "message_id": "id0001", "delivery_mode": 2, "reply_to": "asker",
                "correlation_id": "c", "priority": 2}  # fmt: skip
    assert {name: first.properties[name] for name in expected} == expected


def test_if_one_id_is_unknown_none_is_retried(amqp_url: str, foreign: Foreign) -> None:
    keep_many(foreign, 2)
    done = run(amqp_url, "failed", "retry", "id0000", "nope", "never")
    assert (done.returncode, done.stderr) == (
        1,
        "taskqueue: no message 'nope' is kept\ntaskqueue: no message 'never' is kept\n",
    )
    assert left(foreign, 2) == ["id0000", "id0001"]


def test_an_id_that_begins_another_one_is_taken_as_it_is(amqp_url: str, foreign: Foreign) -> None:
    foreign.declare(FAILED)
    for name in ("job10", "job1", "job11"):
        keep(foreign, name)
    assert value(amqp_url, "failed", "retry", "job1") == {"retried": 1}
    assert left(foreign, 2) == ["job10", "job11"]


def test_retries_can_be_chosen_by_type_and_error(amqp_url: str, foreign: Foreign) -> None:
    keep_kinds(foreign)
    assert value(amqp_url, "failed", "retry", "--type", "digest", "--error", "KeyError") == {"retried": 1}
    assert ids([foreign.get("worker_digest")]) == ["c"]
    assert left(foreign, 2) == ["a", "b"]


@pytest.mark.parametrize("arguments", [[], ["a", "--type", "t"], ["--all", "--error", "x"], ["a", "--all"]])
def test_what_to_retry_must_be_said_in_one_way(arguments: list[str]) -> None:
    done = run("amqp://127.0.0.1:1/", "failed", "retry", *arguments)
    assert done.returncode == 2
    assert "expected one of: IDs; --type or --error, or both; --all" in done.stderr


def test_what_somebody_else_has_taken_meanwhile_is_not_waited_for(amqp_url: str, foreign: Foreign) -> None:
    keep_many(foreign, 3)
    amqp = AmqpSettings.from_url(amqp_url)
    assert deadletters.retry(amqp, FAILED, lambda each: each.id != "id0001", at_least=5) == 2
    assert left(foreign, 1) == ["id0001"]


def test_many_are_retried_to_queues_that_are_made_for_them(amqp_url: str, foreign: Foreign) -> None:
    foreign.declare(FAILED)
    headers = {"x-taskqueue-queue": "worker_gone"}
    bodies = [b"%d" % each for each in range(5_000)]
    foreign.publish_many(bodies, FAILED, type="gone", application_headers=headers)
    assert value(amqp_url, "failed", "retry", "--all") == {"retried": 5_000}
    assert foreign.depth(FAILED) == 0
    arrived = {message.body for message in foreign.collect("worker_gone", 5_000)}
    assert arrived == set(bodies)


def test_only_a_few_large_ones_are_on_their_way_at_a_time(
    amqp_url: str, foreign: Foreign, daemon: Any
) -> None:
    foreign.declare(FAILED)
    foreign.declare("worker_large", arguments=FULL)
    foreign.publish_many(("x" * 4_000_000 for _ in range(50)), FAILED, type="large")
    retrying: Daemon = daemon(cli("failed", "retry", "--all"), env={"TASKQUEUE_AMQP": amqp_url})
    retrying.wait_for("trying again in 2.0 s")  # for the third time
    assert peak_of(retrying.pid) < 120 << 20  # bytes; the bodies are 200 million


def test_a_retry_that_is_killed_loses_nothing(amqp_url: str, foreign: Foreign, daemon: Any) -> None:
    foreign.declare(FAILED)
    foreign.declare("worker_many")
    number = 6_000
    foreign.publish_many((b"%d" % each for each in range(number)), FAILED, type="many")
    retrying: Daemon = daemon(cli("failed", "retry", "--all"), env={"TASKQUEUE_AMQP": amqp_url})
    wait_until(lambda: (foreign.depth("worker_many") or 0) > 200)
    retrying.kill()
    wait_until(lambda: not foreign.consumers(FAILED))
    stayed, moved = foreign.depth(FAILED), foreign.depth("worker_many")
    assert stayed
    bodies = [message.body for message in foreign.collect(FAILED, stayed)]
    assert [int(body) for body in bodies] == sorted(int(body) for body in bodies)
    bodies += [message.body for message in foreign.collect("worker_many", moved)]
    assert {int(body) for body in bodies} == set(range(number))


def test_nothing_is_acknowledged_before_it_is_confirmed(amqp_url: str, foreign: Foreign, daemon: Any) -> None:
    names = keep_many(foreign, 250)
    foreign.declare("worker_digest", arguments=FULL)
    retrying: Daemon = daemon(cli("failed", "retry", "--all"), env={"TASKQUEUE_AMQP": amqp_url})
    retrying.wait_for("queue worker_digest takes nothing now", times=249)
    retrying.kill()
    wait_until(lambda: not foreign.consumers(FAILED))
    assert left(foreign, foreign.depth(FAILED) or 0)[-249:] == names[1:]


def limit_size(broker: Node, number: int) -> None:
    broker.evaluate(f"application:set_env(rabbit, max_message_size, {number})")
    broker.evaluate(f"persistent_term:put(max_message_size, {number})")  # where RabbitMQ 4 looks


def test_what_the_broker_refuses_stays_and_is_told(amqp_url: str, foreign: Foreign, broker: Node) -> None:
    foreign.declare(FAILED)
    keep(foreign, "small")
    keep(foreign, "large", "x" * 2_000_000)
    limit_size(broker, 1_000_000)
    try:
        done = run(amqp_url, "failed", "retry", "--all")
    finally:
        limit_size(broker, 16_777_216)
    assert done.returncode == 77
    assert done.stderr.startswith(
        "taskqueue: 1 retried; 1 stay where they are\ntaskqueue: large: the broker refuses"
    )
    assert left(foreign, 1) == ["large"]
    assert ids([foreign.get("worker_digest")]) == ["small"]


def test_a_rejected_message_goes_back_to_where_it_came_from(ground: Ground) -> None:
    ground.foreign.declare("taskqueue")
    ground.foreign.declare("later")
    fields = {"content_type": "application/x-odd", "priority": 4, "app_id": "a", "expiration": "600000",
              "delivery_mode": 1}  # fmt: skip
    ground.foreign.publish("body", application_headers={"mine": 1}, **fields)
    dispatcher = ground.start("dispatcher")
    wait_until(lambda: ground.foreign.depth(REJECTED) == 1)
    assert dispatcher.stop() == 0
    [rejected] = value(ground.url, "rejected", "list")
    assert "content type 'application/x-odd' is not one of" in rejected["reason"]
    assert rejected["queue"] == "taskqueue"
    assert rejected["attempts"] is None
    assert rejected["when"] > 1_700_000_000
    assert output(ground.url, "rejected", "retry", rejected["id"]) == "retried 1\n"
    back = ground.foreign.get("taskqueue")
    assert (back.body, back.headers) == ("body", {"mine": 1})
    del fields["expiration"]
    properties = {name: back.properties.get(name) for name in (*fields, "message_id", "expiration")}
    assert properties == fields | {"delivery_mode": 2, "message_id": rejected["id"], "expiration": None}


# --- removing ---


def test_a_purge_removes_what_it_is_told_to_and_nothing_else(amqp_url: str, foreign: Foreign) -> None:
    keep_kinds(foreign)
    assert output(amqp_url, "failed", "purge", "--yes", "--type", "digest", "--error", "Key") == "purged 1\n"
    assert listed(amqp_url) == ["a", "b"]
    assert value(amqp_url, "failed", "purge", "--yes") == {"purged": 2}
    assert foreign.depth(FAILED) == 0


def test_a_purge_asks_first(amqp_url: str, foreign: Foreign) -> None:
    keep_many(foreign, 2)
    done = run(amqp_url, "failed", "purge", input="n\n")
    assert (done.returncode, done.stdout.strip()) == (1, "")  # older versions of click prompt with a space
    assert "Remove all failed messages for good? [y/N]" in done.stderr
    done = run(amqp_url, "failed", "purge", "--error", "no", input="y\n")
    assert done.stdout.strip() == "purged 2"


def test_many_of_very_many_are_purged_and_the_rest_keep_their_order(amqp_url: str, foreign: Foreign) -> None:
    foreign.declare(FAILED)
    for kind in ("odd", "even") * 3:
        foreign.publish_many((kind for _ in range(1_000)), FAILED, type=kind, message_id=kind)
    assert value(amqp_url, "failed", "purge", "--yes", "--type", "odd") == {"purged": 3_000}
    assert left(foreign, 3_000) == ["even"] * 3_000


def test_failed_and_rejected_are_told_apart(amqp_url: str, foreign: Foreign) -> None:
    foreign.declare(FAILED)
    foreign.declare(REJECTED)
    keep(foreign, "f")
    keep(foreign, "r", where=REJECTED, queue="taskqueue")
    assert [each["id"] for each in value(amqp_url, "rejected", "list")] == ["r"]
    assert output(amqp_url, "rejected", "retry", "--all") == "retried 1\n"
    assert ids([foreign.get("taskqueue")]) == ["r"]
    assert left(foreign, 1) == ["f"]


@pytest.mark.parametrize("read", ["browse", "purge", "retry"])
def test_what_is_kept_outlives_being_read_more_often_than_a_quorum_queue_allows(foreign, amqp_url, read):
    foreign.declare(
        FAILED, arguments={"x-queue-type": "quorum"}
    )  # as an earlier RabbitMQ, or a user, made it
    keep_in_order(foreign, 3)
    before = {message.properties["message_id"]: message for message in read_in_place(foreign)}
    for _ in range(25):  # RabbitMQ 4 drops it at the 21st return
        getattr(deadletters, read)(AmqpSettings.from_url(amqp_url), FAILED, lambda _kept: False)
    wait_until(lambda: foreign.depth(FAILED) == 3)
    after = {message.properties["message_id"]: message for message in read_in_place(foreign)}
    assert {name: (each.body, headers_of(each)) for name, each in after.items()} == {
        name: (each.body, headers_of(each)) for name, each in before.items()
    }


def test_who_may_not_publish_anew_what_is_read_too_often_is_told(foreign, broker, vhost, amqp_url, caplog):
    foreign.declare(FAILED, arguments={"x-queue-type": "quorum"})
    keep_in_order(foreign, 1)
    foreign.wear(FAILED, 12)
    reader = broker.add_user("reader", vhost)
    broker.evaluate(
        f'rabbit_auth_backend_internal:set_permissions(<<"reader">>, <<"{vhost}">>,'
        ' <<"^$">>, <<"^$">>, <<".*">>, <<"tests">>)'
    )
    seen: list[str] = []
    deadletters.browse(AmqpSettings.from_url(reader), FAILED, lambda each: seen.append(each.id))
    broker.delete_user("reader")
    assert (seen, foreign.depth(FAILED)) == (["id0000"], 1)
    [line] = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    print(line)
    assert line.startswith(
        "queue taskqueue_failed may drop messages that are read more than 20 times; give it a policy with "
        "delivery-limit -1: they cannot be published anew: "
    )


def read_in_place(foreign: Foreign) -> list[amqp.Message]:
    """Return the kept messages; they are put back."""
    messages = foreign.collect(FAILED, foreign.depth(FAILED) or 0)
    for message in messages:
        fields = {name: value for name, value in message.properties.items() if name != "user_id"}
        foreign.publish(message.body, FAILED, **fields, user_id=USER)
    return messages


def headers_of(message: amqp.Message) -> dict[str, Any]:
    """Return the headers of a message without those of its queue; RabbitMQ 4.3 has one more."""
    counts = ("x-delivery-count", "x-acquired-count")
    return {name: value for name, value in message.headers.items() if name not in counts}
