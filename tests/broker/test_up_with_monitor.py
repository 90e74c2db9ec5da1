"""`taskqueue up` runs a monitor, whose address and token it prints."""

import json
import re
import socket
import urllib.error
import urllib.request
from typing import Any

import pytest
from support.ground import Ground
from support.processes import Daemon, run_cli
from support.waiting import wait_until

CONFIG = "[monitor]\nuser: taskqueue-worker\nlisten: 127.0.0.1:0\n"


def get(url: str, token: str) -> dict[str, object]:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        return {"status": error.code}


def missing(url: str, token: str) -> str:
    """Return what is said of an id that nobody has submitted."""
    request = urllib.request.Request(
        f"{url}/api/v1/workitems/w2", headers={"Authorization": f"Bearer {token}"}
    )
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request, timeout=10)
    return str(json.load(error.value)["error"]["message"])


#: What `up` runs: each process with the daemon whose supervisor it is.
KINDS = {
    *[("dispatcher", ""), ("scheduler", ""), ("consumer", "echo"), ("recorder", ""), ("web process", "")],
    *[("supervisor", daemon) for daemon in ("dispatcher", "workerpool", "monitor")],
}


def kinds(url: str, token: str) -> set[tuple[str, str]]:
    """Return kinds and groups of the processes that tell their user, memory, time and version."""
    processes: Any = get(f"{url}/api/v1/processes", token).get("processes", [])
    return {
        (row["emitter"]["kind"], row["emitter"]["group"])
        for row in processes
        if row["user"] and row["rss"] > 1_000_000 and row["cpu"] > 0 and row["version"] and row["state"]
    }


def test_everything_runs_with_a_monitor_that_tells_what_became_of_a_workitem(ground: Ground) -> None:
    everything = ground.start("up", CONFIG, ready="INFO monitor: ready: ")
    url, token = re.findall(r"the monitor is at (\S+); its token is (\S+)\n", everything.output())[0]
    assert f"its pages for a browser: {url}/login?token={token}\n" in everything.output()
    ground.foreign.declare("taskqueue")
    ground.foreign.publish(b"{}", type="echo", message_id="w1")

    def state() -> object:
        return get(f"{url}/api/v1/workitems/w1", token).get("state")

    wait_until(lambda: state() == "succeeded", 20, lambda: get(f"{url}/api/v1/workitems/w1", token))
    assert get(f"{url}/api/v1/workitems/w1", token[:-1]) == {"status": 401}
    done = run_cli("cancel", "w1", "nobody", "--monitor", url, env={"TASKQUEUE_MONITOR_TOKEN": token})
    assert (done.returncode, done.stdout) == (1, "cancelled 0\n")
    assert done.stderr == "2 of 2 are over, or not in the record\n"
    wait_until(lambda: kinds(url, token) >= KINDS, 60, lambda: kinds(url, token))
    never = re.compile(r"workitem 'w2': never existed \(before .* UTC; the record begins at .* UTC\)")
    wait_until(lambda: never.fullmatch(missing(url, token)), 60, lambda: missing(url, token))
    assert everything.stop() == 0
    everything.assert_nothing_left()


def test_the_token_and_the_address_outlive_a_restart(ground: Ground) -> None:
    state = ground.directory / "state"
    config = ground.write(CONFIG)

    def address() -> tuple[str, str]:
        env = {**ground.environment, "XDG_STATE_HOME": str(state)}
        everything = Daemon(ground.command("up", "-c", config), ground.directory, env=env)
        try:
            everything.wait_for("INFO monitor: ready: ")
            (found,) = re.findall(r"the monitor is at (\S+); its token is (\S+)\n", everything.output())
            assert get(f"{found[0]}/api/v1/status", found[1])["role"] == "admin"
            assert everything.stop() == 0
        finally:
            everything.clean_up()
        return str(found[0]), str(found[1])

    first = address()
    assert address() == first
    assert (state / "taskqueue/monitor.token").read_text() == f"{first[1]}\n{first[0]}\n"
    with socket.create_server(("127.0.0.1", int(first[0].rpartition(":")[2]))):
        moved = address()
    assert (moved[1], moved[0] == first[0]) == (first[1], False)


def test_everything_runs_without_a_monitor_where_it_has_no_place(ground: Ground) -> None:
    (ground.directory / "file").touch()
    config = f"[monitor]\ndatabase: {ground.directory}/file/record\n"
    everything = ground.start("up", config, ready="no monitor runs: the record's directory")
    everything.wait_for("ready: dispatcher runs, workerpool runs")
    assert everything.stop() == 0


def test_nothing_survives_a_kill_of_the_first_process(ground: Ground) -> None:
    """The monitor changes its effective ids when root starts it: the kernel then forgets its parent."""
    everything = ground.start("up", CONFIG, ready="INFO monitor: ready: ")
    everything.kill()
    everything.assert_nothing_left()
