"""Workflows while their process is killed, its database fails, and its queue is deleted."""

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import time
from urllib.parse import urlsplit

import pytest
from support.postgresql import running_server
from support.processes import children, command, kill, run_cli
from support.waiting import wait_until
from support.workflows import Flows

PREFETCH = 500  # messages that a flow process holds of a shard at most
WIDTH = 40
FLOW_ARGUMENTS = {"x-queue-type": "quorum", "x-single-active-consumer": True}


def flow_process(daemon):
    """Return the process id of the flow process of a daemon."""
    (pid,) = (child for child in children(daemon.pid) if command(child).startswith("taskqueue: flow"))
    return pid


def shapes(shop, mark, width):
    """Return the steps of a workflow with a group, a map, joins and a callback, and how often each runs."""
    names = [f"s{number}" for number in range(width)]
    steps = [
        *(shop.note(name, mark) for name in names),
        shop.note("join", mark, names),
        {"step": "list", "type": "numbers", "params": [width], "after": ["join"]},
        {"step": "each", "type": "double", "map": {"$result": "list"}},
        {"step": "sum", "type": "total", "params": [{"$results": "each"}]},
        shop.note("last", mark, ["sum"]),
        shop.note("end", mark, on="ended"),
    ]
    return steps, [*names, "join", "last", "end"]


def check(shop, id_, mark, once, timeout=90):
    """Wait for the end of a workflow; each of its steps has run, and none before its time."""
    assert shop.wait(id_, timeout) == "succeeded"
    wait_until(lambda: set(shop.noted(mark)) == set(once), 20, lambda: shop.noted(mark))
    total = sum(2 * number for number in range(sum(name.startswith("s") for name in once)))
    assert shop.ask("result", id_, step="sum")["result"] == total
    lines = [line.partition(" ")[2] for line in shop.notes.read_text().splitlines() if line.startswith(mark)]
    firsts = [lines.index(name) for name in ("join", "last", "end")]
    assert firsts == sorted(firsts)
    assert max(lines.index(name) for name in once if name.startswith("s")) < firsts[0]


def test_workflows_end_as_they_should_though_their_process_is_killed_again_and_again(ground):
    shop = Flows(ground)
    chance = random.Random(5)
    running = []
    for number in range(6):
        steps, once = shapes(shop, f"kill{number}", 30)
        running.append((shop.start(*steps), f"kill{number}", once))
        deadline = time.monotonic() + chance.random()
        wait_until(lambda: time.monotonic() > deadline)  # noqa: B023 -- called at once
        kill(flow_process(shop.dispatcher))
        wait_until(lambda: shop.dispatcher.output().count("keeps workflows of 4") >= number + 2, 40)  # noqa: B023
    for id_, mark, once in running:
        check(shop, id_, mark, once)
        assert max(shop.noted(mark).values()) <= 7  # a run more for each kill, at most


@pytest.mark.parametrize("is_declared", [False, True], ids=["deleted", "declared again"])
def test_a_deleted_queue_leaves_no_workflow_waiting(ground, is_declared):
    shop = Flows(ground)
    shop.workers.stop()
    steps, once = shapes(shop, "deleted", WIDTH)
    id_ = shop.start(*steps)
    wait_until(lambda: shop.ask("show", id_)["steps"].get("queued") == WIDTH, 30)
    flow = flow_process(shop.dispatcher)
    os.kill(flow, signal.SIGSTOP)
    shop.ground.foreign.publish_many(['{"kind": "tick"}'] * PREFETCH, shop.queue(id_))  # they fill its line
    wait_until(lambda: shop.ground.foreign.depth(shop.queue(id_)) == 0, 30)
    shop.work()
    wait_until(lambda: len(shop.noted("deleted")) == WIDTH and shop.ground.foreign.depth(shop.queue(id_)), 60)
    for number in range(4):
        shop.ground.foreign.delete(f"taskqueue_flow_{number}")
        if is_declared:  # as by a consumer with a receipt
            shop.ground.foreign.declare(f"taskqueue_flow_{number}", arguments=FLOW_ARGUMENTS)
    os.kill(flow, signal.SIGCONT)
    shop.dispatcher.wait_for("receipts in it are lost", timeout=60)
    check(shop, id_, "deleted", once)


