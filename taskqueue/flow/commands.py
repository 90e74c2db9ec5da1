"""Starting workflows, and commands to them: inside a transaction each, with an answer."""

import re
import secrets
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from taskqueue.broker.topology import shard_of
from taskqueue.errors import BadWorkflow, FlowRefused
from taskqueue.flow.arguments import Arguments
from taskqueue.flow.graph import Graph
from taskqueue.flow.picture import graph_of
from taskqueue.flow.planting import Place, Planting
from taskqueue.flow.receipts import extend
from taskqueue.flow.schema import Kind, Outcome, State, state_name, workitem_id
from taskqueue.flow.shards import Shards
from taskqueue.flow.store import Store
from taskqueue.texts import one_line
from taskqueue.workflows import wire
from taskqueue.workflows.document import Document

_MOST_NUMBER: Final = 2**62  # of a row
_SHOWN: Final = ("no", "id", "name", "tenant", "state", "open", "started", "ended")
_NAMED: Final = "SELECT name, kind, state, error FROM step WHERE workflow = ? AND name = ?"
_MOST_FINAL: Final = 10_000  # steps whose results are in one answer
#: Steps that no other one waits for.
_FINAL: Final = (
    "SELECT name, kind, state, error FROM step WHERE workflow = ? AND fatal = 2 AND kind <> 3 "
    "ORDER BY no LIMIT ?"
)
_BAD: Final = (int(State.FAILED), int(State.REJECTED), int(State.CANCELLED))


