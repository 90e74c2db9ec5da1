"""The graph of a workflow for its picture: steps with their first edges, a map's elements only counted."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from taskqueue.flow.schema import Kind, state_name, workitem_id
from taskqueue.flow.store import Store
from taskqueue.workflows.wire import decode_value

#: Maximum steps and edges of an answer; a larger picture shows nobody anything.
MOST_DRAWN: Final = 500
MOST_EDGES: Final = 2000
_MAPS: Final = (int(Kind.MAP), int(Kind.SPREAD))


def graph_of(store: Store, workflow: int, id_: str) -> dict[str, Any]:
    """Return the first steps of a workflow, and how many steps and edges are left out.

    workflow -- the number of its row
    """
    rows = store.rows(
        "SELECT no, name, kind, type, state, run, hook, error, published, ended, predecessors FROM step "
        "WHERE workflow = ? AND parent IS NULL ORDER BY no LIMIT ?",
        (workflow, MOST_DRAWN),
    )
    left_out = 0
    if len(rows) == MOST_DRAWN:
        ((count,),) = store.rows(
            "SELECT count(*) FROM step WHERE workflow = ? AND parent IS NULL", (workflow,)
        )
        left_out = count - len(rows)
    after, edges_left_out = _edges(store, {row[0]: row[1] for row in rows}, rows)
    elements = _elements(store, [row[0] for row in rows if row[2] in _MAPS])
    steps = []
    for no, name, kind, type_, state, run, hook, error, published, ended, _ in rows:
        counts, first = elements.get(no, ({}, None))
        is_map = kind in _MAPS
        steps.append(
            {
                "step": name,
                "type": type_,
                "state": state_name(state),
                "run": run,
                "on": hook or "",
                "is_map": is_map,
                "elements": counts,
                "after": after[no],
                "published": first if is_map else published,
                "ended": ended,
                "error": decode_value(error) if error else None,
                "workitem": "" if is_map else workitem_id(id_, name, run),
            }
        )
    return {"steps": steps, "steps_left_out": left_out, "edges_left_out": edges_left_out}


def _edges(store: Store, names: Mapping[int, str], rows: Sequence[Any]) -> tuple[dict[int, list[str]], int]:
    """Return the names of the steps that each step waited for, and the number of edges that are left out."""
    numbers = {row[0]: json.loads(row[-1]) if row[-1] else [] for row in rows}
    strange = {each for before in numbers.values() for each in before}.difference(names)
    parents = store.rows(
        "SELECT no, parent FROM step WHERE no IN ANY ? AND parent IS NOT NULL", (sorted(strange),)
    )
    shown = {**names} | {no: names[parent] for no, parent in parents if parent in names}
    after: dict[int, list[str]] = {}
    room, left_out = MOST_EDGES, 0
    for no, before in numbers.items():
        found = list(dict.fromkeys(shown[each] for each in before if each in shown))
        after[no] = found[:room]
        room -= len(after[no])
        left_out += len(found) - len(after[no])
    return after, left_out


def _elements(store: Store, maps: Sequence[int]) -> dict[int, tuple[dict[str, int], float | None]]:
    """Return, for each map, its elements by state, and when the first was queued."""
    rows = store.rows(
        "SELECT parent, state, count(*), min(published) FROM step WHERE parent IN ANY ? "
        "GROUP BY parent, state ORDER BY parent, state",
        (list(maps),),
    )
    found: dict[int, tuple[dict[str, int], float | None]] = {}
    for parent, state, count, queued in rows:
        counts, first = found.get(parent, ({}, None))
        first = min((at for at in (first, queued) if at is not None), default=None)
        found[parent] = (counts | {state_name(state): count}, first)
    return found
