"""Receipts: the ends of steps' workitems, of which each counts once."""

from collections.abc import Iterable, Iterator, Sequence
from hmac import compare_digest
from typing import Any, Final, NamedTuple

from taskqueue.errors import BadWorkflow
from taskqueue.flow.arguments import missing_result
from taskqueue.flow.graph import End, Graph, error_text
from taskqueue.flow.planting import Place, Planting
from taskqueue.flow.schema import Kind, Outcome, State
from taskqueue.flow.store import Store
from taskqueue.workflows.document import read_steps
from taskqueue.workflows.wire import Receipt

_STATE_OF: Final = {
    "succeeded": State.SUCCEEDED,
    "failed": State.FAILED,
    "rejected": State.REJECTED,
    "cancelled": State.CANCELLED,
    "duplicate": State.REJECTED,
}
_OPEN: Final = (State.READY, State.QUEUED)
_FAILURES: Final = (State.FAILED, State.REJECTED, State.CANCELLED)


class Proof(NamedTuple):
    """The proof in a step's workitem.

    Args:
        database: the id of the database that keeps the workflow.
        secret: the workflow's.
        no: the number of the step's row.
    """

    database: str
    secret: str
    no: int

    def __str__(self) -> str:
        return f"{self.database}.{self.secret}.{self.no}"

    @classmethod
    def of(cls, text: str) -> "Proof | None":
        """Return the proof in a header or receipt; None if it is none."""
        if not text.isascii():
            return None  # no secrets that `compare_digest` can compare
        database, _, rest = text.partition(".")
        secret, _, no = rest.partition(".")
        return cls(database, secret, int(no)) if no.isdecimal() and len(no) < 19 else None


class _Found(NamedTuple):
    """The row of a step for which there is a receipt, and its workflow's."""

    no: int
    name: str
    state: int
    run: int
    kind: int
    wanted: int
    parent: int | None
    workflow: int
    shard: int
    id: str
    secret: str
    outcome: int


class Receipts:
    """Applies receipts inside a transaction."""

    def __init__(self, store: Store, planting: Planting, graph: Graph) -> None:
        self._store, self._planting, self._graph = store, planting, graph

    def take(self, receipts: Iterable[Receipt]) -> list[str]:
        """Apply receipts; return why some are dropped, a line each."""
        refused: list[str] = []
        batch: dict[int, tuple[Receipt, Proof]] = {}
        for receipt in receipts:
            proof = Proof.of(receipt.proof)
            if proof is None:
                refused.append(
                    f"a receipt of step {receipt.step} of workflow {receipt.workflow} has no proof"
                )
                continue
            if proof.no in batch:  # the second one finds what the first one has come to
                refused += self._take(batch)
                batch = {}
            batch[proof.no] = receipt, proof
        return refused + self._take(batch)

    def _take(self, batch: dict[int, tuple[Receipt, Proof]]) -> list[str]:
        found = self._found(list(batch))
        refused: list[str] = []
        ends: list[End] = []
        for no, (receipt, proof) in batch.items():
            row = found.get(no)
            if row is None:
                refused.append(f"a receipt of step {receipt.step}: there is no workflow {receipt.workflow}")
            elif fault := _fault(row, receipt, proof):
                refused.append(f"a receipt of step {receipt.step} of workflow {receipt.workflow}: {fault}")
            elif row.state in _OPEN:
                ends.append(self._end_of(row, receipt))
            elif row.state in _FAILURES and receipt.status == "succeeded":
                self._graph.end(ends)  # before, as it came before
                ends = []
                self._revive(row, receipt)
        if ends:
            self._graph.end(ends)
        return refused

    def _found(self, numbers: list[int]) -> dict[int, _Found]:
        rows = self._store.rows(
            "SELECT step.no, step.name, step.state, step.run, step.kind, step.wanted, step.parent, "
            "step.workflow, step.shard, workflow.id, workflow.secret, workflow.state FROM step "
            "JOIN workflow ON workflow.no = step.workflow WHERE step.no IN ANY ?",
            (numbers,),
        )
        return {row[0]: _Found(*row) for row in rows}

    def _end_of(self, row: _Found, receipt: Receipt) -> End:
        """Return the end that a receipt tells of, after it has added the steps that the workflow grows by."""
        state = _STATE_OF[receipt.status]
        if state is not State.SUCCEEDED:
            return End(row.no, row.workflow, state, error=_error_of(receipt))
        fault = ""
        if receipt.result is None and receipt.size is not None and row.wanted:
            fault = missing_result(row.name, receipt.size)
        elif receipt.extend and row.kind == Kind.CALLBACK:
            fault = f"callback {row.name} extends the workflow, which has ended"
        elif receipt.extend and row.outcome != Outcome.CANCELLED:
            fault = self._extend(row, receipt.extend)
        if fault:
            return End(row.no, row.workflow, State.FAILED, error=error_text("BadWorkflow", fault))
        return End(row.no, row.workflow, state, receipt.result, receipt.size)

    def _extend(self, row: _Found, steps: Sequence[Any]) -> str:
        """Add steps; return why they cannot be added."""
        try:
            extend(self._planting, self._graph, Place(row.workflow, row.shard), list(steps))
        except BadWorkflow as error:
            return f"step {row.name} extends the workflow by steps with faults: {error}"
        return ""

    def _revive(self, row: _Found, receipt: Receipt) -> None:
        """Let a step count that has failed before, and go on from there."""
        end = self._end_of(row, receipt)
        if end.state is not State.SUCCEEDED or row.outcome == Outcome.CANCELLED:
            self._graph.end([end])
            return
        if row.kind == Kind.CALLBACK:  # the workflow has ended, and does not end again for it
            self._graph.end([end])
            return
        again = [row.no]
        if row.parent is not None:
            again += self._reopened(row.parent)
        woken = self._graph.wake(again, row.workflow)
        if row.outcome != Outcome.SUCCEEDED or receipt.extend:  # else it would succeed a second time
            self._store.execute(
                "UPDATE workflow SET state = ?, ended = NULL WHERE no = ?",
                (int(Outcome.RUNNING), row.workflow),
            )
        self._graph.end([end])
        self._graph.settle([*woken, *again[1:]], row.workflow)

    def _reopened(self, no: int) -> list[int]:
        """Let a failed map wait again; return it if it had failed."""
        changed = self._store.execute(
            "UPDATE step SET state = ?, ended = NULL WHERE no = ? AND state = ? AND kind = ?",
            (int(State.WAITING), no, int(State.FAILED), int(Kind.SPREAD)),
        )
        return [no] if changed else []


