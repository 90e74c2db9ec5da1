"""Rounds: all messages of one are applied in one transaction, with what is to be published after it."""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from taskqueue.broker.topology import SHARDS, shard_of
from taskqueue.errors import BadFlowMessage, BadWorkflow, FlowRefused
from taskqueue.flow.commands import Commands
from taskqueue.flow.graph import Graph
from taskqueue.flow.outbox import Drawn, Outbox, Run
from taskqueue.flow.planting import Planting
from taskqueue.flow.receipts import Receipts
from taskqueue.flow.retention import remove_old
from taskqueue.flow.shards import Shards
from taskqueue.flow.store import Store
from taskqueue.messages.forwarding import new_id
from taskqueue.workflows.document import read
from taskqueue.workflows.wire import COMMAND, KIND, RECEIPT, START, Receipt, encode_json

_MOST_CANCELS: Final = 500  # in a round


class Incoming(NamedTuple):
    """A message in the queue of a shard: its body as JSON has it, or receipts, and what else matters."""

    shard: int
    message: Mapping[str, Any] | tuple[Receipt, ...]
    id: str = ""  # of the message

    @property
    def receipts(self) -> tuple[Receipt, ...]:
        """The receipts in it."""
        return self.message if isinstance(self.message, tuple) else ()


class Answer(NamedTuple):
    """The answer to a command or a start."""

    to: Incoming
    answer: dict[str, Any]


@dataclass(slots=True)
class Round:
    """The effects of a round, once its transaction is committed.

    Args:
        lost: shards that another process leads now; their messages are not applied.
        answers: to those who have started or commanded.
        refused: why receipts are dropped, a line each.
        drawn: workitems to publish.
        is_more: whether there may be more of them.
    """

    lost: list[int] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    drawn: list[Drawn] = field(default_factory=list)
    is_more: bool = False

    def add(self, other: "Round") -> None:
        """Add the effects of a message of which nothing is drawn."""
        self.lost += other.lost
        self.answers += other.answers
        self.refused += other.refused


