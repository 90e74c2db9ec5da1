"""`taskqueue failed` and `taskqueue rejected` on the real broker: list and show."""

import json
import os
import pty
import signal
import subprocess
import sys
from typing import Any

import pytest
from support.deadletters import (
    EARLIER,
    FAILED,
    REJECTED,
    keep,
    keep_in_order,
    keep_kinds,
    keep_many,
    left,
    listed,
    output,
    run,
    value,
)
from support.foreign import Foreign
from support.processes import Daemon, cli
from support.proxy import Proxy
from support.waiting import wait_until

#: Prints, when the command has ended, the most memory that it had in use, in KiB.
MEASURED = """
import resource, sys
from taskqueue import cli
try:
    cli.main()
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


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


@pytest.fixture
def half_read(foreign: Foreign, proxy: Proxy, daemon: Any) -> Daemon:
    """A list that has read a part of 200 messages, and waits for the rest behind a stalled line."""
    keep_many(foreign, 200, body="x" * 200_000)
    reading: Daemon = daemon(cli("failed", "list", "--limit", "200"), env={"TASKQUEUE_AMQP": proxy.url})
    wait_until(lambda: foreign.depth(FAILED) != 200)
    proxy.stall()
    assert reading.status is None
    return reading


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
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
    assert "taskqueue: the connection to the broker was lost before everything was done" in half_read.output()
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
    assert done.returncode == 1
    assert done.stderr == (
        "taskqueue: 0 retried; 1 stay in taskqueue_failed\n"
        "taskqueue: no id: neither the property type nor the header x-taskqueue-queue names its worker type; "
        "submit its body anew: taskqueue submit TYPE BODY\n"
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
    [
        ("zzz", "no message has an id that begins with 'zzz'"),
        ("ab", "several ids begin with 'ab': abc1, abd2"),
    ],
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
