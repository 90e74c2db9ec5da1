"""Unique work while keepers and dispatchers are killed: never two at once, and no key stays taken."""

import json
import random
import shlex
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest
from support.documentation import commands, example
from support.ground import Ground
from support.processes import Daemon, children, command, kill, run_cli
from support.waiting import wait_until

UNIQUE, STATUS = "x-taskqueue-unique", "x-taskqueue-status"
KEYS = 10
ALONE = "[DEFAULT]\nworkers: 0\n"  # no other type has workers
CONFIG = f"{ALONE}[evaluate]\nworkers: 4\nreport_results: no\n"

#: Notes the run of a workitem in the file of its key, which another run of that key finds locked. A killed
#: dispatcher may have routed a workitem that another one routes again: its second run is no other workitem.
RUN = """
import fcntl, os, time
with open({path!r}, "a+") as file:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        if file.read().splitlines()[-1] != {workitem!r}:
            raise
    else:
        print({workitem!r}, file=file, flush=True)
        while not os.path.exists({gate!r}):
            time.sleep(0.01)
        time.sleep(0.01)
"""


class Load:
    """Workitems with few keys, each of which tells if another one of its key runs."""

    def __init__(self, ground: Ground) -> None:
        self.ground, self.foreign = ground, ground.foreign
        self.foreign.declare("answers")
        self.foreign.declare("taskqueue")
        self.submitted = 0
        self.statuses: defaultdict[str, list[str]] = defaultdict(list)  # of answers, by workitem
        self.done: set[str] = set()  # workitems with their results
        self.gate = ground.open / "gate"  # without it, runs do not end

    def submit(self, keys: Iterable[int]) -> list[str]:
        """Submit a workitem for each key; return their ids."""
        return [self._submit(key) for key in keys]

    def _submit(self, key: int) -> str:
        self.submitted += 1
        workitem = f"workitem{self.submitted}"
        path = str(self.ground.open / f"key{key}")
        self.foreign.publish(
            f"exec({RUN.format(path=path, gate=str(self.gate), workitem=workitem)!r})",
            type="evaluate",
            content_type="text/plain",
            message_id=workitem,
            reply_to="answers",
            application_headers={UNIQUE: f"key {key}"},
        )
        return workitem

    def take(self) -> None:
        """Take the answers that are there."""
        while (message := self.foreign.poll("answers")) is not None:
            said = json.loads(message.body) if message.headers[STATUS] == "duplicate" else {}
            self.statuses[message.correlation_id].append(message.headers[STATUS])
            if not said.get("result_follows"):
                self.done.add(message.correlation_id)

    def collect(self, number: int) -> dict[str, list[str]]:
        """Take answers until so many workitems have their results; return the statuses of each."""

        def enough() -> bool:
            self.take()
            return len(self.done) >= number

        wait_until(enough, 120, lambda: f"{number} results; there are {len(self.done)}")
        return self.statuses


@pytest.fixture
def load(ground: Ground) -> Load:
    ground.start("workerpool", CONFIG)
    return Load(ground)


def one_of(daemons: list[Daemon], *kinds: str) -> int:
    """Return a child of one of the daemons whose title has one of these words."""
    titles = tuple(f"taskqueue: {kind}" for kind in kinds)

    def found() -> list[int]:
        return [pid for each in daemons for pid in children(each.pid) if command(pid).startswith(titles)]

    return random.choice(wait_until(found))


def runs(directory: Path) -> int:
    return sum(len(each.read_text().splitlines()) for each in directory.glob("key*"))


def test_the_example_of_the_documentation(ground: Ground) -> None:
    config = f"{ALONE}[echo]\nworkers: 2\n"
    ground.start("dispatcher", config)
    ground.start("workerpool", config)
    typed = commands(example("docs/limits.md", "taskqueue submit echo '\"first\"'"))
    assert len(typed) == 4
    for each in typed:
        assert run_cli(*shlex.split(each, comments=True)[1:], "--amqp", ground.url).returncode == 0
    assert [ground.foreign.get("results", 20).body for _ in range(2)] == [b"first", b"b"]
    assert ground.foreign.poll("results") is None


@pytest.mark.parametrize("victim", ["keeper", "dispatcher"])
def test_two_of_a_key_never_run_at_once_though_processes_are_killed(load: Load, victim: str) -> None:
    daemons = [load.ground.start("dispatcher", CONFIG) for _ in range(2)]
    load.gate.touch()
    for _ in range(12):
        load.submit(random.choices(range(KEYS), k=25))
        kill(one_of(daemons, victim))
    statuses = load.collect(load.submitted)
    assert {status for each in statuses.values() for status in each} <= {"succeeded", "duplicate"}
    assert KEYS <= runs(load.ground.open) < load.submitted
    assert load.foreign.depth("taskqueue_failed") in (None, 0)
    last = load.submit(range(KEYS))  # every key is free again
    load.collect(load.submitted)
    assert all(load.statuses[workitem] == ["succeeded"] for workitem in last)


def test_a_key_outlives_every_daemon_that_knows_it(load: Load) -> None:
    dispatcher = load.ground.start("dispatcher", CONFIG)
    load.submit([1])
    wait_until((load.ground.open / "key1").exists)
    dispatcher.clean_up()
    load.ground.start("dispatcher", CONFIG)
    load.submit([1])
    wait_until(lambda: load.statuses["workitem2"] or load.take(), what="the second one to be a duplicate")
    load.gate.touch()
    assert load.collect(2) == {"workitem1": ["succeeded"], "workitem2": ["duplicate", "succeeded"]}
    assert runs(load.ground.open) == 1
