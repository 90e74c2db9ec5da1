"""The outbox: steps that are ready, as the workitems that are published for them."""

import time
from collections.abc import Collection, Iterable, Iterator
from itertools import zip_longest
from typing import Any, Final, NamedTuple

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import header_table
from taskqueue.errors import FlowUnavailable
from taskqueue.flow.arguments import Arguments
from taskqueue.flow.graph import End, Graph, error_text
from taskqueue.flow.receipts import Proof
from taskqueue.flow.schema import Outcome, State, workitem_id
from taskqueue.flow.store import Store
from taskqueue.messages import names
from taskqueue.messages.content import JSON
from taskqueue.messages.options import NONE, Options
from taskqueue.workflows.document import BODY
from taskqueue.workflows.wire import decode_value

_MOST_BYTES: Final = 32 * 1024 * 1024  # of arguments that are drawn at once
_MOST_READ: Final = 100  # rows of steps that are read at once
_NOTED_WITHIN: Final = 10.0  # seconds after a confirm; five of them may be spent on waiting for its event
_COLUMNS: Final = (
    "step.no, step.run, step.workflow, step.name, step.type, step.form, step.args, step.options, step.refs, "
    "workflow.id, workflow.secret, workflow.tenant"
)


class Run(NamedTuple):
    """A run of a step: the number of its row, and that of the run."""

    no: int
    run: int


class Drawn(NamedTuple):
    """A run of a step, and the workitem that is published for it."""

    run: Run
    id: str
    worker_type: str
    options: Options
    properties: bytes  # as Properties.encode returns them
    body: bytes