class Commands:
    """Acts on commands; each raises FlowRefused or BadWorkflow, for the answer."""

    def __init__(self, store: Store, shards: Shards, planting: Planting, graph: Graph) -> None:
        self._store, self._shards = store, shards
        self._planting, self._graph = planting, graph
        self._arguments = Arguments(store)
        #: Workflows whose queued steps are to be cancelled at their consumers, by number.
        self.cancelled: list[int] = []
        self._actions: Final = {
            wire.SHOW: self._show,
            wire.STEPS: self._steps,
            wire.GRAPH: self._graph_of,
            wire.RESULT: self._result,
            wire.CANCEL: self._cancel,
            wire.RETRY: self._retry,
            wire.EXTEND: self._extend,
            wire.CLOSE: self._close,
        }

    def start(self, document: Document, shard: int, digest: str) -> dict[str, Any]:
        """Start a workflow; one that was started by the same document is not started again.

        digest -- of the document
        """
        id_ = document.id
        _check_shard(id_, shard)
        if row := self._store.rows("SELECT digest FROM workflow WHERE id = ?", (id_,)):
            if row[0][0] != digest:
                raise FlowRefused(f"there is a workflow {id_} already, with other steps; choose another id")
            return {"id": id_, "started": False}
        (no,) = self._shards.numbers(shard, 1)
        self._store.execute(
            "INSERT INTO workflow VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)",
            (
                *(no, id_, shard, document.name, document.tenant, int(Outcome.RUNNING)),
                *(secrets.token_hex(16), digest, int(document.is_open), time.time()),
            ),
        )
        self._graph.settle(self._planting.add(Place(no, shard), document.steps, {}), no)
        return {"id": id_, "started": True}

    def act(self, message: Mapping[str, Any], shard: int) -> dict[str, Any]:
        """Do what a command says; return the answer."""
        action = message.get("action")
        if action == wire.LIST:
            return self._list(message, shard)
        act = self._actions.get(action) if isinstance(action, str) else None
        if act is None:
            raise FlowRefused(
                f"there is no command {action!r:.60}; known are list, {', '.join(self._actions)}"
            )
        id_ = _text(message.get("workflow"), wire.ID)
        if id_:
            _check_shard(id_, shard)
        row = self._store.rows(
            f"SELECT {', '.join(_SHOWN)} FROM workflow WHERE id = ?",  # noqa: S608 -- constants
            (id_,),
        )
        if not row:
            what = one_line(str(message.get("workflow"))[:60])
            raise FlowRefused(f"there is no workflow {what}, or it was removed some time after its end")
        return act(dict(zip(_SHOWN, row[0], strict=True)), message, shard)

    # --- looking ---

    def _list(self, message: Mapping[str, Any], shard: int) -> dict[str, Any]:
        """Return the workflows of a shard, the newest first; `before` continues an answer.

        They may be only those that have not ended (`open`), and of some tenants (`tenants`).
        """
        limit = max(1, min(wire.MOST_LISTED, _number(message.get("limit"), wire.MOST_LISTED)))
        tenants = message.get("tenants") or None
        if tenants is not None and not (isinstance(tenants, list) and all(map(_is_text, tenants))):
            raise FlowRefused("list: expected tenants, a list of texts")
        rows = self._store.rows(
            f"SELECT {', '.join(_SHOWN)} FROM workflow WHERE shard = ? AND no < ? "  # noqa: S608 -- constants
            + ("AND ended IS NULL " if message.get("open") is True else "")
            + ("AND tenant IN ANY ? " if tenants else "")
            + "ORDER BY no DESC LIMIT ?",
            (
                *(shard, _number(message.get("before"), _MOST_NUMBER)),
                *((tenants,) if tenants else ()),
                limit,
            ),
        )
        found = [self._described(dict(zip(_SHOWN, row, strict=True))) for row in rows]
        return {"workflows": found, "before": rows[-1][0] if len(rows) == limit else None}

    def _graph_of(self, row: dict[str, Any], _message: Mapping[str, Any], _shard: int) -> dict[str, Any]:
        return {"workflow": self._described(row), **graph_of(self._store, row["no"], row["id"])}

    def _show(self, row: dict[str, Any], _message: Mapping[str, Any], _shard: int) -> dict[str, Any]:
        return self._described(row)

    def _described(self, row: dict[str, Any]) -> dict[str, Any]:
        counts: Counter[str] = Counter()  # callbacks are waiting, too
        for state, count in self._store.rows(
            "SELECT state, count(*) FROM step WHERE workflow = ? GROUP BY state ORDER BY state", (row["no"],)
        ):
            counts[state_name(state)] += count
        return {
            "number": row["no"],
            "id": row["id"],
            "workflow": row["name"],
            "tenant": row["tenant"],
            "state": Outcome(row["state"]).name.lower(),
            "open": bool(row["open"]),
            "started": row["started"],
            "ended": row["ended"],
            "steps": dict(counts),
        }

    def _steps(self, row: dict[str, Any], message: Mapping[str, Any], _shard: int) -> dict[str, Any]:
        """Return the steps of a workflow in the order of their numbers; `after` continues an answer."""
        rows = self._store.rows(
            "SELECT no, name, state, run, kind, type, error, parent, hook, published, ended FROM step "
            "WHERE workflow = ? AND no > ? ORDER BY no LIMIT ?",
            (row["no"], _number(message.get("after"), 0), wire.MOST_LISTED),
        )
        edges = self._store.rows(
            "SELECT edge.step, step.name FROM edge JOIN step ON step.no = edge.predecessor "
            "WHERE edge.step IN ANY ? ORDER BY edge.step, edge.predecessor LIMIT ?",
            ([each[0] for each in rows if each[4] != Kind.SPREAD], 10 * wire.MOST_LISTED),
        )
        waits: dict[int, list[str]] = {}
        for no, name in edges:
            waits.setdefault(no, []).append(name)
        found = [_step(each, row["id"], waits.get(each[0], [])) for each in rows]
        return {"steps": found, "after": rows[-1][0] if len(rows) == wire.MOST_LISTED else None}

    def _result(self, row: dict[str, Any], message: Mapping[str, Any], _shard: int) -> dict[str, Any]:
        """Return the result of a step, or of the final one; of several final ones, the list."""
        name = _text(message.get("step"), wire.STEP)
        found = self._store.rows(_NAMED if name else _FINAL, (row["no"], name or _MOST_FINAL + 1))
        if not found:
            words = f"has no step {name}" if name else "has no final step"
            raise FlowRefused(f"workflow {row['id']} {words}")
        if len(found) > 1:
            return self._results(row, [step for step, *_ in found])
        ((step, kind, state, error),) = found
        answer = {"step": step, "state": state_name(state), "failure": error and wire.decode_value(error)}
        if state == State.SUCCEEDED or kind == Kind.SPREAD:
            try:
                answer["result"] = wire.decode_value(self._arguments.result_of(row["no"], step))
            except BadWorkflow as fault:
                answer["failure"] = {"type": "BadWorkflow", "message": str(fault)}
        return answer

    def _results(self, row: dict[str, Any], steps: Sequence[str]) -> dict[str, Any]:
        """Return the results of several steps, null for one that has none."""
        if len(steps) > _MOST_FINAL:
            raise FlowRefused(f"workflow {row['id']} has more than {_MOST_FINAL:,} final steps: name one")
        try:
            texts = self._arguments.results_of(row["no"], steps)
        except BadWorkflow as fault:
            return {"steps": steps, "failure": {"type": "BadWorkflow", "message": str(fault)}}
        return {"steps": steps, "result": [wire.decode_value(text) for text in texts]}

    # --- acting ---

    def _cancel(self, row: dict[str, Any], _message: Mapping[str, Any], _shard: int) -> dict[str, Any]:
        """Cancel what is not queued; the others are cancelled at their consumers."""
        if row["state"] != Outcome.RUNNING:
            raise FlowRefused(f"workflow {row['id']} has ended: {Outcome(row['state']).name.lower()}")
        self._store.execute(
            "UPDATE workflow SET state = ?, open = 0 WHERE no = ?", (int(Outcome.CANCELLED), row["no"])
        )
        self._store.execute(
            "UPDATE step SET state = ?, ended = ? WHERE workflow = ? AND state IN (?, ?) AND kind <> ?",
            (
                *(int(State.CANCELLED), time.time(), row["no"]),
                *(int(State.WAITING), int(State.READY), int(Kind.CALLBACK)),
            ),
        )
        self.cancelled.append(row["no"])
        self._graph.settle([], row["no"])
        return self._described(row | {"state": Outcome.CANCELLED, "open": False})

    def _retry(self, row: dict[str, Any], _message: Mapping[str, Any], _shard: int) -> dict[str, Any]:
        """Run what has not succeeded again, and let what waited for it wait again."""
        no = row["no"]
        if row["state"] == Outcome.SUCCEEDED and not self._has_failed(no):
            return self._described(row) | {"again": self._graph.retry_callbacks(no)}
        self._store.execute(
            "UPDATE workflow SET state = ?, ended = NULL WHERE no = ?", (int(Outcome.RUNNING), no)
        )
        again = self._store.execute(
            "UPDATE step SET state = ?, run = run + 1, result = NULL, size = NULL, error = NULL, "
            "published = NULL, ended = NULL WHERE workflow = ? AND kind = ? AND state IN (?, ?, ?) "
            "AND NOT EXISTS(SELECT 1 FROM edge WHERE edge.step = step.no)",
            (int(State.READY), no, int(Kind.STEP), *_BAD),
        )
        waiting = self._store.rows(
            "SELECT no FROM step WHERE workflow = ? AND kind <> ? AND state >= ?",
            (no, int(Kind.CALLBACK), int(State.FAILED)),
        )
        numbers = [each for (each,) in waiting]
        self._store.execute(
            "UPDATE step SET state = ?, error = NULL, ended = NULL WHERE no IN ANY ?",
            (int(State.WAITING), numbers),
        )
        self._store.execute(
            "INSERT INTO edge SELECT no, parent, 1 FROM step WHERE parent IN ANY ? AND state <= ? "
            "ON CONFLICT DO NOTHING",
            (numbers, int(State.QUEUED)),
        )
        self._graph.settle(numbers, no)
        return self._described(row | {"state": Outcome.RUNNING, "ended": None}) | {"again": again}

    def _has_failed(self, workflow: int) -> bool:
        return bool(
            self._store.rows(
                "SELECT 1 FROM step WHERE workflow = ? AND state IN (?, ?, ?) AND kind <> ? LIMIT 1",
                (workflow, *_BAD, int(Kind.CALLBACK)),
            )
        )

    def _extend(self, row: dict[str, Any], message: Mapping[str, Any], shard: int) -> dict[str, Any]:
        """Add steps to a workflow, which runs again if it has ended."""
        steps = message.get("steps")
        if row["state"] == Outcome.CANCELLED:
            raise FlowRefused(f"workflow {row['id']} is cancelled")
        if not isinstance(steps, list):
            raise FlowRefused("extend: expected steps, a list")
        names = {_text(each.get("step"), wire.STEP) for each in steps if isinstance(each, dict)}
        if steps and len(self._planting.known(row["no"], names)) == len(steps):
            return self._described(row)  # the command came twice
        extend(self._planting, self._graph, Place(row["no"], shard), steps)
        self._store.execute(
            "UPDATE workflow SET state = ?, ended = NULL WHERE no = ?", (int(Outcome.RUNNING), row["no"])
        )
        return self._described(row | {"state": Outcome.RUNNING, "ended": None})

    def _close(self, row: dict[str, Any], _message: Mapping[str, Any], _shard: int) -> dict[str, Any]:
        """Let a workflow that was started open end with its steps."""
        self._store.execute("UPDATE workflow SET open = 0 WHERE no = ?", (row["no"],))
        self._graph.settle([], row["no"])
        return self._described(row | {"open": False})


