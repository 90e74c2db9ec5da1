"""Workflows as users start and watch them: in Python and from a shell, as docs/workflows.md says."""

import asyncio
import json
import os
import re
import subprocess
import zlib
from pathlib import Path

import pytest
from support.documentation import PROJECT, commands, example, values
from support.ground import Ground
from support.processes import run_cli
from support.waiting import wait_until

import taskqueue
from taskqueue import (
    AsyncClient,
    BadWorkflow,
    Batch,
    CallTimeout,
    Client,
    FlowRefused,
    NoFlow,
    Run,
    TaskFailed,
    Workflow,
    WorkflowFailed,
    chain,
    group,
)

MORE_TASKS = """

import time
from pathlib import Path


@task
def add(a, b):
    return a + b


@task
def total(numbers):
    return sum(numbers)


@task(retries=0)
def read(path):
    return Path(path).read_text()


@task
def wait(gate):
    while not Path(gate).exists():
        time.sleep(0.02)
    return gate


@task
def note(path, text=""):
    with Path(path).open("a") as notes:
        notes.write(text)
    return path
"""


@pytest.fixture(scope="module")
def flowing(shared: Ground) -> Ground:
    """A ground with a flow process, and the tasks of docs/workflows.md."""
    path = shared.directory / "pages.py"
    path.write_text(example("docs/workflows.md", "# pages.py") + MORE_TASKS)
    shared.work_anew(path, "-n", "3")
    dispatcher = shared.start("dispatcher", f"[flow]\ndatabase: {shared.open}/flow.db\n")
    dispatcher.wait_for("flow process keeps workflows of 4 shards of 4", timeout=30)
    return shared


@pytest.fixture
def client(flowing: Ground, monkeypatch: pytest.MonkeyPatch):
    """A client; in this process others find the broker, too."""
    monkeypatch.setenv("TASKQUEUE_AMQP", flowing.url)
    with Client() as client:
        yield client


# --- the page ---


def test_the_page_begins_with_an_example_that_runs(client: Client) -> None:
    said = asyncio.run(values(example("docs/workflows.md", "from taskqueue import Client, Workflow"), {}))
    assert said["run.result(timeout=60)"] == 6
    assert re.fullmatch("[0-9a-f]{32}", said["run.id"])
    status = said["run.status()"]
    assert status.state == "succeeded"
    assert status.counts["succeeded"] >= 4


def test_the_chains_and_groups_of_the_page_come_to_what_it_says(client: Client) -> None:
    said = asyncio.run(values(example("docs/workflows.md", "# chains and groups"), {"client": client}))
    assert list(said.values()) == [8, [4, 8], 12]


def patterns():
    """Return the rows of the table with Celery's patterns: theirs, and ours."""
    text = (PROJECT / "docs/workflows.md").read_text()
    table = text.partition("| Celery | here |\n| --- | --- |\n")[2].partition("\n\n")[0]
    return [re.findall("`([^`]+)`", row) for row in table.splitlines()]


#: What Celery's own code comes to, by its first word.
COMES_TO = {
    "chain": 8,
    "group": [0, 2, 4, 6, 8, 10, 12, 14, 16, 18],
    "chord": 90,
    "total.map": [45, 4950],
    "add.starmap": [0, 2, 4, 6, 8, 10, 12, 14, 16, 18],
    "add.chunks": [0, 2, 4, 6, 8, 10, 12, 14, 16, 18],
}


def test_the_patterns_of_celery_are_all_there():
    assert [theirs.partition("(")[0] for theirs, _ in patterns()] == list(COMES_TO)


@pytest.mark.parametrize(("theirs", "ours"), patterns())
def test_a_pattern_of_celery_has_the_same_result_here(client: Client, theirs: str, ours: str) -> None:
    run = eval(ours, {"client": client, "chain": chain, "group": group})
    assert run.result(timeout=60) == COMES_TO[theirs.partition("(")[0]]


def test_a_chain_of_the_page_needs_no_flow_process(client: Client) -> None:
    names = {"client": client, "chain": chain}
    said = asyncio.run(values(example("docs/workflows.md", "# a chain without a flow process"), names))
    assert list(said.values()) == [8]


def test_calls_are_added_to_the_batch_of_the_page_until_it_is_closed(client: Client) -> None:
    said = asyncio.run(values(example("docs/workflows.md", "# a batch"), {"client": client}))
    assert said["run.wait(timeout=60).state"] == "succeeded"


def test_the_steps_of_the_page_add_steps(client: Client) -> None:
    names = {"client": client, "chain": chain}
    said = asyncio.run(values(example("docs/workflows.md", "# a step that adds steps"), names))
    assert said["run.wait(timeout=60)"].counts["succeeded"] == 4


def test_the_page_says_how_to_wait_in_asyncio(client: Client) -> None:
    said = asyncio.run(values(example("docs/workflows.md", "# in asyncio"), {"chain": chain}))
    assert said["await run.result(timeout=60)"] == 8
    assert said["await run"].id