def extend(planting: Planting, graph: Graph, place: Place, plain: list[Any]) -> None:
    """Add steps, as a document has them, to a workflow. Raises BadWorkflow with all of their faults."""
    planting.check_room(place.workflow, len(plain))
    found: dict[str, Any] = {}

    def look_up(names: Iterable[str]) -> dict[str, bool]:
        found.update(planting.known(place.workflow, list(names)))
        return {name: each.kind in (Kind.MAP, Kind.SPREAD) for name, each in found.items()}

    steps = read_steps(plain, look_up)
    callbacks = {name for name, each in found.items() if each.kind is Kind.CALLBACK}
    faults = [
        f"step {step.name}: {name} is a callback, for which no step can wait"
        for step in steps
        for name in callbacks.intersection((*step.after, *step.references))
    ]
    if faults:
        raise BadWorkflow(faults)
    graph.settle(planting.add(place, steps, found), place.workflow)


def _fault(row: _Found, receipt: Receipt, proof: Proof) -> str:
    """Return why a receipt with a proof is not believed; "" if it is."""
    if not compare_digest(proof.secret, row.secret) or row.id != receipt.workflow:
        return "its proof is another workflow's"
    if row.name != receipt.step:
        return "its proof is another step's"
    return "" if row.run == receipt.run else f"it is of run {receipt.run}; the last one is {row.run}"


def _error_of(receipt: Receipt) -> str:
    if receipt.error is not None:
        return error_text(*receipt.error)
    if receipt.status == "duplicate":
        return error_text("Duplicate", "another workitem has its key")
    return error_text(receipt.status, "")


def foreign(receipts: Iterable[Receipt], database: str) -> Iterator[Receipt]:
    """Yield the receipts of workflows that another database keeps."""
    own = f"{database}."
    for receipt in receipts:
        if receipt.proof.startswith(own):
            continue  # most are of this one, and each is looked at often
        proof = Proof.of(receipt.proof)
        if proof is not None and proof.database != database:
            yield receipt
