"""Schedules of a dispatcher's configuration, with workers, and `taskqueue schedule`."""

import json
import shlex
import signal
from pathlib import Path

import pytest
from support.documentation import commands, example
from support.ground import Ground
from support.processes import children, command, kill, run_cli
from support.waiting import wait_until


def call(ground, *arguments, status=0):
    """Return what `taskqueue schedule` prints, errors included."""
    done = run_cli("schedule", *arguments, env={"TASKQUEUE_AMQP": ground.url})
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def shown(ground, name):
    return json.loads(call(ground, "show", name, "--format", "json"))


def test_the_page_on_scheduling_begins_with_examples_that_work(ground: Ground) -> None:
    config = example("docs/scheduling.md", "[schedule nightly-report]")
    ground.start("dispatcher", config, ready="leads 2 schedules")
    add, *others = commands(example("docs/scheduling.md", "taskqueue schedule add"))
    said = [run(ground, each) for each in (add, *others)]
    assert said[0].startswith("hostname is due next at ")
    table = said[1].splitlines()
    assert [line.split()[0] for line in table] == ["Schedules", "schedule", "heartbeat", "hostname",
                                                   "nightly-report"]  # fmt: skip
    workitem = ground.foreign.get("worker_digest")
    assert workitem.properties["message_id"] == said[2].strip()
    assert json.loads(workitem.body) == {"path": "/etc/hostname"}
    assert said[3] == "hostname is paused.\n"
    assert said[4].count("\nheartbeat") == 5
    assert said[5] == "hostname is removed.\n"


def run(ground, line):
    """Run a line that begins with `taskqueue schedule`."""
    return call(ground, *shlex.split(line)[2:])


def test_a_scheduler_that_is_killed_is_replaced(ground: Ground) -> None:
    dispatcher = ground.start(
        "dispatcher", "[schedule second]\nevery: 1\ntype: x\n", ready="leads 1 schedule"
    )
    (scheduler,) = [each for each in children(dispatcher.pid) if command(each) == "taskqueue: scheduler"]
    ground.foreign.get("worker_x")
    kill(scheduler)
    dispatcher.wait_for(f"scheduler, process {scheduler}, ended: killed by SIGKILL; the next one starts now")
    dispatcher.wait_for("leads 1 schedule", times=2)
    ticks = [message.headers["x-taskqueue-tick"] for message in ground.foreign.collect("worker_x", 3)]
    assert sorted(set(ticks)) == [min(ticks) + number for number in range(len(set(ticks)))]


def add(ground, name, worker_type, body):
    call(ground, "add", name, worker_type, body, "--every", "1", "--no-overlap")


@pytest.mark.parametrize(
    ("worker_type", "body"),
    [("add", "[1, 2]"), ("divide", "[1, 0]"), ("refuse", "[]"), ("die", "[]"), ("add", "no JSON")],
    ids=["succeeded", "failed", "rejected", "crashed", "unreadable"],
)
def test_a_tick_without_overlap_waits_for_the_end_of_the_last_one(
    served: Ground, worker_type: str, body: str
) -> None:
    name = f"ends-{worker_type}-{len(body)}"
    add(served, name, worker_type, body)
    wait_until(lambda: shown(served, name)["fired"] >= 2, 40)
    call(served, "remove", name)


def test_a_tick_without_overlap_is_left_out_while_the_last_one_runs(served: Ground) -> None:
    gate = served.open / "overlap"
    add(served, "alone", "wait", json.dumps([str(gate)]))
    wait_until(lambda: shown(served, "alone")["skipped"] >= 2, 20)
    assert shown(served, "alone")["fired"] == 1
    gate.touch()
    wait_until(lambda: shown(served, "alone")["fired"] >= 2, 20)
    call(served, "remove", "alone")


