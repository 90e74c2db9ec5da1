"""A ground where workflows are kept and run, with what their steps write down; a flow process alone."""

import contextlib
import json
import secrets
import sqlite3
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

from support.ground import Ground
from support.waiting import wait_until

from taskqueue.config import AmqpSettings
from taskqueue.flow import client
from taskqueue.flow.schema import State

TASKS = Path(__file__).parent / "steps.py"


class Flows:
    """Starts workflows by the wire, and waits for their ends."""

    def __init__(self, ground: Ground, database: str = "") -> None:
        self.ground, self.amqp = ground, AmqpSettings.from_url(ground.url)
        self.notes = ground.open / "notes"
        self.config = f"[flow]\ndatabase: {database or ground.open / 'flow.db'}\n"
        self.dispatcher = ground.start("dispatcher", self.config)
        self.dispatcher.wait_for("flow process keeps workflows of 4 shards of 4", timeout=30)
        self.work()

    def work(self) -> None:
        """Start two workers."""
        self.workers = self.ground.work(TASKS, "-n", "2")

    def start(self, *steps: dict[str, Any], **others: Any) -> str:
        """Start a workflow; return its id."""
        id_ = secrets.token_hex(16)
        document = {"workflow": "test", "id": id_, "steps": list(steps)} | others
        assert client.start(self.amqp, document) == {"id": id_, "started": True}
        return id_

    @staticmethod
    def document(*steps: dict[str, Any], id_: str) -> str:
        """Return the message that starts a workflow, as any language may write it."""
        return json.dumps({"kind": "start", "workflow": "test", "id": id_, "steps": steps})

    @staticmethod
    def queue(id_: str) -> str:
        """Return the queue of a workflow."""
        return f"taskqueue_flow_{zlib.crc32(id_.encode()) % 4}"

    def ask(self, action: str, id_: str, **arguments: Any) -> dict[str, Any]:
        """Return the answer to a command."""
        return client.ask(self.amqp, action, id_, **arguments)

    def wait(self, id_: str, timeout: float = 60) -> str:
        """Return the state of a workflow after its end."""

        def ended() -> dict[str, Any] | None:
            answer = self.ask("show", id_)
            return answer if answer["ended"] else None

        return str(wait_until(ended, timeout, lambda: self.ask("show", id_))["state"])

    def noted(self, mark: str) -> Counter[str]:
        """Return what steps have written down under a mark, and how often."""
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        return Counter(line.partition(" ")[2] for line in lines if line.startswith(f"{mark} "))

    def note(self, name: str, mark: str, after: Any = (), **others: Any) -> dict[str, Any]:
        """Return a step that writes its name down."""
        params = [str(self.notes), mark, name]
        return {"step": name, "type": "note", "params": params, "after": list(after), **others}


class FlowAlone:
    """A flow process without dispatchers and workers."""

    def __init__(self, ground: Ground, sections: str = "") -> None:
        self.ground, self.amqp = ground, AmqpSettings.from_url(ground.url)
        config = f"[flow]\ndatabase: {ground.open / 'flow.db'}\n{sections}"
        self.daemon = ground.start("flow", config, ready="keeps workflows of 4 shards of 4")

    def start(self, *steps: dict[str, Any], **others: Any) -> str:
        """Start a workflow; return its id."""
        id_ = secrets.token_hex(16)
        client.start(self.amqp, {"workflow": "test", "id": id_, "steps": list(steps), **others})
        return id_

    def take(self, queue: str) -> Any:
        """Take a workitem from a queue."""
        return self.ground.foreign.get(queue, 20)

    def states(self) -> dict[str, State]:
        """Return the states of all steps by their names, as the database has them."""
        database = sqlite3.connect(f"file:{self.ground.open / 'flow.db'}?mode=ro", uri=True)
        with contextlib.closing(database):
            return {name: State(state) for name, state in database.execute("SELECT name, state FROM step")}

    def show(self, id_: str) -> dict[str, Any]:
        """Return the answer to the command that shows a workflow."""
        return client.ask(self.amqp, "show", id_)
