"""The rules of workflows: what the end of a step comes to, for the others and for the workflow.

A step waits for those to which it has edges. An edge is deleted when the step at its other end has come to
an end that satisfies it; a step without edges is ready. Everything is a set of rows, and nothing is counted:
so a rule that is applied twice changes nothing the second time.
"""

import time
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from taskqueue.errors import BadWorkflow
from taskqueue.flow.arguments import Arguments
from taskqueue.flow.planting import Place, Planting
from taskqueue.flow.schema import Kind, Outcome, State
from taskqueue.flow.store import Store
from taskqueue.texts import shorten
from taskqueue.workflows.wire import LONGEST_TEXT, encode_json

_SPREAD_COLUMNS: Final = (
    *("no", "workflow", "shard", "name", "type", "form", "args", "options", "source", "refs", "wanted"),
)
#: The ends of a workflow that a callback may be for, by the workflow's state.
_HOOKS: Final = {
    Outcome.SUCCEEDED: ["succeeded", "ended"],
    Outcome.FAILED: ["failed", "ended"],
    Outcome.CANCELLED: ["ended"],
}
#: Makes callbacks ready; one that has run before gets another run.
_AGAIN: Final = (
    "state = ?, run = CASE WHEN state = ? THEN run ELSE run + 1 END, result = NULL, size = NULL, "
    "error = NULL, published = NULL, ended = NULL"
)


class End(NamedTuple):
    """The end of a step: the number of its row and of its workflow's, its state, result and error."""

    no: int
    workflow: int
    state: State
    result: str | None = None  # as JSON text
    size: int | None = None  # bytes of a result that is not passed on
    error: str | None = None  # as JSON text