def test_the_commands_of_the_page_work(client: Client, tmp_path: Path, flowing: Ground) -> None:
    document = example("docs/workflows.md", '  "workflow": "sums"')
    (tmp_path / "sums.json").write_text(document)
    start, listing, show, cancel, retry = commands(example("docs/workflows.md", "taskqueue workflow start"))

    def run(command):
        words = command.split()[1:]
        return subprocess.run(
            flowing.command(*words),
            check=False,
            cwd=tmp_path,
            env={**os.environ, **flowing.environment},
            capture_output=True,
            text=True,
        )

    done = run(start)
    assert (done.stdout, done.returncode) == ("8\n", 0), done.stderr
    found = json.loads(run(f"{listing} --format json").stdout)
    (id_,) = [each["id"] for each in found if each["workflow"] == "sums"]
    assert id_ in run(listing).stdout
    shown = run(show.replace("ID", id_)).stdout
    assert re.search(r"^two +add +succeeded +1 ", shown, re.MULTILINE), shown
    steps = json.loads(run(show.replace("ID", id_) + " --format json").stdout)["steps"]
    assert [step["state"] for step in steps] == ["succeeded", "succeeded"]
    done = run(cancel.replace("ID", id_))
    assert (done.stderr, done.returncode) == (f"taskqueue: workflow {id_} has ended: succeeded\n", 1)
    done = run(retry.replace("ID", id_))
    assert (done.stdout, done.returncode) == ("0 steps to run again.\n", 0), done.stderr


def test_any_client_starts_a_workflow_by_its_document(client: Client, flowing: Ground) -> None:
    body = example("docs/protocol.md", '  "kind": "start"')
    id_ = json.loads(body)["id"]
    queue = f"taskqueue_flow_{zlib.crc32(id_.encode()) % 4}"
    flowing.foreign.publish(body, queue, content_type="application/json")
    flowing.foreign.publish(body, queue, content_type="application/json")  # once more: it is the same one
    run = Run(client, id_)
    wait_until(lambda: is_known(run), 20)
    assert run.result("total", timeout=60) == 6
    assert run.status().counts["succeeded"] == 5


def is_known(run: Run) -> bool:
    try:
        run.status()
    except FlowRefused:
        return False
    return True


# --- results and failures ---


def test_a_workflow_that_fails_says_why_and_goes_on_once_it_is_retried(
    client: Client, flowing: Ground
) -> None:
    text, notes = flowing.open / "text", flowing.open / "notes"
    flow = Workflow("reading")
    first = flow.add("read", str(text))
    last = flow.add("add", first.result, "!")
    flow.add("note", str(notes), "failed ", on="failed")
    flow.add("note", str(notes), "succeeded ", on="succeeded")
    run = client.start(flow)
    with pytest.raises(
        WorkflowFailed, match=f"workflow {run.id} failed: step read: FileNotFoundError: .*No such"
    ):
        run.result(timeout=60)
    with pytest.raises(TaskFailed, match="FileNotFoundError"):
        run.result(first)
    wait_until(lambda: notes.exists() and notes.read_text() == "failed ", 20)
    text.write_text("found")
    again = Run(client, run.id)
    assert again.retry_failed() == 1
    assert again.result(last, timeout=60) == "found!"
    wait_until(lambda: notes.read_text() == "failed succeeded ", 20)


def test_a_failure_that_is_allowed_gives_none(client: Client, flowing: Ground) -> None:
    flow = Workflow("allowing")
    first = flow.add("read", str(flowing.open / "never"))
    flow.add("add", [first.result], [1], allow_failed=first)
    run = client.start(flow)
    assert run.wait(60).state == "succeeded"
    assert run.result("add") == [None, 1]


def test_a_cancelled_workflow_stops_what_runs(client: Client, flowing: Ground) -> None:
    gate, notes = flowing.open / "never", flowing.open / "after"
    run = client.start(chain(("wait", str(gate)), "note"))
    with pytest.raises(CallTimeout, match=f"workflow {run.id} is not over within 0.1 s; it continues"):
        run.result(timeout=0.1)
    wait_until(lambda: run.status().counts.get("queued") == 1, 20)
    run.cancel()
    assert run.wait(60).state == "cancelled"
    with pytest.raises(WorkflowFailed, match="cancelled"):
        run.result()
    wait_until(lambda: {step["state"] for step in run.steps()} == {"cancelled"}, 20)
    with pytest.raises(FlowRefused, match=f"workflow {run.id} is cancelled"):
        run.add("add", 1, 2)
    assert not notes.exists()


def test_a_map_has_a_step_for_each_element(client: Client) -> None:
    flow = Workflow("mapping")
    first = flow.add("add", [1, 2], [3])
    parts = flow.map("add", first.result, 10)
    flow.add("total", parts.results)
    run = client.start(flow)
    assert run.result(timeout=60) == 36
    assert run.result("add-2[2]") == 13
    empty = client.start(chain(("add", [], []), "total"))
    assert empty.result(timeout=60) == 0


