"""AsyncClient.find: any workitem, from the record of the monitor."""

import asyncio
import json
import subprocess
import sys

import pytest
from support.certificates import make_certificate
from support.documentation import example
from support.processes import run_cli
from support.recorded import CONSUMER, batch, write_record
from support.web import Web

from taskqueue import AsyncClient
from taskqueue.errors import CallCancelled, CallError, CallTimeout, DuplicateCall, TaskFailed, UnknownCall
from taskqueue.messages.events import Cancelled, Ended
from taskqueue.monitor.client import NoMonitor, NotAllowed
from taskqueue.monitor.store.store import Store
from taskqueue.monitor.web import users

TOKEN = users.new_secret()
RESPONSE = (
    "eyJqc29ucnBjIjogIjIuMCIsICJyZXN1bHQiOiBbMV0sICJpZCI6ICJhIn0="  # {"jsonrpc": "2.0", "result": [1], ...}
)
NOW = 1_790_000_000.0


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "record"
    write_record(path)
    with Store(path) as store:
        position = store.position()
        done = Ended("call", "digest", 1, "succeeded", "succeeded", NOW, NOW - 1)
        events = [
            done._replace(content_type="application/json", result=RESPONSE, size=40),
            done._replace(id="unkept", size=4000),
            Cancelled("gone", "digest", NOW),
            Ended("double", "digest", 0, "cancelled", "cancelled", NOW, error="duplicate of call"),
        ]
        store.write([(position + 1, batch(CONSUMER, 100, events))])
    return path


@pytest.fixture(params=["direct", "http"])
def find(request, tmp_path, daemon, record, monkeypatch):
    """Find a workitem, with each of the two ways to the record."""
    config = tmp_path / "config.ini"
    config.write_text(f"[monitor]\ndatabase: {record}\n")
    options = {}
    if request.param == "http":
        options["monitor"] = Web(daemon, record, TOKEN).url
        monkeypatch.setenv("TASKQUEUE_MONITOR_TOKEN", TOKEN)
    client = AsyncClient("amqp://127.0.0.1:1", config=str(config))  # the broker is not needed
    return lambda id_: client.find(id_, **options)


def test_a_recorded_result_is_returned_as_it_was(find):
    call = find("north-1")
    assert (call.state, call.task, call.is_over, call.error) == ("succeeded", "digest", True, None)
    assert [run["outcome"] for run in call.runs] == ["succeeded"]
    assert call.result() == {"sum": 3}
    assert find("call").result() == [1]  # of a JSON-RPC response

    async def wait():
        return await find("north-1")

    assert asyncio.run(wait()) == {"sum": 3}


def test_a_failure_is_raised_with_its_traceback(find):
    with pytest.raises(TaskFailed, match="SMTPError: disk full") as caught:
        find("south-1").result()
    assert (caught.value.type, caught.value.message) == ("SMTPError", "disk full")
    assert caught.value.traceback == "Traceback: line 1\nline 2"
    with pytest.raises(CallCancelled, match="digest was cancelled"):
        find("gone").result()
    with pytest.raises(DuplicateCall, match="digest was not run: duplicate of call"):
        find("double").result()


def test_the_record_shows_a_duplicate_as_one(record, tmp_path):
    config = tmp_path / "config.ini"
    config.write_text(f"[monitor]\ndatabase: {record}\n")
    listed = run_cli("list", "--state", "duplicate", "-c", str(config)).stdout
    assert [line.split()[:3] for line in listed.splitlines()[-1:]] == [["double", "digest", "duplicate"]]
    assert "duplicate of call" in listed
    shown = run_cli("status", "double", "-c", str(config))
    assert (shown.returncode, "duplicate" in shown.stdout.split()) == (1, True)


def test_a_result_that_is_not_recorded_or_not_there_yet_is_said_to_be_so(find):
    with pytest.raises(
        CallError, match=r"the record has no result of unkept: .* see the option record_result"
    ):
        find("unkept").result()
    with pytest.raises(CallTimeout, match=r"mail has no result after 0.1 s; it is running"):
        find("south-2").result(timeout=0.1)


def test_an_id_that_was_never_seen_is_unknown(find):
    with pytest.raises(UnknownCall, match="nobody"):
        find("nobody")


def test_without_a_monitor_or_a_right_it_says_so(tmp_path, daemon, record):
    config = tmp_path / "config.ini"
    config.write_text(f"[monitor]\ndatabase: {tmp_path / 'none'}\n")
    client = AsyncClient("amqp://127.0.0.1:1", config=str(config))
    with pytest.raises(NoMonitor, match="there is no record in"):
        client.find("a")
    with pytest.raises(NotAllowed, match="needs a token"):
        client.find("a", monitor=Web(daemon, record, TOKEN).url)


def test_on_another_host_the_url_and_files_of_the_page_are_enough(tmp_path, daemon, record):
    certificate, key = make_certificate(tmp_path, "monitor")
    both = tmp_path / "both.pem"
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    token = tmp_path / "token"
    token.write_text(f"{TOKEN}\n")
    web = Web(daemon, record, TOKEN, certificate=both)
    code = example("docs/calling.md", '    monitor="https://monitor.example.org:8672"')
    for written, real in (
        ("https://monitor.example.org:8672", web.url),
        ("/etc/taskqueue/monitor.token", str(token)),
        ("/etc/taskqueue/monitor-ca.pem", str(certificate)),
    ):
        assert written in code
        code = code.replace(written, real)
    values = {"client": AsyncClient("amqp://127.0.0.1:1"), "id": "north-1"}
    exec(code, values)
    assert values["call"].result() == {"sum": 3}
    with pytest.raises(NoMonitor, match="its certificate is not trusted"):
        AsyncClient("amqp://127.0.0.1:1").find("north-1", monitor=web.url, token_file=str(token))


def test_the_environment_names_the_monitor_and_the_token(daemon, record, monkeypatch):
    web = Web(daemon, record, TOKEN)
    monkeypatch.setenv("TASKQUEUE_MONITOR", web.url)
    with pytest.raises(NotAllowed, match="needs a token"):
        AsyncClient("amqp://127.0.0.1:1").find("north-1")
    monkeypatch.setenv("TASKQUEUE_MONITOR_TOKEN", TOKEN)
    assert AsyncClient("amqp://127.0.0.1:1").find("north-1").result() == {"sum": 3}
    listed = run_cli("list", "--id", "north-1", "--format", "json")
    assert [row["id"] for row in json.loads(listed.stdout)["workitems"]] == ["north-1"]


def test_a_client_is_imported_without_the_record():
    code = "import sys, taskqueue; taskqueue.AsyncClient; print('sqlite3' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
