"""`taskqueue submit` and `taskqueue up` against the broker."""

import base64
import json
import os
import pty
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.ground import Ground
from support.node import Node
from support.processes import Daemon, cli, run_cli
from support.waiting import wait_until

ID = re.compile(r"[0-9a-f]{32}\n")
CONFIG = "[DEFAULT]\nworkers: 0\n[echo]\nworkers: 1\n[evaluate]\nworkers: 1\n[tell]\nworkers: 1\n"


@pytest.fixture(scope="module")
def daemons(shared: Ground) -> tuple[Daemon, Daemon]:
    return shared.start("dispatcher"), shared.start("workerpool", CONFIG)


def submit(ground: Ground, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return run_cli("submit", *arguments, env={"TASKQUEUE_AMQP": ground.url}, **options)


def waited(ground: Ground, *arguments: str, **options: Any) -> str:
    """Return what `submit --wait` prints; it must succeed."""
    done = submit(ground, *arguments, "--wait", "--timeout", "20", **options)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_submit_prints_the_id_under_which_the_workitem_is_queued(ground: Ground) -> None:
    done = submit(ground, "thing", '{"a": 1}')
    assert (done.returncode, done.stderr) == (0, "")
    assert ID.fullmatch(done.stdout)
    queued = ground.foreign.get("taskqueue")
    assert queued.properties["message_id"] == done.stdout.strip()
    assert queued.properties["type"] == "thing"
    assert queued.properties["delivery_mode"] == 2
    assert queued.properties["content_type"] == "application/json"
    assert queued.body == b'{"a": 1}'
    assert "reply_to" not in queued.properties


def test_submit_declares_a_missing_queue_so_that_foreign_declarations_agree(ground: Ground) -> None:
    assert submit(ground, "thing", "1").returncode == 0
    ground.foreign.declare("taskqueue")
    assert ground.foreign.depth("taskqueue") == 1


def test_what_is_submitted_with_a_wait_before_the_queue_exists_is_not_lost(ground: Ground) -> None:
    # The broker returns it with another reply_to than it was sent with.
    assert submit(ground, "thing", "1", "--wait", "--timeout", "1").returncode == 75
    assert ground.foreign.depth("taskqueue") == 1


def test_submit_prints_the_id_as_json(ground: Ground) -> None:
    done = submit(ground, "thing", "1", "--format", "json")
    assert json.loads(done.stdout) == {"id": ground.foreign.get("taskqueue").properties["message_id"]}


@pytest.mark.parametrize(
    ("body", "kind"), [("[1]", "application/json"), ("not json", "text/plain"), ("", "text/plain")]
)
def test_the_content_type_is_guessed(ground: Ground, body: str, kind: str) -> None:
    submit(ground, "thing", body)
    assert ground.foreign.get("taskqueue").properties["content_type"] == kind


def test_the_content_type_can_be_given(ground: Ground) -> None:
    submit(ground, "thing", "[1]", "--content-type", "text/plain")
    assert ground.foreign.get("taskqueue").properties["content_type"] == "text/plain"


@pytest.mark.parametrize("arguments", [["-"], []])
def test_the_body_is_read_from_standard_input(ground: Ground, arguments: list[str]) -> None:
    assert submit(ground, "thing", *arguments, input='{"from": "stdin"}\n').returncode == 0
    assert ground.foreign.get("taskqueue").body == b'{"from": "stdin"}\n'


def test_bytes_on_standard_input_arrive_as_they_are(ground: Ground) -> None:
    command = [sys.executable, "-m", "taskqueue", "submit", "thing", "-", "--amqp", ground.url]
    subprocess.run(command, input=b"\xff\x00\n", check=True, capture_output=True)
    queued = ground.foreign.get("taskqueue")
    assert queued.body == b"\xff\x00\n"
    assert queued.properties["content_type"] == "application/octet-stream"


@pytest.mark.usefixtures("daemons")
class TestWaiting:
    """With --wait the result is printed."""

    def test_a_value_is_printed_as_json_and_a_text_as_it_is(self, shared: Ground) -> None:
        assert json.loads(waited(shared, "echo", '{"a": [1, null]}')) == {"a": [1, None]}
        assert waited(shared, "echo", "täxt") == "täxt\n"
        assert waited(shared, "echo", input='"from stdin"') == "from stdin\n"

    def test_bytes_are_written_as_they_are(self, shared: Ground) -> None:
        assert waited(shared, "evaluate", "b'ab\\x00'") == "ab\0"

    def test_bytes_are_base64_in_json(self, shared: Ground) -> None:
        said = json.loads(waited(shared, "evaluate", "b'ab\\x00'", "--format", "json"))
        assert said.keys() == {"id", "status", "result_base64"}
        assert base64.b64decode(said["result_base64"]) == b"ab\0"

    def test_with_json_the_result_comes_with_its_id(self, shared: Ground) -> None:
        said = json.loads(waited(shared, "tell", "1", "--format", "json"))
        assert (said["status"], said["result"]["body"]) == ("succeeded", "1")
        assert said["id"] == said["result"]["id"]

    def test_a_failure_is_status_1_and_its_traceback_on_stderr(self, shared: Ground) -> None:
        done = submit(shared, "evaluate", "1 / 0", "--wait", "--timeout", "20")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("Traceback (most recent call last):")
        error, name = re.search(r"\n(.*)\nworkitem (\S+) failed\n$", done.stderr).groups()
        assert error == "ZeroDivisionError: division by zero"
        assert run_cli("failed", "show", name, env={"TASKQUEUE_AMQP": shared.url}).returncode == 0

    def test_a_failure_without_the_plugins_code_has_no_traceback(self, shared: Ground) -> None:
        unreadable = submit(
            shared, "echo", "{", "--content-type", "application/json", "--wait", "--timeout", "20"
        )
        assert unreadable.stderr.startswith("WorkitemUnreadable: the body is not application/json: ")
        unwritable = submit(shared, "evaluate", "object()", "--wait", "--timeout", "20")
        assert unwritable.stderr.startswith("ResultUnwritable: handle_task returned a object ")
        for done in (unreadable, unwritable):
            assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 2)

    def test_a_failure_as_json(self, shared: Ground) -> None:
        done = submit(shared, "evaluate", "1 / 0", "--wait", "--timeout", "20", "--format", "json")
        said = json.loads(done.stdout)
        assert (done.returncode, said["status"]) == (1, "failed")
        assert said["result"]["error"]["type"] == "ZeroDivisionError"

    def test_no_result_in_time_is_status_75(self, shared: Ground) -> None:
        done = submit(shared, "nobody", "1", "--wait", "--timeout", "0.5")
        assert (done.returncode, done.stdout) == (75, "")
        left = shared.foreign.get("worker_nobody")
        name = left.properties["message_id"]
        assert done.stderr == f"taskqueue: no result of {name} within 0.5 s; it stays submitted\n"
        assert left.body == b"1"

    def test_who_waits_for_a_worker_that_does_not_exist_is_told(self, shared: Ground) -> None:
        done = submit(shared, "nobody", "1", "--wait", "--timeout", "6")
        assert done.stderr.splitlines()[0] == (
            "no worker of nobody is free now, or none serves it (taskqueue plugins): the workitem waits"
        )
        delayed = submit(shared, "nobody", "1", "--wait", "--timeout", "6", "--delay", "60")
        assert "is free" not in delayed.stderr
        shared.foreign.purge("worker_nobody")

    def test_who_waits_at_a_terminal_sees_the_id_at_once(self, shared: Ground) -> None:
        screen, terminal = pty.openpty()
        command = [sys.executable, "-m", "taskqueue", "submit", "echo", "1", "--wait", "--format", "json"]
        done = subprocess.run(
            [*command, "--amqp", shared.url], stdout=subprocess.PIPE, stderr=terminal, check=True, timeout=30
        )
        os.close(terminal)
        name = json.loads(done.stdout)["id"]
        assert os.read(screen, 1000).decode() == f"submitting {name}; waiting for its result\r\n"
        os.close(screen)

    @pytest.mark.parametrize("result", ["{!r}", "{!r}.encode()", "[{!r}]"])
    def test_a_hostile_result_does_nothing_to_a_terminal_and_is_exact_elsewhere(
        self, shared: Ground, result: str
    ) -> None:
        nasty = "\x1b]0;owned\x07 \x9b31m"
        expression = result.format(nasty)
        screen, terminal = pty.openpty()
        command = [sys.executable, "-m", "taskqueue", "submit", "evaluate", expression, "--wait"]
        subprocess.run([*command, "--amqp", shared.url], stdout=terminal, check=True, timeout=30)
        os.close(terminal)
        shown = os.read(screen, 1000).decode()
        os.close(screen)
        assert "owned" in shown
        assert not set(shown) & set("\x1b\x07\x9b")
        exact = waited(shared, "evaluate", expression)
        assert exact.rstrip("\n") == (json.dumps([nasty], indent=2) if "[" in result else nasty)

    def test_results_of_who_waits_do_not_go_to_the_results_queue(self, shared: Ground) -> None:
        waited(shared, "echo", "1")
        assert not shared.foreign.depth("results")