def _check_shard(id_: str, shard: int) -> None:
    """Raise FlowRefused for a workflow of another shard, which another process may keep at the same time."""
    if shard_of(id_) != shard:
        raise FlowRefused(
            f"workflow {id_} belongs to taskqueue_flow_{shard_of(id_)}; it came in that of {shard}"
        )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= wire.LONGEST_TEXT


def _text(value: Any, pattern: re.Pattern[str]) -> str:
    """Return a text of a message if it is what is expected, else ""."""
    return value if isinstance(value, str) and pattern.match(value) else ""


def _number(value: Any, default: int) -> int:
    """Return the number of a row in a message; `default` for none, or no such number."""
    return value if isinstance(value, int) and 0 <= value < _MOST_NUMBER else default


def _step(row: Any, workflow: str, waits: list[str]) -> dict[str, Any]:
    _, name, state, run, kind, type_, error, parent, hook, published, ended = row
    shown = {
        "step": name,
        "type": type_,
        "state": state_name(state),
        "run": run,
        "published": published,
        "ended": ended,
        "waits_for": waits,
        "error": error and wire.decode_value(error),
    }
    if kind in (Kind.MAP, Kind.SPREAD):
        return shown | {"map": True}
    if hook:
        shown["on"] = hook
    if parent is not None:
        shown["element"] = True
    return shown | {"workitem": workitem_id(workflow, name, run)}