class Outbox:
    """Draws from the outbox, and notes what the broker has taken, inside a transaction."""

    def __init__(self, store: Store, graph: Graph, signature: str | None) -> None:
        """Draw from `store`.

        signature -- the broker user that workitems name as their publisher; None for none
        """
        self._store, self._graph = store, graph
        self._publisher = {names.PUBLISHER: signature} if signature else {}
        self.is_more = True  # whether there may be more ready steps than were drawn last
        #: Ids of workitems that were on their way to the broker when their workflows were cancelled.
        self.late: list[str] = []
        self._arguments = Arguments(store)

    def note(self, runs: Iterable[Run], at: float | None = None) -> None:
        """Note that the broker has the workitems of these runs.

        at -- since when, in seconds since 1970; None: now
        """
        now = time.time() if at is None else at
        by_run: dict[int, list[int]] = {}
        for no, run in runs:
            by_run.setdefault(run, []).append(no)
        for run, numbers in by_run.items():
            noted = self._store.execute(
                "UPDATE step SET state = ?, published = ? WHERE no IN ANY ? AND state = ? AND run = ?",
                (int(State.QUEUED), now, numbers, int(State.READY), run),
            )
            if noted < len(numbers):
                self.late += self._cancelled_of(numbers, run)

    def _cancelled_of(self, numbers: list[int], run: int) -> list[str]:
        """Return the ids of the workitems of those of these runs whose workflows were cancelled meanwhile."""
        rows = self._store.rows(
            "SELECT workflow.id, step.name FROM step JOIN workflow ON workflow.no = step.workflow "
            "WHERE step.no IN ANY ? AND step.state = ? AND step.run = ? AND workflow.state = ?",
            (numbers, int(State.CANCELLED), run, int(Outcome.CANCELLED)),
        )
        return [workitem_id(id_, name, run) for id_, name in rows]

    def refuse(self, refused: Iterable[tuple[Run, str]]) -> None:
        """Let steps fail whose workitems the broker refuses, for the given reasons."""
        for run, reason in refused:
            self.is_more = True
            rows = self._store.rows(
                "SELECT workflow FROM step WHERE no = ? AND run = ? AND state = ?",
                (*run, int(State.READY)),
            )
            self._graph.end(
                End(run.no, workflow, State.FAILED, error=error_text("Refused", reason))
                for (workflow,) in rows
            )

    def draw(self, shards: Collection[int], room: int, besides: Collection[Run]) -> list[Drawn]:
        """Return at most `room` workitems of ready steps.

        A step whose arguments cannot be made fails.

        besides -- runs whose workitems are on their way
        """
        drawn: list[Drawn] = []
        size = 0
        self.is_more = False
        for row in self._ready(shards, room, besides):
            try:
                each = self._drawn(row)
            except FlowUnavailable:
                raise
            except Exception as error:  # noqa: BLE001 -- BadWorkflow, or a row as nobody has foreseen it
                text = error_text(type(error).__name__, str(error))
                self._graph.end([End(row[0], row[2], State.FAILED, error=text)])
                self.is_more = True  # what waited for it may be ready now
                continue
            drawn.append(each)
            size += len(each.body)
            if size > _MOST_BYTES:
                self.is_more = True
                break
        return drawn

    def _ready(self, shards: Collection[int], room: int, besides: Collection[Run]) -> Iterable[Any]:
        """Yield rows of ready steps; their arguments are read in bounded pieces."""
        found = [*self._in_turn(shards, room, besides)]
        self.is_more = len(found) > room
        for numbers in _pieces(found[:room]):
            yield from self._store.rows(
                f"SELECT {_COLUMNS} FROM step JOIN workflow ON workflow.no = step.workflow "  # noqa: S608
                "WHERE step.no IN ANY ? ORDER BY step.no",
                (numbers,),
            )

    def _in_turn(
        self, shards: Collection[int], room: int, besides: Collection[Run]
    ) -> Iterator[tuple[int, int]]:
        """Yield the numbers of ready steps, and the bytes of their arguments, from each shard in turn."""
        most = room + len(besides) + 1
        statement = "SELECT no, run, length(args) FROM step WHERE state = 1 AND shard = ? ORDER BY no LIMIT ?"
        rows = [
            [
                (no, size)
                for no, run, size in self._store.rows(statement, (shard, most))
                if (no, run) not in besides
            ]
            for shard in shards
        ]
        for some in zip_longest(*rows):
            yield from filter(None, some)

    def _drawn(self, row: Any) -> Drawn:
        no, run, workflow, name, kind, form, args, options, refs, id_, secret, tenant = row
        if refs:
            args = self._arguments.resolved(workflow, name, args)
        item = workitem_id(id_, name, run)
        proof = str(Proof(self._store.id, secret, no))
        headers = {
            names.WORKFLOW: id_,
            names.STEP: name,
            names.RUN: run,
            names.PROOF: proof,
            **self._publisher,
        }
        raw = Properties(JSON, None, header_table(headers), 2, message_id=item, type=kind).encode()
        asked = decode_value(options) if options else {}
        if tenant:
            asked = {"tenant": tenant} | asked
        wanted = Options.checked(**asked) if asked else NONE
        raw = wanted.marked(raw)
        body = (
            args if form == BODY else f'{{"jsonrpc":"2.0","method":"{kind}","params":{args},"id":"{item}"}}'
        )
        return Drawn(Run(no, run), item, kind, wanted, raw, body.encode())

    def queued_of(self, workflow: int, after: int, most: int) -> list[tuple[int, str]]:
        """Return queued steps of a cancelled workflow by their numbers, with the ids of their workitems."""
        rows = self._store.rows(
            "SELECT step.no, workflow.id, step.name, step.run FROM step "
            "JOIN workflow ON workflow.no = step.workflow "
            "WHERE step.workflow = ? AND step.state = ? AND step.no > ? AND workflow.state = ? "
            "ORDER BY step.no LIMIT ?",
            (workflow, int(State.QUEUED), after, int(Outcome.CANCELLED), most),
        )
        return [(no, workitem_id(id_, name, run)) for no, id_, name, run in rows]

    def cancelled(self, shard: int) -> list[int]:
        """Return the workflows of a shard that are cancelled, with steps that have not ended."""
        rows = self._store.rows(
            "SELECT no FROM workflow WHERE shard = ? AND state = ? AND ended IS NULL",
            (shard, int(Outcome.CANCELLED)),
        )
        return [no for (no,) in rows]

    def publish_again(self, shard: int, before: float) -> int:
        """Make steps of a shard ready again that were published before a time: their receipts may be lost.

        Those that another process has published again since then stay as they are. Returns their number.
        """
        return self._store.execute(
            "UPDATE step SET state = ? WHERE shard = ? AND state = ? AND published < ?",
            (int(State.READY), shard, int(State.QUEUED), before + _NOTED_WITHIN),
        )


def _pieces(found: Iterable[tuple[int, int]]) -> Iterator[list[int]]:
    """Yield numbers of rows in pieces whose arguments are read at once: numbers and bytes are bounded."""
    piece: list[int] = []
    size = 0
    for no, more in found:
        if piece and (len(piece) == _MOST_READ or size + more > _MOST_BYTES):
            yield piece
            piece, size = [], 0
        piece.append(no)
        size += more
    if piece:
        yield piece