@pytest.mark.parametrize("token", [True, "x" * 32])
def test_a_workitem_that_pretends_to_be_a_tick_ends_no_waiting(served: Ground, token: object) -> None:
    gate, name = served.open / f"pretended{token}", f"held-{token}"
    add(served, name, "wait", json.dumps([str(gate)]))
    real = wait_until(lambda: shown(served, name)["running"], 20)
    tick = shown(served, name)["fired_at"]
    headers = {"x-taskqueue-schedule": name, "x-taskqueue-tick": tick, "x-taskqueue-completion": token}
    served.foreign.declare(name)
    served.foreign.publish("[1, 2]", type="add", message_id=real, reply_to=name, application_headers=headers)
    assert served.foreign.get(name).headers["x-taskqueue-status"] == "succeeded"
    assert shown(served, name)["running"] == real
    gate.touch()
    wait_until(lambda: shown(served, name)["fired"] >= 2, 20)
    call(served, "remove", name)


def test_a_rejected_tick_is_over(ground: Ground) -> None:
    ground.start("dispatcher", "[dispatcher]\nmax_types: 0\n")
    wait_until(lambda: ground.foreign.consumers("taskqueue_schedules"))
    add(ground, "nobodys", "nobody", "1")
    wait_until(lambda: shown(ground, "nobodys")["fired"] >= 2, 20)
    call(ground, "remove", "nobodys")


def test_a_task_is_called_at_its_times(ground: Ground, tmp_path: Path) -> None:
    ground.start("dispatcher", ready="leads 0 schedules")
    (tmp_path / "timed.py").write_text(example("docs/scheduling.md", "from taskqueue import task"))
    work = ground.work(tmp_path / "timed.py")
    result = ground.foreign.get("results")
    assert {"name": "poll", "every": 1, "worker_type": "poll"}.items() <= shown(ground, "poll").items()
    assert result.headers["x-taskqueue-status"] == "succeeded"
    assert shown(ground, "tidy_up")["cron"] == "30 3 * * *"
    work.stop()
    assert (
        "schedules go on without these workers, and their workitems wait: poll, tidy_up; "
        "`taskqueue schedule remove --force NAME` ends one" in work.output()
    )
    (tmp_path / "timed.py").write_text("from taskqueue import task\n@task\ndef poll(): pass\n")
    ground.work(tmp_path / "timed.py")
    wait_until(lambda: call(ground, "list") == "There is no schedule.\n")


def test_a_reload_changes_the_schedules(ground: Ground) -> None:
    path = ground.write("[schedule one]\nevery: 1d\ntype: x\n")
    dispatcher = ground.start_command("dispatcher", "-f", "-c", path, ready="scheduler leads 1 schedule")
    call(ground, "pause", "one")
    Path(path).write_text("[schedule one]\nevery: 1d\ntype: y\n[schedule two]\nevery: 1d\ntype: x\n")
    dispatcher.signal(signal.SIGHUP)
    dispatcher.wait_for("leads 2 schedules")
    one = shown(ground, "one")
    assert (one["worker_type"], one["paused"]) == ("y", True), "a pause outlives what it pauses"


def test_a_schedule_that_is_not_there_is_an_error_in_one_line(served: Ground) -> None:
    said = call(served, "pause", "nope", status=1)
    assert said == "taskqueue: there is no schedule 'nope'\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--cron", "0 0 30 2 *"],
            "schedule 'a': '0 0 30 2 *' never occurs: none of its months has that day",
        ),
        (["--every", "soon"], "expected a time such as 90d, 12h, 30m, 15s or a number of seconds"),
        (["--cron", "@daily", "--timezone", "Nowhere"], "schedule 'a': no time zone 'Nowhere'"),
        (["--every", "0"], "a number of seconds, 1 or more, found '0'"),
        (["--every", "5m", "--timezone", "UTC"], "--timezone is for --cron."),
        (["--cron", "@daily", "--offset", "5m"], "--offset is for --every."),
        (["--every", "5m", "--tag", "two words"], "expected a word without blanks, found 'two words'."),
        (["--every", "5m", "--label", ""], "expected a word without blanks, found ''."),
        ([], "schedule 'a': expected either cron or every, found neither"),
    ],
)
def test_a_wrong_schedule_is_not_added(served: Ground, arguments: list[str], said: str) -> None:
    done = run_cli("schedule", "add", "a", "x", *arguments, env={"TASKQUEUE_AMQP": served.url})
    assert done.returncode == 2
    assert said in done.stderr
