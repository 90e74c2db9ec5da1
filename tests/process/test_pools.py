"""Commands of administrators to the pools of all hosts: ps, pause, resume, drain, undrain."""

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from support.documentation import commands, example
from support.hosts import hosts
from support.memory import memory
from support.processes import children, exists, name
from support.site import AS_ROOT, workers
from support.waiting import wait_until

KEPT = "The command is kept until web1 runs.\nweb1 does not answer.\n"
NO_KEY = "expected a line of 43 or more of letters, digits, - and _, found another content"

pytestmark = pytest.mark.skipif(not AS_ROOT, reason="only root can give processes another host's name")

__all__ = ["hosts"]


def test_ps_shows_what_each_worker_of_each_host_does_and_who_does_not_answer(hosts, work):
    site = hosts.site
    one = hosts.pool("web1", "[gated]\nworkers: 2")
    running = work.submit("gated", {"gate": str(site.gate())})
    site.wait_for_run(running)
    two = hosts.pool("web2", "[good]\nworkers: 1\n[gated]\nworkers: 2")

    shown = json.loads(hosts.run("ps", "--format", "json"))
    assert (shown["silent"], shown["paused"], shown["drained"]) == ([], {}, {})
    found = {pool["host"]: pool["groups"] for pool in shown["pools"]}
    (group,) = found["web1"]
    assert (group["group"], group["type"], group["state"]) == ("gated", "gated", "takes work")
    assert {each["pid"] for each in group["workers"]} == workers(one)
    (busy,) = [each for each in group["workers"] if each["does"] == "works"]
    assert (busy["workitem"], busy["type"]) == (running, "gated")
    assert busy["since"] == pytest.approx(time.time(), abs=60)
    assert sorted(each["group"] for each in found["web2"]) == ["gated", "good"]
    assert {each["does"] for group in found["web2"] for each in group["workers"]} == {"idle"}

    two.kill()
    shown = hosts.run("ps", status=75)
    assert re.search(
        rf"^web1 +gated +gated/\d +{busy['pid']} +works on {running} of gated +0:00:", shown, re.MULTILINE
    )
    assert "web2 does not answer." in shown
    hosts.run("control", "forget", "web2")
    assert list(hosts.states()) == ["web1"]
    assert "no pool with a control key has run on host 'web2'; known are: web1" in hosts.run(
        "control", "forget", "web2", status=1
    )
    site.gate().touch()
    work.result()
    controller = next(pid for pid in children(one.pid) if name(pid) == "tq:controller")
    os.kill(controller, 9)
    one.wait_for("controller, process", times=1)
    wait_until(lambda: hosts.site.run("ps", "-c", str(site.config)).returncode == 0)
    assert one.stop() == 0
    assert "no worker pool answers within 1 s" in hosts.run("ps", status=69)


def test_a_pause_outlives_restarts_of_everything_and_what_runs_goes_on(hosts, work, broker):
    site = hosts.site
    one = hosts.pool("web1", "[gated]\nworkers: 1\n[good]\nworkers: 1")
    running = work.submit("gated", {"gate": str(site.gate())})
    site.wait_for_run(running)
    behind = work.submit("gated", {"gate": str(site.gate())})
    assert hosts.run("pause", "gated") == "web1: gated is paused.\n"
    assert "gated is paused, by " in hosts.run("ps")
    two = hosts.pool("web2")
    assert hosts.states()["web2"] == ["is paused", "takes work"]
    site.gate().touch()
    assert work.result().workitem == running
    work.ask("good")
    assert work.foreign.depth("worker_gated") == 1

    one.kill()
    two.stop()
    broker.kill_settled()
    broker.start()
    work.foreign.connect()
    three = hosts.pool("web3", ready="paused worker types: gated")
    site.wait_for_run(work.submit("good"))  # its own type is taken, and one result may come twice
    assert not site.notes(behind)
    assert "web1 does not answer." in hosts.run("resume", "gated", status=75)
    site.wait_for_run(behind)
    assert three.stop() == 0
    assert "the groups take work though" not in three.output()


