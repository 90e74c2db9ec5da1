"""The flow process is killed between any two statements of its database, and before and after each commit."""

import contextlib
import json
import os
import signal
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from support.flows import Item, Mill, step

from taskqueue.flow.ledger import Ledger
from taskqueue.flow.outbox import Run
from taskqueue.flow.store import SqliteStore
from taskqueue.workflows.wire import decode

ID = "5" * 32
STEPS = [
    step("a"),
    step("b", ["a"]),
    step("c", ["a"]),
    step("join", ["b", "c"], allow_failed=["c"]),
    step("list", ["join"]),
    step("each", map={"$result": "list"}),
    step("sum", params=[{"$results": "each"}]),
    step("bad", on="failed"),
    step("good", on="succeeded"),
    step("end", on="ended"),
]
RAN = ["a", "b", "c", "join", "list", "each[0]", "each[1]", "sum", "good", "end"]


class Mortal(SqliteStore):
    """A database whose process is killed instead of its n-th statement, counted from when it is armed."""

    left = -1  # -1: immortal

    def _count(self):
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= self.left > 0

    def rows(self, statement, values=()):
        self._count()
        return super().rows(statement, values)

    def execute(self, statement, values=()):
        self._count()
        return super().execute(statement, values)

    def executemany(self, statement, rows):
        self._count()
        super().executemany(statement, rows)

    @contextlib.contextmanager
    def transaction(self):
        with super().transaction():
            yield
            self._count()
        self._count()  # it is committed, and nothing has come of it


class Broker:
    """Keeps the messages that are not acknowledged, and what has been published, in files."""

    def __init__(self, directory):
        self.directory = directory
        self.todo, self.log = directory / "todo", directory / "published"

    def published(self):
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def serve(self, kill_at):
        """Be the flow process; die at a statement, or return the number of statements that were left."""
        store = Mortal(self.directory / "flow.db")
        store.left = kill_at
        ledger = Ledger(store)
        for shard in range(4):
            ledger.take(shard)
        noted, messages = [], json.loads(self.todo.read_text())
        while True:
            incoming = [Mill.incoming(decode(each.encode())) for each in messages[:2]]
            done = ledger.apply(incoming, noted=noted, room=1000)
            noted = []
            messages = messages[2:]
            with self.log.open("a") as log:
                for each in done.drawn:
                    item = Item(each)
                    status = "failed" if item.step == "c" else "succeeded"
                    result = [1, 2] if item.step == "list" else item.step
                    receipt = item.receipt(status, result).encode().decode()
                    log.write(json.dumps([item.id, item.step, receipt]) + "\n")
                    messages.append(receipt)
                    noted.append(Run(*each.run))
            new = self.directory / "new"
            new.write_text(json.dumps(messages))
            new.rename(self.todo)  # acknowledged, after what came of it is published
            if not messages:
                return store.left


def run(broker, kill_at, forked):
    process = forked(lambda: broker.serve(kill_at) & 0)
    return process.wait(30)


@pytest.fixture
def memory(tmp_path):
    """A directory in memory, where that is possible: a killed process loses nothing that it has written."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shared) as directory:
        yield Path(directory)


@pytest.mark.timeout(600)
def test_each_join_and_callback_comes_once_wherever_the_process_is_killed(memory, forked):
    document = {"kind": "start", "workflow": "test", "id": ID, "steps": STEPS}
    place = 0
    while True:
        directory = memory / str(place)
        directory.mkdir()
        broker = Broker(directory)
        broker.todo.write_text(json.dumps([json.dumps(document)]))
        was_killed = run(broker, place, forked) == -signal.SIGKILL
        if was_killed:
            assert run(broker, -1, forked) == 0
        check(broker, most=2 if was_killed else 1)
        if not was_killed:
            break
        place += 1
    assert place > 100


def check(broker, most):
    """Check that each step has run, more than once only under the same id, and that all has ended well."""
    names = Counter(name for _, name, _ in broker.published())
    assert set(names) == set(RAN)
    assert max(names.values()) <= most
    assert {id_ for id_, _, _ in broker.published()} == {f"{ID}.{name}" for name in RAN}
    store = SqliteStore(broker.directory / "flow.db")
    mill = Mill(store)
    assert mill.state(ID) == "succeeded"
    assert mill.ask("result", ID, step="sum")["result"] == "sum"
    assert store.rows("SELECT count(*) FROM edge") == [(0,)]
    store.close()


@pytest.mark.parametrize("first", [0, 1])
def test_of_two_processes_that_both_believe_they_lead_only_the_later_one_changes_anything(tmp_path, first):
    stores = [SqliteStore(tmp_path / "flow.db") for _ in range(2)]
    with contextlib.closing(stores[0]), contextlib.closing(stores[1]):
        one = Mill(stores[0])
        id_ = one.start(step("a"), step("b"), step("join", ["a", "b"]))
        a, b = one.take("a", "b")
        other = Mill(stores[1])
        receipts = [a.receipt(), b.receipt()]
        for mill in (one, other) if first else (other, one):
            mill.apply(*receipts)
        assert one.names() == ["a", "b"]
        assert other.names() == ["join"]
        assert other.states(id_)["join"] == "queued"