class Ledger:
    """Applies rounds to a database of workflows."""

    def __init__(self, store: Store, signature: str | None = None) -> None:
        """Keep workflows in `store`.

        signature -- the broker user that workitems name as their publisher; None for none
        """
        self.store = store
        self.shards = Shards(store)
        planting = Planting(store, self.shards)
        self._graph = Graph(store, planting)
        self._receipts = Receipts(store, planting, self._graph)
        self._commands = Commands(store, self.shards, planting, self._graph)
        self._outbox = Outbox(store, self._graph, signature)
        self._cancelling: dict[int, int] = {}  # workflows, and the number of the last step that was cancelled

    @property
    def is_cancelling(self) -> bool:
        """Whether there are more workitems to cancel."""
        return bool(self._cancelling or self._outbox.late)

    def take(self, shard: int, *, missing_since: float | None = None, noted: Collection[Run] = ()) -> int:
        """Lead a shard. Raises FlowUnavailable.

        Args:
            shard: its number.
            missing_since: when its queue was found missing, so that receipts are lost; None if it was not.
            noted: runs whose workitems the broker has confirmed.

        Returns:
            The number of steps that are published again for that.
        """
        with self.store.transaction():
            self.shards.take(shard)
            self._outbox.is_more = True
            again = 0
            if missing_since is not None:
                self._outbox.note(self._own(noted), at=missing_since)
                again = self._outbox.publish_again(shard, missing_since)
            for workflow in self._outbox.cancelled(shard):
                self._cancelling.setdefault(workflow, 0)
        return again

    def apply(
        self,
        incoming: Sequence[Incoming],
        *,
        noted: Collection[Run] = (),
        refused: Collection[tuple[Run, str]] = (),
        room: int = 0,
        besides: Collection[Run] = (),
    ) -> Round:
        """Apply messages in one transaction. Raises FlowUnavailable; then nothing has happened.

        Args:
            incoming: the messages, in order.
            noted: runs whose workitems the broker has confirmed.
            refused: runs whose workitems it refuses, with the reasons.
            room: maximum number of workitems to draw.
            besides: runs whose workitems are on their way.
        """
        done = Round()
        try:
            with self.store.transaction():
                done.lost = self.shards.lost()
                for shard in done.lost:
                    self.shards.leave(shard)
                self._outbox.note(self._own(noted))
                own = set(self._own([run for run, _ in refused]))
                self._outbox.refuse(each for each in refused if each[0] in own)
                self._apply([each for each in incoming if each.shard in self.shards.led], done)
                self._graph.finish()
                if room > 0:
                    done.drawn = self._outbox.draw(self._shards_with_ready(incoming), room, besides)
                    self._graph.finish()
                else:
                    self._outbox.is_more = True  # what has become ready is drawn once there is room
                done.is_more = self._outbox.is_more
                cancelled, self._commands.cancelled = self._commands.cancelled, []
        except BaseException:
            self._graph.forget()
            self._outbox.is_more = True
            self._commands.cancelled = []
            raise
        for workflow in cancelled:
            self._cancelling[workflow] = 0
        return done

    def _own(self, runs: Collection[Run]) -> list[Run]:
        """Return the runs that no other process may have published again: none has led their shards."""
        taken = self.shards.taken_by_others({run.no % SHARDS for run in runs})
        return [run for run in runs if run.no % SHARDS not in taken]

    def _shards_with_ready(self, incoming: Iterable[Incoming]) -> Collection[int]:
        """Return the shards that may have ready steps which are not drawn."""
        led = set(self.shards.led)
        return led if self._outbox.is_more else led.intersection(each.shard for each in incoming)

    def cancels(self) -> list[str]:
        """Return some ids of workitems to cancel, of workflows that are cancelled."""
        found, self._outbox.late = self._outbox.late, []
        while self._cancelling and len(found) < _MOST_CANCELS:
            workflow, after = next(iter(self._cancelling.items()))
            rows = self._outbox.queued_of(workflow, after, _MOST_CANCELS)
            found += [id_ for _, id_ in rows]
            if len(rows) < _MOST_CANCELS:
                del self._cancelling[workflow]
            else:
                self._cancelling[workflow] = rows[-1][0]
        return found

    def cancel_again(self) -> None:
        """Have `cancels` return what is queued first of cancelled workflows: a pool may have begun since."""
        for shard in self.shards.led:
            for workflow in self._outbox.cancelled(shard):
                if len(self._outbox.late) >= _MOST_CANCELS:
                    return
                self._outbox.late += [id_ for _, id_ in self._outbox.queued_of(workflow, 0, _MOST_CANCELS)]

    def remove_old(self, keep: float) -> bool:
        """Remove some old workflows; return whether there are more. Raises FlowUnavailable."""
        with self.store.transaction():
            return remove_old(self.store, keep)

    def _apply(self, incoming: Iterable[Incoming], done: Round) -> None:
        receipts: list[Receipt] = []
        for each in incoming:
            if isinstance(each.message, tuple):
                receipts += (receipt for receipt in each.message if shard_of(receipt.workflow) == each.shard)
                done.refused += _astray(each)
                continue
            done.refused += self._receipts.take(receipts)
            receipts = []
            if each.message.get(KIND) in (START, COMMAND):
                done.answers.append(Answer(each, self._answer(each, each.message)))
        done.refused += self._receipts.take(receipts)

    def _answer(self, each: Incoming, message: Mapping[str, Any]) -> dict[str, Any]:
        """Start a workflow or do what a command says; a fault is the answer, and nothing has changed."""
        self._graph.finish()  # a command sees what messages before it have come to
        try:
            if message.get(KIND) == START:
                return self._start(each, message)
            answer = self._commands.act(message, each.shard)
        except BadWorkflow as error:
            return {"error": str(error), "faults": list(error.faults)}
        except FlowRefused as error:
            return {"error": str(error)}
        return answer

    def _start(self, each: Incoming, message: Mapping[str, Any]) -> dict[str, Any]:
        document = read(message if message.get("id") else {**message, "id": _id_for(each)})
        text = encode_json({name: value for name, value in message.items() if name != KIND})
        return self._commands.start(document, each.shard, hashlib.sha256(text.encode()).hexdigest())


def _astray(each: Incoming) -> list[str]:
    """Return why receipts are dropped of workflows that another process may keep at the same time."""
    return [
        f"a receipt of step {receipt.step} of workflow {receipt.workflow}, in taskqueue_flow_{each.shard}"
        for receipt in each.receipts
        if shard_of(receipt.workflow) != each.shard
    ]


def _id_for(each: Incoming) -> str:
    """Return an id in the shard of a document that has none: the same one if the message comes again."""
    seed = each.id or new_id()
    number = 0
    while shard_of(found := hashlib.sha256(f"{seed}.{number}".encode()).hexdigest()[:32]) != each.shard:
        number += 1
    return found


def decoded(shard: int, message: dict[str, Any], id_: str) -> Incoming:
    """Return a message of a shard; raise BadFlowMessage if it is none."""
    kind = message.get(KIND)
    if kind == RECEIPT:
        return Incoming(shard, (Receipt.of_json(message),), id_)
    if not isinstance(kind, str):
        raise BadFlowMessage("a message without kind")
    return Incoming(shard, message, id_)


def encoded(incoming: Incoming) -> bytes:
    """Return the body of a message."""
    message = incoming.message
    if isinstance(message, tuple):
        return b"\n".join(receipt.encode() for receipt in message)
    return encode_json(message).encode()


def parts_of(incoming: Incoming) -> list[Incoming]:
    """Return a message as several that have one receipt each; any other message as it is."""
    return [incoming._replace(message=(receipt,)) for receipt in incoming.receipts] or [incoming]


def joined(parts: Sequence[Incoming]) -> Incoming:
    """Return the message of which `parts_of` has returned some parts."""
    receipts = tuple(receipt for part in parts for receipt in part.receipts)
    return parts[0]._replace(message=receipts) if receipts else parts[0]