class Graph:
    """Applies the rules inside a transaction; `finish` is the last of each transaction."""

    def __init__(self, store: Store, planting: Planting) -> None:
        self._store, self._planting = store, planting
        self._arguments = Arguments(store)
        self._touched: set[int] = set()  # workflows in which something has changed

    def end(self, ends: Iterable[End]) -> None:
        """End open steps, each at most once, and apply what follows."""
        listed = list(ends)
        now = time.time()
        self._store.executemany(
            "UPDATE step SET state = ?, result = ?, size = ?, error = ?, ended = ? WHERE no = ?",
            [(int(each.state), each.result, each.size, each.error, now, each.no) for each in listed],
        )
        self._touched.update(each.workflow for each in listed)
        self._propagate({each.no: each.state is State.SUCCEEDED for each in listed})

    def settle(self, candidates: Iterable[int], workflow: int) -> None:
        """Skip new or waiting steps that wait for nothing that may yet succeed, and make others ready."""
        self._touched.add(workflow)
        numbers = list(candidates)
        self._propagate(self._skip(self._blocked(numbers)))
        self._propagate(self._ready(set(numbers)))

    def wake(self, numbers: Iterable[int], workflow: int) -> list[int]:
        """Let skipped steps that wait for these wait again; return the numbers of their rows."""
        self._touched.add(workflow)
        found: set[int] = set()
        todo = list(numbers)
        while todo:
            rows = self._store.rows(
                "SELECT DISTINCT step.no FROM edge JOIN step ON step.no = edge.step "
                "WHERE edge.predecessor IN ANY ? AND step.state = ?",
                (todo, int(State.SKIPPED)),
            )
            todo = [no for (no,) in rows if no not in found]
            found.update(todo)
        woken = sorted(found)
        self._store.execute(
            "UPDATE step SET state = ?, ended = NULL WHERE no IN ANY ?", (int(State.WAITING), woken)
        )
        return woken

    def forget(self) -> None:
        """Forget what has changed: the transaction has failed."""
        self._touched.clear()

    def finish(self) -> None:
        """End the workflows that have no open step, and make their callbacks ready."""
        touched, self._touched = self._touched, set()
        if not touched:
            return
        rows = self._store.rows(
            "SELECT no, state FROM workflow WHERE no IN ANY ? AND ended IS NULL AND open = 0 AND NOT EXISTS("
            "SELECT 1 FROM step WHERE step.workflow = workflow.no AND step.state <= ? AND step.kind <> ?)",
            (sorted(touched), int(State.QUEUED), int(Kind.CALLBACK)),
        )
        for no, state in rows:
            self._finish(no, Outcome(state))

    def retry_callbacks(self, workflow: int) -> int:
        """Make the failed callbacks of a workflow that has succeeded ready again; return their number."""
        hooks = _HOOKS[Outcome.SUCCEEDED]
        return self._store.execute(
            f"UPDATE step SET {_AGAIN} WHERE workflow = ? AND kind = ? AND state > ? "  # noqa: S608 -- a constant
            "AND hook IN (?, ?)",
            (
                *(int(State.READY), int(State.IDLE), workflow, int(Kind.CALLBACK)),
                *(int(State.SUCCEEDED), hooks[0], hooks[-1]),
            ),
        )

    # --- what follows from the end of a step ---

    def _propagate(self, ended: Mapping[int, bool]) -> None:
        """Apply what follows from the ends of steps: whether each has succeeded, by number."""
        candidates: set[int] = set()
        while ended:
            edges = self._edges_from(ended)
            satisfied = [(one, other) for one, other, may_fail in edges if may_fail or ended[one]]
            blocked = {other for one, other, may_fail in edges if not (may_fail or ended[one])}
            if all(ended.values()):
                self._store.execute("DELETE FROM edge WHERE predecessor IN ANY ?", (list(ended),))
            else:
                self._store.executemany("DELETE FROM edge WHERE predecessor = ? AND step = ?", satisfied)
            candidates.update(other for _, other in satisfied)
            ended = self._skip(blocked)
            if not ended:
                ended, candidates = self._ready(candidates), set()

    def _edges_from(self, ended: Mapping[int, bool]) -> list[tuple[int, int, int]]:
        """Return the edges from these steps; those of a cancelled workflow that have failed keep theirs."""
        if all(ended.values()):
            return self._store.rows(
                "SELECT predecessor, step, allow FROM edge WHERE predecessor IN ANY ?", (list(ended),)
            )
        return self._store.rows(
            "SELECT edge.predecessor, edge.step, edge.allow FROM edge "
            "JOIN step ON step.no = edge.predecessor JOIN workflow ON workflow.no = step.workflow "
            "WHERE edge.predecessor IN ANY ? AND (workflow.state <> ? OR step.state = ?)",
            (list(ended), int(Outcome.CANCELLED), int(State.SUCCEEDED)),
        )

    def _blocked(self, numbers: list[int]) -> set[int]:
        """Return which of these steps wait for one that has ended without success."""
        rows = self._store.rows(
            "SELECT DISTINCT edge.step FROM edge JOIN step ON step.no = edge.predecessor "
            "WHERE edge.step IN ANY ? AND edge.allow = 0 AND step.state > ?",
            (numbers, int(State.SUCCEEDED)),
        )
        return {no for (no,) in rows}

    def _skip(self, blocked: Iterable[int]) -> dict[int, bool]:
        """Skip those of these steps that wait; return them as ended."""
        numbers = sorted(blocked)
        if not numbers:
            return {}
        rows = self._store.rows(
            "SELECT no FROM step WHERE no IN ANY ? AND state = ?", (numbers, int(State.WAITING))
        )
        skipped = [no for (no,) in rows]
        self._store.execute(
            "UPDATE step SET state = ?, ended = ? WHERE no IN ANY ?",
            (int(State.SKIPPED), time.time(), skipped),
        )
        return dict.fromkeys(skipped, False)

    def _ready(self, candidates: Iterable[int]) -> dict[int, bool]:
        """Make ready those of these steps that wait for nothing; return maps that have ended by that."""
        numbers = sorted(candidates)
        if not numbers:
            return {}
        rows = self._store.rows(
            "SELECT no, kind FROM step WHERE no IN ANY ? AND state = ? AND kind <> ? "
            "AND NOT EXISTS(SELECT 1 FROM edge WHERE edge.step = step.no)",
            (numbers, int(State.WAITING), int(Kind.CALLBACK)),
        )
        steps = [no for no, kind in rows if kind == Kind.STEP]
        if steps:
            self._store.execute("UPDATE step SET state = ? WHERE no IN ANY ?", (int(State.READY), steps))
        ended: dict[int, bool] = {}
        for no, kind in rows:
            if kind == Kind.MAP:
                ended |= self._spread(no)
            elif kind == Kind.SPREAD:
                ended[no] = self._end_map(no)
        return ended

    # --- maps ---

    def _spread(self, no: int) -> dict[int, bool]:
        """Make steps of a map's elements; return the map if it has ended by that."""
        values = self._store.rows(
            f"SELECT {', '.join(_SPREAD_COLUMNS)} FROM step WHERE no = ?",  # noqa: S608 -- constants
            (no,),
        )
        row = dict(zip(_SPREAD_COLUMNS, values[0], strict=True))
        try:
            args = self._arguments.of_elements(row["workflow"], row)
            self._planting.check_room(row["workflow"], len(args))
        except BadWorkflow as error:
            self._end_row(no, State.FAILED, error_text("BadWorkflow", str(error)))
            return {no: False}
        parent = tuple(row[name] for name in ("no", "name", "type", "form", "options", "wanted"))
        self._store.execute("UPDATE step SET kind = ? WHERE no = ?", (int(Kind.SPREAD), no))
        self._planting.add_elements(Place(row["workflow"], row["shard"]), parent, args)
        return {} if args else {no: self._end_map(no)}

    def _end_map(self, no: int) -> bool:
        """End a map whose elements have ended; return whether all of them have succeeded."""
        failed = self._store.rows(
            "SELECT 1 FROM step WHERE parent = ? AND state <> ? LIMIT 1", (no, int(State.SUCCEEDED))
        )
        self._end_row(no, State.FAILED if failed else State.SUCCEEDED)
        return not failed

    def _end_row(self, no: int, state: State, error: str | None = None) -> None:
        self._store.execute(
            "UPDATE step SET state = ?, error = ?, ended = ? WHERE no = ?",
            (int(state), error, time.time(), no),
        )

    # --- the end of a workflow ---

    def _finish(self, no: int, outcome: Outcome) -> None:
        if outcome is Outcome.RUNNING:
            failed = self._store.rows(
                "SELECT 1 FROM step WHERE workflow = ? AND state IN (?, ?, ?) AND fatal > 0 AND kind <> ? "
                "LIMIT 1",
                (no, int(State.FAILED), int(State.REJECTED), int(State.CANCELLED), int(Kind.CALLBACK)),
            )
            outcome = Outcome.FAILED if failed else Outcome.SUCCEEDED
        self._store.execute(
            "UPDATE workflow SET state = ?, ended = ? WHERE no = ?", (int(outcome), time.time(), no)
        )
        hooks = _HOOKS[outcome]
        self._store.execute(
            f"UPDATE step SET {_AGAIN} "  # noqa: S608 -- a constant
            "WHERE workflow = ? AND kind = ? AND state >= ? AND hook IN (?, ?)",
            (int(State.READY), int(State.IDLE), no, int(Kind.CALLBACK), int(State.IDLE), hooks[0], hooks[-1]),
        )


def error_text(kind: str, message: str) -> str:
    """Return an error as JSON text for a row."""
    return encode_json({"type": kind, "message": shorten(message, LONGEST_TEXT)})
