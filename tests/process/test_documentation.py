"""The commands of README.md and docs/, typed: one machine, one `taskqueue up`, its private broker.

tests/debian runs what takes a new machine, tests/unit what takes no broker.
"""

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.documentation import PROJECT, commands, example, values
from support.foreign import Foreign
from support.processes import Daemon
from support.waiting import wait_until

from taskqueue import AsyncClient, Client, UnknownTask, chain, task

pytestmark = pytest.mark.usefixtures("rabbitmq")

LICENSE = "/usr/share/common-licenses/GPL-3"

TASKMASTER = 'exec {python} -P -c "from taskqueue.cli.taskmaster import %s; %s()" "$@"'

#: The programs of the reader's `.venv`: taskqueue is the tests' copy that every user can read, and what is
#: installed goes to a directory of this test alone, without a network.
PROGRAMS = {
    "taskqueue": 'exec {python} -P -m taskqueue "$@"',
    "python": 'exec {python} "$@"',
    **{f"tm-{name}": TASKMASTER % (name, name) for name in ("run", "spawn", "master")},
    "pip": 'shift; exec {own} -m pip install -q --no-build-isolation --no-deps --target {plugins} "$@"',
}


class Desk:
    """A reader's machine: a checkout's `.venv`, a home directory, and what the reader has started."""

    def __init__(self, directory: Path, python: Path) -> None:
        """Start nothing yet; everybody must be able to enter the directory."""
        self.directory = directory
        self.plugins = directory / "plugins"
        self.plugins.mkdir()
        self.env = {
            "HOME": str(directory),
            "XDG_STATE_HOME": "",
            "PYTHONPATH": str(self.plugins),
            "PATH": f"{directory}/.venv/bin:{os.environ['PATH']}",
        }
        self.started: list[Daemon] = []
        for name, script in PROGRAMS.items():
            called = script.format(python=python, own=sys.executable, plugins=self.plugins)
            self.write(f".venv/bin/{name}", f"#!/bin/sh\n{called}\n").chmod(0o755)

    def write(self, name: str, text: str) -> Path:
        """Write a file that every user can read."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def run(self, typed: str, status: int = 0) -> str:
        """Run what a reader types, in a shell; return what it prints."""
        done = subprocess.run(
            ["sh", "-euc", typed],
            cwd=self.directory,
            env={**os.environ, **self.env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr + self.up.output()
        return done.stdout

    def start(self, typed: str, ready: str) -> Daemon:
        """Start what a reader leaves running in another terminal; wait until it says `ready`."""
        running = Daemon(["sh", "-c", f"cd {self.directory}; exec {typed}"], self.directory, env=self.env)
        self.started.append(running)
        running.wait_for(ready, 60)
        return running

    def reload(self) -> None:
        """Send the pool SIGHUP; what is kept by `taskqueue up` passes it on."""
        times = self.up.output().count("workerpool: reloaded")
        self.up.signal(signal.SIGHUP)
        self.up.wait_for("workerpool: reloaded", times=times + 1)

    @property
    def up(self) -> Daemon:
        """The `taskqueue up` in the first terminal."""
        return self.started[0]


def is_removed(directory: Path) -> bool:
    """Remove a directory; return False if a process writes there meanwhile."""
    try:
        shutil.rmtree(directory)
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def desk(python: Path) -> Iterator[Desk]:
    directory = Path(tempfile.mkdtemp(prefix="tq-desk-", dir="/var/tmp"))
    directory.chmod(0o755)  # every user can enter
    desk = Desk(directory, python)
    up, _ = commands(example("README.md", ".venv/bin/taskqueue up"))
    try:
        desk.start(up, "ready: dispatcher runs")
        yield desk
    finally:
        for each in reversed(desk.started):
            each.clean_up()
        wait_until(lambda: is_removed(directory), what="the end of the private broker, which still writes")


@pytest.fixture
def url(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of the private broker; clients in this process find it as the commands do."""
    for name in ("HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, desk.env[name])
    return (desk.directory / ".local/state/taskqueue/broker/address").read_text()


@pytest.fixture
def foreign(url: str) -> Iterator[Foreign]:
    with Foreign(url) as client:
        yield client


# --- README.md ---


@pytest.mark.timeout(180)
def test_make_demo_shows_it_working_and_leaves_nothing():
    first, second = commands(example("README.md", "make demo"))
    assert (first.split()[:2], second.split()[:2]) == (["make", "demo"], ["make", "test"])  # which runs this
    # Its setup is left out: it might make the environment anew in which the tests run.
    planned = subprocess.run(
        ["make", "--no-print-directory", "-n", "demo"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert planned.stdout.splitlines()[-1] == ".venv/bin/python scripts/demo.py"
    before = set(Path("/var/tmp").glob("taskqueue-demo-*"))
    done = subprocess.run(
        [sys.executable, "scripts/demo.py"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ((right, number),) = re.findall(r"(\d+) of (\d+) digests .* are what sha256sum says", done.stdout)
    assert right == number
    assert int(number) > 100  # licences, and the files of the project
    assert "Everything is stopped; no process is left." in done.stdout
    assert set(Path("/var/tmp").glob("taskqueue-demo-*")) == before


def test_a_file_is_digested_by_hand(desk: Desk) -> None:
    _, submit = commands(example("README.md", ".venv/bin/taskqueue up"))
    assert json.loads(desk.run(submit)) == json.loads(example("README.md", '  "path": '))


def test_what_became_of_it_is_on_record(desk: Desk) -> None:
    _, submit = commands(example("README.md", ".venv/bin/taskqueue up"))
    status, listing = commands(example("README.md", ".venv/bin/taskqueue status"))
    desk.run(submit)
    wait_until(lambda: re.search(r" digest +succeeded ", desk.run(listing)), 20, lambda: desk.run(listing))
    # An earlier test's digest may be what has succeeded so far.
    ended = re.compile(r"^digest +0 .* [1-9]", re.MULTILINE)
    wait_until(lambda: ended.search(desk.run(status)), 20, lambda: desk.run(status))


def test_the_first_plugin_is_installed_and_used(desk: Desk) -> None:
    desk.write("wordcount/wordcount.py", example("README.md", "from taskqueue.worker import BaseWorker"))
    desk.write("wordcount/pyproject.toml", example("README.md", 'name = "wordcount"'))
    install, submit = commands(example("README.md", ".venv/bin/pip install"))
    desk.run(install.replace("/path/to/", f"{desk.directory}/"))
    desk.reload()
    assert desk.run(submit) == example("README.md", '  "words": 6')


def test_a_plugin_whose_setup_py_names_nothing_but_its_entry_point_is_installed_and_used(desk: Desk) -> None:
    desk.write("custom/words/__init__.py", "")
    desk.write("custom/words/counting.py", example("README.md", "from taskqueue.worker import BaseWorker"))
    desk.write(
        "custom/setup.py",
        "from setuptools import setup\n\nsetup(\n    entry_points={\n        'worker.plugins': [\n"
        "            'counting = words.counting:Worker.factory'\n        ]\n    }\n)\n",
    )
    desk.run(".venv/bin/pip install ./custom")
    desk.reload()
    assert json.loads(desk.run("taskqueue submit counting 'to be or not' --wait")) == {"words": 4}


def test_whatever_speaks_amqp_submits_and_gets_the_result(desk: Desk, foreign: Foreign) -> None:
    address, publish, get = commands(example("README.md", "URL=$(cat"))
    foreign.declare("results")
    foreign.purge("results")
    desk.run(f"{address}\n{publish}")
    wait_until(lambda: foreign.depth("results") == 1)
    assert json.loads(desk.run(f"{address}\n{get}"))["path"] == "/etc/hostname"


def test_a_billion_jobs_are_paused_by_ctrl_c_and_gone_on_with(desk: Desk, url: str) -> None:
    typed = example("README.md", ".venv/bin/taskqueue run example.py 8").partition("#")[0].strip()
    again = example("docs/feeding.md", "taskqueue run example.py 8").partition("#")[0].strip()
    assert example("README.md", "# example.py") == example("docs/feeding.md", "# example.py")
    desk.write("example.py", example("README.md", "# example.py"))
    state = desk.directory / "example.state"

    def done() -> int:
        return json.loads(state.read_text())["state"]["jobs"]["end"] if state.exists() else 0

    for command in (typed, again):
        before = done()
        running = desk.start(f"env TASKQUEUE_AMQP={url} {command}", "")  # which spares it a node of its own
        wait_until(lambda before=before: done() > before, 60, running.output)
        running.signal(signal.SIGINT)
        assert running.wait() == 130, running.output()
    assert 0 < before < done() < 100_000_000


# --- docs/migrating.md ---


def test_taskmasters_module_runs_under_its_own_command(desk: Desk, url: str) -> None:
    desk.write("people.py", example("docs/migrating.md", "# people.py"))
    printed = desk.run(f"TASKQUEUE_AMQP={url} {example('docs/migrating.md', 'tm-run people.py 4')}")
    assert sorted(printed.splitlines()) == sorted(f"Got {number}" for number in range(50))


def test_taskmasters_master_feeds_what_it_has_spawned(desk: Desk, url: str) -> None:
    desk.write("people.py", example("docs/migrating.md", "# people.py"))
    spawn, master = commands(example("docs/migrating.md", "tm-spawn"))
    spawned = desk.start(spawn.partition("&")[0].replace("$URL", url), "")
    desk.run(f"{master.replace('$URL', url)} --reset")
    assert spawned.stop() == 0
    assert sorted(spawned.output().splitlines()) == sorted(f"Got {number}" for number in range(50))


def test_a_node_of_zerotask_serves_its_script(desk: Desk, url: str) -> None:
    desk.write("adding.py", example("docs/migrating.md", "# adding.py"))
    node = desk.start(f"env TASKQUEUE_AMQP={url} .venv/bin/python adding.py", "takes work")
    said = asyncio.run(values(example("docs/migrating.md", "from taskqueue import Client"), names := {}))
    assert said["client.add(5, 6)"] == 11
    names["client"].close()
    assert node.stop() == 0


def test_a_ruote_workitem_comes_back_with_its_digest(desk: Desk, url: str) -> None:
    printed = desk.run(f"TASKQUEUE_AMQP={url}\n{example('docs/migrating.md', 'amqp-declare-queue')}")
    workitem = json.loads(printed[printed.index("{") :])
    assert workitem == json.loads(example("docs/migrating.md", '  "fei"'))
    digest = subprocess.run(["sha256sum", LICENSE], capture_output=True, text=True, check=True)
    assert workitem["fields"]["digest"]["sha256"] == digest.stdout.split()[0]


# --- docs/calling.md ---


def test_the_node_serves_a_few_tasks_to_play_with(desk: Desk, url: str) -> None:
    node = desk.start(".venv/bin/python -m taskqueue.node -n 1", "takes work")
    with Client() as client:
        assert (client.add(5, 6), client.subtract(5, 6)) == (11, -1)
        assert (client.echo({"a": [1]}), client.sleep(0.01)) == ({"a": [1]}, 0.01)
    assert node.stop() == 0


MORE_TASKS = """

@task
def subtract(a, b):
    return a - b


@task
def words(text):
    return text.split()


@task
def count(lists):
    return sum(len(each) for each in lists)
"""


@pytest.fixture(scope="module")
def served(desk: Desk) -> None:
    """The tasks of docs/calling.md, served as README.md says; and those that its calls need beside them."""
    assert example("README.md", "# mytasks.py") == example("docs/calling.md", "# mytasks.py")
    desk.write("mytasks.py", example("docs/calling.md", "# mytasks.py") + MORE_TASKS)
    desk.start("taskqueue work mytasks -n 4", "takes work")


@pytest.mark.parametrize(
    "code",
    [
        example("README.md", "from taskqueue import Client, AsyncClient"),
        example("docs/calling.md", "from taskqueue import Client, AsyncClient"),
    ],
    ids=["README.md", "docs/calling.md"],
)
def test_tasks_are_called_from_python(served: None, url: str, code: str) -> None:
    names = {"items": ["to be", "or not to be"]}
    said = asyncio.run(values(code, names))
    assert said["client.add(5, 6)"] == said["client.call('add', 5, 6, timeout=10)"] == 11
    assert said["client.images.thumbnail('a.png')"] is None
    assert said["call.status()"] in {"SENDING", "QUEUED", "RUNNING", "SUCCEEDED"}  # it goes on meanwhile
    assert names["call"].status() == "SUCCEEDED"
    assert said["call.result(timeout=10)"] == said["await call"] == 11
    assert list(said["client.map('add', [(1, 2), (3, 4)])"]) == [3, 7]
    assert said["client.map_reduce(items, map='words', reduce='count')"].result(10) == 6
    names["client"].close()


def test_a_call_has_options(served: None, url: str) -> None:
    names = {"AsyncClient": AsyncClient, "client": AsyncClient()}
    said = asyncio.run(values(example("docs/calling.md", "# with options"), names))
    calls = list(said.values())
    assert [call.result(20) for call in calls] == [11, 11]
    names["client"].close()


def test_calls_have_keys(served: None, url: str) -> None:
    @task(unique=True)
    def add(a: int, b: int) -> int:
        raise AssertionError("called here")

    names = {"client": AsyncClient(), "add": add}
    said = asyncio.run(values(example("docs/limits.md", "# with a key"), names))
    assert [call.result(20) for call in said.values()] == [11, 11]
    names["client"].close()


def test_taskqueue_up_keeps_workflows_too(desk: Desk, served: None, url: str) -> None:
    desk.up.wait_for("flow process keeps workflows of 4 shards of 4", 60)
    with Client() as client:
        assert client.start(chain(("add", 2, 2), ("add", 4))).result(timeout=60) == 8


def test_a_call_outlives_its_client(served: None, url: str) -> None:
    names = {"AsyncClient": AsyncClient}
    first = example("docs/calling.md", "call.id  # keep that")
    id_ = asyncio.run(values(first, names))["call.id"]
    names["client"].close()
    later = {"AsyncClient": AsyncClient, "id": id_}
    said = asyncio.run(values(example("docs/calling.md", "client.get(id).result()"), later))
    assert said["client.get(id).result()"] == 11
    later["client"].close()


def test_tasks_of_an_installed_package_are_served_by_the_pool(desk: Desk, url: str) -> None:
    entry_point = example("docs/calling.md", '[project.entry-points."taskqueue.tasks"]')
    code = example("docs/calling.md", "# mytasks.py").replace("def add", "def add_up").replace("images.", "")
    desk.write("installed/mytasks.py", code)
    project = '[project]\nname = "mytasks"\nversion = "1"\n\n'
    desk.write("installed/pyproject.toml", project + entry_point)
    desk.run(f".venv/bin/pip install {desk.directory}/installed")
    desk.reload()
    with Client() as client:

        def sum_up() -> int | None:
            with contextlib.suppress(UnknownTask):  # its queue is made when the first worker is ready
                return client.add_up(5, 6)
            return None

        assert wait_until(sum_up, 20, desk.up.output) == 11


# --- docs/protocol.md ---


def test_a_shell_calls_a_task(served: None, desk: Desk, url: str, foreign: Foreign) -> None:
    typed = example("docs/protocol.md", "amqp-declare-queue").replace("$URL", url)
    assert json.loads(desk.run(typed).splitlines()[-1]) == {"jsonrpc": "2.0", "result": 11, "id": 1}


def table(page: str, heading: str) -> list[tuple[str, str]]:
    """Return the rows of a table of two columns, without the backticks."""
    rows = (PROJECT / page).read_text().partition(f"{heading}\n| --- | --- |\n")[2].partition("\n\n")[0]
    return [
        tuple(cell.strip().strip("`") for cell in row.strip("|").split(" | ")) for row in rows.splitlines()
    ]


@pytest.mark.parametrize(("sent", "came"), table("docs/protocol.md", "| sent | came back |"))
def test_each_request_of_the_page_is_answered_as_it_says(
    served: None, foreign: Foreign, sent: str, came: str
) -> None:
    foreign.delete("answers")  # with what another test's client has not acknowledged
    foreign.declare("answers")
    properties = {"content_type": "application/json", "reply_to": "answers"}
    foreign.publish(sent, **properties)
    if came.startswith("nothing"):
        foreign.publish('{"jsonrpc": "2.0", "method": "add", "params": [1, 1], "id": "next"}', **properties)
        assert json.loads(foreign.get("answers").body)["id"] == "next"
        return
    answer = foreign.get("answers").body
    assert re.fullmatch(re.escape(came).replace("…", ".*").encode(), answer), answer


# --- docs/feeding.md ---


def test_a_job_that_fails_is_a_line_as_the_page_shows_it(desk: Desk, url: str) -> None:
    shown = json.loads(example("docs/feeding.md", '{"index": 107'))
    jobs = "def get_jobs(last=0):\n    yield from range(last, 120)\n\n\ndef handle_job(i):\n"
    desk.write("failing.py", f"{jobs}    if i == 107:\n        raise ValueError('no 107')\n")
    desk.run(f"taskqueue run failing.py 1 --retries 2 --no-progress --amqp {url}", status=1)
    (line,) = (desk.directory / "failing.state.failed.jsonl").read_text().splitlines()
    said = json.loads(line)
    assert said.keys() == shown.keys()
    assert said["traceback"].startswith(shown["traceback"].partition(" …")[0])
    for key in ("index", "job", "error", "runs"):
        assert said[key] == shown[key]


def test_jobs_that_json_cannot_express_travel_as_signed_pickles(desk: Desk) -> None:
    journal = desk.directory / "pickled"
    handle = f"def handle_job(job):\n    open({str(journal)!r}, 'w').write(repr(job))\n"
    desk.write("example.py", f"def get_jobs():\n    yield (1, {{2}})\n\n\n{handle}")
    (desk.directory / "example.state").unlink(missing_ok=True)
    key, work, feed = commands(example("docs/feeding.md", "(umask 077; openssl"))
    desk.run(key)
    assert (desk.directory / "key").stat().st_mode & 0o077 == 0
    workers = desk.start(work.partition("#")[0], "takes work")
    desk.run(feed)
    assert journal.read_text() == "(1, {2})"
    assert workers.stop() == 0