def test_a_batch_runs_its_callback_once_it_is_closed(client: Client, flowing: Ground) -> None:
    notes = flowing.open / "batch"
    batch = Batch("calls")
    batch.add("note", str(notes), "end", on="ended")
    run = client.start(batch)
    first = run.add("add", 1, 2)
    wait_until(lambda: run.status().counts.get("succeeded") == 1, 20)
    assert run.status().state == "running"
    second = run.add("add", 3, 4)
    assert not notes.exists()
    run.close()
    assert run.wait(60).state == "succeeded"
    assert [run.result(step) for step in (first, second)] == [3, 7]
    wait_until(lambda: notes.exists() and notes.read_text() == "end", 20)
    third = run.add("add", 5, 6)  # it runs again
    assert run.result(third, timeout=60) == 11
    wait_until(lambda: notes.read_text() == "endend", 20)


def test_the_tenant_of_a_client_is_that_of_its_workflows(client: Client) -> None:
    run = client.options(tenant="acme").start(chain(("add", 1, 2)))
    assert run.wait(60).state == "succeeded"
    assert json.loads(run_cli("workflow", "show", run.id, "--format", "json").stdout)["tenant"] == "acme"


def test_all_faults_of_a_workflow_are_told_at_once_and_nothing_is_started(client: Client) -> None:
    flow = Workflow("faulty")
    flow.add("add", step="one", after="nobody")
    flow.add("add", step="one")
    flow.add("add", step="a name")
    with pytest.raises(BadWorkflow) as caught:
        client.start(flow)
    assert len(caught.value.faults) == 3
    for word in ("nobody", "one", "a name"):
        assert word in str(caught.value)
    assert "faulty" not in run_cli("workflow", "list").stdout


def test_a_workflow_that_is_too_large_or_too_deep_is_refused_before_it_is_sent() -> None:
    flow = Workflow("large")
    for _ in range(17):
        flow.add("add", "x" * 1024 * 1024, "y")
    deep: list[object] = []
    for _ in range(200):
        deep = [deep]
    with Client("amqp://nobody@nowhere.invalid") as client:
        with pytest.raises(BadWorkflow, match="16,777,216 are sent"):
            client.start(flow)
        with pytest.raises(BadWorkflow, match="step add, params: nested deeper than 100"):
            client.start(chain(("add", deep, 1)))


def test_many_workflows_are_started_in_asyncio(client: Client) -> None:
    async def run() -> list[int]:
        client = AsyncClient()
        runs = [client.start(chain(("add", number, 1), ("add", 1))) for number in range(20)]
        return await asyncio.gather(*(each.result(timeout=60) for each in runs))

    assert asyncio.run(run()) == [number + 2 for number in range(20)]


# --- refusals ---


def test_an_unknown_workflow_is_refused(client: Client) -> None:
    with pytest.raises(FlowRefused, match="0123"):
        Run(client, "0123" * 8).status()
    for command in ("show", "cancel", "retry"):
        done = run_cli("workflow", command, "0123" * 8)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith("taskqueue: ")


@pytest.mark.parametrize(
    ("text", "status", "complaint"),
    [
        ("{", 65, "taskqueue: -: no JSON: "),
        ("[]", 65, "taskqueue: -: expected an object of JSON, found list\n"),
        ('{"workflow": "a"}', 65, "taskqueue: "),
        ('{"workflow": "a", "steps": [{"step": "a", "type": "b", "after": ["c"]}]}', 65, "taskqueue: "),
    ],
)
def test_a_document_with_faults_is_refused(client: Client, text, status, complaint) -> None:
    done = run_cli("workflow", "start", "-", input=text)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith(complaint)


def test_a_document_that_fails_has_a_status_of_its_own(client: Client, tmp_path: Path) -> None:
    document = {"workflow": "a", "steps": [{"step": "a", "type": "read", "params": [str(tmp_path / "no")]}]}
    done = run_cli("workflow", "start", "-", "--wait", input=json.dumps(document))
    assert done.returncode == 1
    assert re.fullmatch(r"taskqueue: workflow \w+ failed: step a: FileNotFoundError: .*\n", done.stderr)
    late = {"workflow": "a", "steps": [{"step": "a", "type": "wait", "params": [str(tmp_path / "no")]}]}
    done = run_cli("workflow", "start", "-", "--wait", "--timeout", "0.2", input=json.dumps(late))
    assert done.returncode == 75
    assert "is not over within 0.2 s; it continues" in done.stderr
    done = run_cli("workflow", "start", "nowhere.json")
    assert (done.returncode, "nowhere.json cannot be read: No such file" in done.stderr) == (2, True)


def test_where_no_flow_process_has_run_the_error_says_so(ground: Ground) -> None:
    with Client(ground.url) as client, pytest.raises(NoFlow, match="no flow process"):
        client.start(chain(("add", 1, 2)))


def test_the_names_of_workflows_are_taskqueues_own() -> None:
    for name in ("Workflow", "chain", "group", "Batch", "Extend", "Run", "AsyncRun", "NoFlow"):
        assert name in taskqueue.__all__
        assert getattr(taskqueue, name).__name__ == name