@pytest.mark.parametrize("body", ["9" * 5000, "[1,", "[" * 100_000], ids=["digits", "cut off", "deep"])
def test_a_result_that_python_cannot_read_as_json_is_printed_as_it_came(ground: Ground, body: str) -> None:
    ground.foreign.declare("taskqueue")
    waiting = subprocess.Popen(
        cli("submit", "thing", "1", "--wait", "--timeout", "20"),
        env=os.environ | {"TASKQUEUE_AMQP": ground.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    asked = ground.foreign.get("taskqueue").properties
    answer = {"content_type": "application/json", "correlation_id": asked["message_id"]}
    headers = {"x-taskqueue-status": "succeeded"}
    ground.foreign.publish_many([body], asked["reply_to"], application_headers=headers, **answer)
    out, err = waiting.communicate(timeout=30)
    assert (waiting.returncode, out, err) == (0, body, "")


def test_a_broker_that_is_absent_is_status_69() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        done = run_cli("submit", "thing", "1", env={"TASKQUEUE_AMQP": f"amqp://127.0.0.1:{port}/"})
    assert (done.returncode, done.stdout) == (69, "")
    assert done.stderr == f"taskqueue: the broker at 127.0.0.1:{port} cannot be reached: Connection refused\n"


def test_a_broker_that_says_nothing_in_time_is_status_75_and_nothing_is_called_submitted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"amqp://127.0.0.1:{silent.getsockname()[1]}"
        done = run_cli("submit", "thing", "1", "--wait", "--timeout", "0.5", env={"TASKQUEUE_AMQP": address})
    assert (done.returncode, done.stdout) == (75, "")
    assert done.stderr == "taskqueue: the broker has not confirmed everything within 0.5 s\n"


def test_a_wrong_password_is_status_77_and_not_printed(broker: Node) -> None:
    url = f"amqp://taskqueue:guessed@127.0.0.1:{broker.port}/"
    done = run_cli("submit", "thing", "1", env={"TASKQUEUE_AMQP": url})
    assert (done.returncode, done.stdout) == (77, "")
    assert done.stderr == (
        f"taskqueue: the broker at 127.0.0.1:{broker.port} refused user 'taskqueue': wrong name or password\n"
    )


def test_a_virtual_host_that_is_missing_is_status_77(broker: Node) -> None:
    done = run_cli("submit", "thing", "1", env={"TASKQUEUE_AMQP": broker.url_of("missing")})
    assert done.returncode == 77
    assert "the virtual host 'missing'" in done.stderr


def test_a_workitem_larger_than_the_broker_allows_is_status_77(ground: Ground) -> None:
    done = submit(ground, "thing", "-", input="x" * (17 << 20))
    assert done.returncode == 77
    assert "larger than configured max size 16777216" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("worker_type", ["../../x", "x" * 300, "", "a b"])
def test_a_bad_type_is_a_usage_error(worker_type: str) -> None:
    done = run_cli("submit", worker_type, "1")
    assert done.returncode == 2
    assert "is not 1 to 100 of letters" in " ".join(done.stderr.split())


def test_no_broker_at_all_says_where_one_could_be_named(tmp_path: Path) -> None:
    done = run_cli("submit", "thing", "1", env={"XDG_STATE_HOME": str(tmp_path)})
    assert done.returncode == 78
    assert "no broker: expected --amqp, TASKQUEUE_AMQP, or url or host in section [amqp]" in done.stderr


def amqp_tool(name: str, address_file: str, *arguments: str) -> str:
    """Return what a command of amqp-tools prints, called as the README has it; "" if it fails."""
    command = [f"amqp-{name}", "-u", Path(address_file).read_text(), *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=30).stdout


def test_the_private_broker_of_up_is_found(ground: Ground) -> None:
    everything = ground.start("up", CONFIG, url="", ready="ready: dispatcher runs")
    env = {"XDG_STATE_HOME": str(everything.directory)}
    [file] = re.findall(r"; its address with password is in (.+)\n", everything.output())
    amqp_tool("publish", file, "-r", "taskqueue", "-C", "text/plain", "-b", "echo by hand")
    assert wait_until(lambda: amqp_tool("get", file, "-q", "results")) == "by hand"
    done = run_cli("submit", "echo", "found", "--wait", "--timeout", "20", env=env)
    assert (done.returncode, done.stdout, done.stderr) == (0, "found\n", "")
    assert everything.stop() == 0
    everything.assert_nothing_left()
    assert run_cli("submit", "echo", "gone", env=env).returncode == 78


def test_without_a_configuration_file_the_pool_of_up_takes_commands(ground: Ground) -> None:
    everything = ground.start_command("up", url="", ready="ready: dispatcher runs")
    env = {"XDG_STATE_HOME": str(everything.directory)}

    def said(*arguments: str) -> str:
        done = run_cli(*arguments, env=env)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    wait_until(lambda: run_cli("ps", env=env).returncode == 0, 30, "a controller")
    assert "takes work" in said("ps")
    assert said("pause", "echo").endswith(": echo is paused.\n")
    assert "echo is paused" in said("ps")
    mode = (everything.directory / "taskqueue/control.key").stat().st_mode
    assert mode & 0o777 == 0o400
    assert everything.stop() == 0