def test_a_locked_database_delays_workflows_and_loses_nothing(ground):
    shop = Flows(ground)
    connection = sqlite3.connect(ground.open / "flow.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    steps, once = shapes(shop, "locked", 20)
    shop.ground.foreign.publish(shop.document(*steps, id_="0" * 32), shop.queue("0" * 32))
    shop.dispatcher.wait_for("database is locked; nothing is acknowledged", timeout=40)
    connection.execute("ROLLBACK")
    connection.close()
    wait_until(lambda: shop.noted("locked"), 60)
    check(shop, "0" * 32, "locked", once)


def test_a_full_disk_delays_workflows_and_loses_nothing(ground):
    if os.geteuid():
        pytest.skip("only root can mount a small file system")
    place = ground.open / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m,mode=1777", "tmpfs", str(place)]
    subprocess.run(mount, check=True)
    try:
        shop = Flows(ground, database=str(place / "flow.db"))
        filling = place / "filling"
        filling.write_bytes(b"x" * (place_left(place) - 16384))
        steps, once = shapes(shop, "full", 300)
        id_ = "1" * 32
        shop.ground.foreign.publish(shop.document(*steps, id_=id_), shop.queue(id_))
        shop.dispatcher.wait_for("full; nothing is acknowledged", timeout=40)
        filling.unlink()
        wait_until(lambda: shop.noted("full"), 60)
        check(shop, id_, "full", once)
    finally:
        shop.dispatcher.stop()
        subprocess.run(["umount", "-l", str(place)], check=True)


POISON = {
    "SQLite": "CREATE TRIGGER poison BEFORE UPDATE OF result ON step WHEN new.result LIKE '%poison%' "
    "BEGIN SELECT RAISE(ABORT, 'poison'); END",
    "PostgreSQL": "ALTER TABLE taskqueue_flow.step ADD CONSTRAINT poison CHECK (result NOT LIKE '%poison%')",
}
ANTIDOTE = {
    "SQLite": "DROP TRIGGER poison",
    "PostgreSQL": "ALTER TABLE taskqueue_flow.step DROP CONSTRAINT poison",
}


@pytest.fixture
def alter(ground, database, request):
    """Change the database of workflows behind the back of their process: alter(statements by database)."""
    kind = request.node.callspec.params["database"]

    def change(statements):
        if database:
            request.getfixturevalue("postgresql").query(statements[kind], urlsplit(database).path[1:])
            return
        with contextlib.closing(sqlite3.connect(ground.open / "flow.db", isolation_level=None)) as file:
            file.execute(statements[kind])

    return change


def test_a_receipt_that_cannot_be_applied_is_rejected_and_all_others_are_applied(ground, database, alter):
    shop = Flows(ground, database=database or "")
    alter(POISON)
    bad = shop.start({"step": "bad", "type": "say", "params": ["poison"]}, shop.note("after", "bad", ["bad"]))
    shapes_of = [shapes(shop, f"good{number}", 10) for number in range(8)]
    good = [shop.start(*steps) for steps, _ in shapes_of]
    for number, id_ in enumerate(good):
        check(shop, id_, f"good{number}", shapes_of[number][1])
    shop.dispatcher.wait_for("is put aside as rejected: the flow process cannot apply it", timeout=30)
    wait_until(lambda: ground.foreign.depth("taskqueue_rejected") == 1)
    assert shop.ask("show", bad)["state"] == "running"
    assert ground.foreign.depth(shop.queue(bad)) == 0
    alter(ANTIDOTE)
    run_cli("rejected", "retry", "--all", env={"TASKQUEUE_AMQP": ground.url})
    assert shop.wait(bad) == "succeeded"
    assert shop.noted("bad") == {"after": 1}


def test_no_message_is_rejected_because_a_shard_cannot_be_led(ground):
    shop = Flows(ground)
    with contextlib.closing(sqlite3.connect(ground.open / "flow.db", isolation_level=None)) as file:
        file.execute(
            "CREATE TRIGGER poison BEFORE UPDATE OF epoch ON shard BEGIN SELECT RAISE(ABORT, 'poison'); END"
        )
        kill(flow_process(shop.dispatcher))
        document = shop.document(shop.note("only", "led"), id_="2" * 32)
        ground.foreign.publish(document, shop.queue("2" * 32))
        shop.dispatcher.wait_for("internal error", timeout=40)
        assert ground.foreign.depth("taskqueue_rejected") in (0, None)
        file.execute("DROP TRIGGER poison")
    wait_until(lambda: shop.noted("led") == {"only": 1}, 60)


def test_a_step_that_cannot_be_published_fails_and_all_others_go_on(ground, database, alter):
    shop = Flows(ground, database=database or "")
    id_ = shop.start(
        {"step": "first", "type": "linger", "params": [3]},
        {"step": "broken", "type": "say", "params": [{"$result": "first"}]},
        shop.note("last", "broken", ["first"]),
    )
    table = "taskqueue_flow.step" if database else "step"
    alter(dict.fromkeys(POISON, f"UPDATE {table} SET args = '{{' WHERE name = 'broken'"))
    assert shop.wait(id_) == "failed"
    (broken,) = (step for step in shop.ask("steps", id_)["steps"] if step["step"] == "broken")
    assert broken["state"] == "failed"
    assert "JSONDecodeError" in broken["error"]["type"]
    assert shop.noted("broken") == {"last": 1}


def place_left(place):
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


def test_workflows_of_another_database_are_left_to_their_own_process(ground):
    shop = Flows(ground)
    id_ = shop.start({"step": "long", "type": "linger", "params": [3]}, shop.note("last", "other", ["long"]))
    wait_until(lambda: shop.ask("show", id_)["steps"].get("queued"))
    flow = shop.dispatcher
    flow.stop()
    stranger = ground.start("dispatcher", f"[flow]\ndatabase: {ground.open}/other.db\n")
    stranger.wait_for("are kept by another database", timeout=40)
    shop.dispatcher = ground.start("dispatcher", shop.config)
    assert shop.wait(id_) == "succeeded"
    assert shop.noted("other") == {"last": 1}


def test_workflows_in_postgresql_outlive_its_restart(ground):
    with running_server() as server:
        url = server.new_database()
        shop = Flows(ground, database=url)
        steps, once = shapes(shop, "restart", 40)
        id_ = shop.start(*steps)
        wait_until(lambda: shop.noted("restart"))
        server.stop(signal.SIGQUIT)
        shop.dispatcher.wait_for("nothing is acknowledged", timeout=60)
        server.start()
        shop.dispatcher.wait_for("can be used again", timeout=60)
        check(shop, id_, "restart", once)


def test_of_two_processes_that_share_postgresql_one_keeps_each_shard(ground):
    with running_server() as server:
        url = server.new_database()
        shop = Flows(ground, database=url)
        second = ground.start("flow", shop.config)
        second.wait_for("stands by")
        steps, once = shapes(shop, "shared", 30)
        id_ = shop.start(*steps)
        wait_until(lambda: shop.noted("shared"))
        kill(flow_process(shop.dispatcher))
        second.wait_for("keeps workflows", timeout=40)
        check(shop, id_, "shared", once)
