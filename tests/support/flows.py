"""Workflows without a broker: a ledger on a real database, and workers that do as they are told."""

import json
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from taskqueue.amqp.properties import Properties
from taskqueue.broker.topology import SHARDS, shard_of
from taskqueue.flow.ledger import Incoming, Ledger, decoded
from taskqueue.flow.outbox import Drawn
from taskqueue.flow.store import Store
from taskqueue.workflows import wire
from taskqueue.workflows.wire import Receipt


class Item:
    """A workitem that a ledger has published."""

    def __init__(self, drawn: Drawn) -> None:
        self.run = drawn.run
        self.properties = Properties.decode(drawn.properties)
        self.headers = self.properties.headers
        self.body = json.loads(drawn.body)
        self.id = str(self.properties.message_id)
        self.workflow = str(self.headers["x-taskqueue-workflow"])
        self.step = str(self.headers["x-taskqueue-step"])

    def receipt(self, status: str = "succeeded", result: Any = None, **others: Any) -> Receipt:
        """Return the receipt of its end."""
        return Receipt(
            self.workflow,
            self.step,
            int(self.headers["x-taskqueue-run"]),
            str(self.headers["x-taskqueue-proof"]),
            status,
            time.time(),
            **{"result": json.dumps(result)} | others if status == "succeeded" else others,
        )


class Mill:
    """Applies messages to a ledger, as the flow process does, and has workitems done."""

    def __init__(self, store: Store) -> None:
        self.ledger = Ledger(store)
        for shard in range(SHARDS):
            self.ledger.take(shard)
        self.published: list[Item] = []  # in order, all of them
        self.todo: list[Item] = []  # those of them that nobody has done
        self.refused: list[str] = []

    def apply(self, *messages: Receipt | Mapping[str, Any], shard: int | None = None) -> list[dict[str, Any]]:
        """Apply messages in one round, and publish what is ready; return the answers."""
        incoming = [self.incoming(each, shard) for each in messages]
        done = self.ledger.apply(incoming, room=1000)
        self.refused += done.refused
        drawn = done.drawn
        while drawn:
            items = [Item(each) for each in drawn]
            self.published += items
            self.todo += items
            drawn = self.ledger.apply([], noted=[each.run for each in drawn], room=1000).drawn
        return [each.answer for each in done.answers]

    @staticmethod
    def incoming(message: Receipt | Mapping[str, Any], shard: int | None = None) -> Incoming:
        """Return a message as its process reads it."""
        body = message.encode() if isinstance(message, Receipt) else json.dumps(message).encode()
        plain = wire.decode(body)
        id_ = str(plain.get("id") if plain["kind"] == "start" else plain.get("workflow", ""))
        return decoded(shard_of(id_) if shard is None else shard, plain, "")

    def start(self, *steps: Mapping[str, Any], **others: Any) -> str:
        """Start a workflow; return its id."""
        id_ = secrets.token_hex(16)
        (answer,) = self.apply(
            {"kind": "start", "workflow": "test", "id": id_, "steps": list(steps)} | others
        )
        assert answer == {"id": id_, "started": True}
        return id_

    def take(self, *names: str) -> list[Item]:
        """Take workitems by the names of their steps."""
        taken = [item for item in self.todo if item.step in names]
        assert sorted(item.step for item in taken) == sorted(names), [item.step for item in self.todo]
        self.todo = [item for item in self.todo if item not in taken]
        return taken

    def do(self, name: str, status: str = "succeeded", result: Any = None, **others: Any) -> None:
        """Do one workitem, and apply its receipt."""
        (item,) = self.take(name)
        self.apply(item.receipt(status, result, **others))

    def do_all(self, result: Callable[[Item], Any] = lambda _item: None, failing: Iterable[str] = ()) -> None:
        """Do all workitems, and those that follow, until none is left."""
        failing = set(failing)
        while self.todo:
            items, self.todo = self.todo, []
            ends = ["failed" if each.step in failing else "succeeded" for each in items]
            self.apply(*(each.receipt(end, result(each)) for each, end in zip(items, ends, strict=True)))

    def ask(self, action: str, id_: str, **arguments: Any) -> dict[str, Any]:
        """Return the answer to a command."""
        (answer,) = self.apply(wire.command(action, id_, **arguments))
        return answer

    def state(self, id_: str) -> str:
        """Return the state of a workflow."""
        return str(self.ask("show", id_)["state"])

    def states(self, id_: str) -> dict[str, str]:
        """Return the states of a workflow's steps."""
        found: dict[str, str] = {}
        after: int | None = None
        while True:
            answer = self.ask("steps", id_, after=after)
            found |= {each["step"]: each["state"] for each in answer["steps"]}
            after = answer["after"]
            if after is None:
                return found

    def names(self) -> list[str]:
        """Return the names of all published steps, in order."""
        return [item.step for item in self.published]


def step(name: str, after: Sequence[str] = (), **others: Any) -> dict[str, Any]:
    """Return a step of a document."""
    return {"step": name, "type": "work", **({"after": list(after)} if after else {}), **others}