def test_a_pause_ends_by_itself_and_documented_commands_are_obeyed(hosts, work):
    pool = hosts.pool("web1", "[digest]\nworkers: 0\n[good]\nworkers: 1")
    assert " until " in hosts.run("pause", "good", "--for", "3s")
    waiting = work.submit("good")
    assert hosts.states() == {"web1": ["is paused"]}
    pool.wait_for("paused worker types: none")
    assert work.result().workitem == waiting

    page = [
        example("docs/operations.md", "taskqueue ps"),
        example("docs/operations.md", "taskqueue pause"),
        example("docs/operations.md", "taskqueue drain"),
    ]
    ran = [hosts.run(*words.split()[1:]) for text in page for words in commands(text)]
    paused, resumed, drained, undrained = ran[2:]
    assert re.fullmatch(r"web1: digest is paused until [-: 0-9]+\.\n", paused)
    assert (resumed, drained, undrained) == (
        "web1: digest is resumed.\n", "web1 is drained.\n", "web1 takes workitems.\n"
    )  # fmt: skip
    assert hosts.run("resume", "digest", status=1) == "taskqueue: worker type 'digest' is not paused\n"


def test_a_drained_host_finishes_what_runs_stays_and_takes_nothing_after_a_restart(hosts, work):
    site = hosts.site
    pool = hosts.pool("web1", "[gated]\nworkers: 1")
    running = work.submit("gated", {"gate": str(site.gate())})
    site.wait_for_run(running)
    assert "known are: web1" in hosts.run("drain", "web2", status=1)
    assert hosts.run("drain", "web1") == "web1 is drained.\n"
    behind = work.submit("gated", {"gate": str(site.gate())})
    site.gate().touch()
    assert work.result().workitem == running
    assert hosts.states() == {"web1": ["is drained"]}
    shown = hosts.run("ps")
    assert re.search(r"^web1 is drained, by .+ since .+\.$", shown, re.MULTILINE)
    assert re.search(r"^web1 +gated +consumer +\d+ +is drained", shown, re.MULTILINE)
    assert pool.stop() == 0
    assert "The command is kept until web1 runs.\nweb1 does not answer." in hosts.run(
        "drain", "web1", status=75
    )
    pool = hosts.pool("web1", ready="is drained")
    (consumer,) = [pid for pid in children(pool.pid) if name(pid) == "tq:gated"]
    os.kill(consumer, 9)
    pool.wait_for("consumer, process")
    pool.wait_for("is drained [group=gated]", times=2)  # the next one is told, too
    assert len(site.notes()) == 2
    assert hosts.run("undrain", "web1") == "web1 takes workitems.\n"
    assert work.result().workitem == behind


def test_the_key_is_where_it_must_be(hosts, work):
    pool = hosts.pool("web1", "[good]\nworkers: 1\n[whoami]\nworkers: 1")
    secret = hosts.key.read_bytes().strip()
    state = hosts.key.stat()
    assert (state.st_mode & 0o777, Path(hosts.key).owner()) == (0o400, "taskqueue")
    for pid in (pool.pid, *workers(pool)):
        assert secret not in memory(pid)
    made = example("docs/operations.md", "taskqueue control key").split()[1:]
    assert hosts.run(*made, status=78).startswith(f"taskqueue: {hosts.key}: expected no such file")

    shutil.chown(hosts.key, group="taskqueue-worker")
    hosts.key.chmod(0o440)
    readable = f"{hosts.key} is the control key, and workers of these users can read it: taskqueue-worker; to"
    assert f"warning: {readable}" in hosts.run("config")
    assert "web process can read it" not in hosts.run("config")
    hosts.site.config.write_text(
        f"{hosts.site.config.read_text()}[monitor]\ncontrol_key: {hosts.key}\nuser: taskqueue-worker\n"
    )
    assert (
        f"warning: {hosts.key} is the control key, and the monitor's web process can read it: "
        in hosts.run("config")
    )
    pool.signal(signal.SIGHUP)
    pool.wait_for(f"WARNING workerpool: {readable}")
    hosts.key.chmod(0o404)
    assert "expected a file that other users cannot read, found mode 0404" in hosts.run("ps", status=78)
    released = "take work though the controller has not said what is paused: it cannot"
    other = hosts.pool("web2", ready=released, answers=False)
    assert "expected a file that other users cannot read" in other.output()
    work.ask("whoami")
    hosts.key.chmod(0o400)
    hosts.key.write_text("short\n")
    assert "expected a line of 43 or more of letters, digits, - and _, found another" in hosts.run(
        "ps", status=78
    )
    hosts.key.unlink()
    assert "no control key: expected the file control.key" in hosts.run("pause", "whoami", status=78)
    pool.signal(signal.SIGHUP)
    pool.wait_for("reloaded", times=2)
    wait_until(lambda: "tq:controller" not in {name(pid) for pid in children(pool.pid)})
    assert exists(pool.pid)
