"""Adding steps with their edges to a workflow: those of its document, of an extension, and of a map."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from taskqueue.errors import BadWorkflow
from taskqueue.flow.schema import Fatal, Kind, State
from taskqueue.flow.shards import Shards
from taskqueue.flow.store import Store
from taskqueue.workflows.document import Step
from taskqueue.workflows.wire import MOST_STEPS


class Known(NamedTuple):
    """A step that a workflow has already."""

    no: int
    kind: Kind
    state: State


class Row(NamedTuple):
    """A new row of the table step, with its columns in order."""

    no: int
    workflow: int
    shard: int
    name: str
    state: int
    run: int
    kind: int
    type: str
    form: str
    args: str
    options: str | None
    source: str | None
    refs: int
    wanted: int
    fatal: int
    hook: str | None = None
    result: None = None
    size: None = None
    error: None = None
    parent: int | None = None
    position: int | None = None
    published: None = None
    ended: None = None
    predecessors: str | None = None


#: PostgreSQL copies rows that are inserted by such a statement.
_INSERT: Final = f"INSERT INTO step VALUES({', '.join('?' * len(Row._fields))})"


class Place(NamedTuple):
    """The workflow that steps are added to: the number of its row, and its shard."""

    workflow: int
    shard: int


class Planting:
    """Adds rows of steps and edges, inside a transaction."""

    def __init__(self, store: Store, shards: Shards) -> None:
        self._store, self._shards = store, shards

    def known(self, workflow: int, names: Collection[str]) -> dict[str, Known]:
        """Return the steps of a workflow that have these names."""
        found = self._store.rows(
            "SELECT name, no, kind, state FROM step WHERE workflow = ? AND name IN ANY ?",
            (workflow, list(names)),
        )
        return {name: Known(no, Kind(kind), State(state)) for name, no, kind, state in found}

    def check_room(self, workflow: int, more: int) -> None:
        """Raise BadWorkflow if a workflow had too many steps with so many more."""
        ((count,),) = self._store.rows("SELECT count(*) FROM step WHERE workflow = ?", (workflow,))
        if count + more > MOST_STEPS:
            raise BadWorkflow(
                [f"the workflow would have {count + more:,} steps; at most {MOST_STEPS:,} are kept"]
            )

    def add(self, place: Place, steps: Sequence[Step], known: Mapping[str, Known]) -> list[int]:
        """Add steps; return the numbers of those that may be ready.

        known -- the steps of the workflow that they name
        """
        numbers = self._shards.numbers(place.shard, len(steps))
        number_of = {name: each.no for name, each in known.items()}
        number_of |= {step.name: no for step, no in zip(steps, numbers, strict=True)}
        wanted = {name for step in steps for name in step.references}
        fatal = _fatal(steps)
        self._store.executemany(
            _INSERT,
            [
                _row(no, place, step, step.name in wanted, fatal.get(step.name, Fatal.FINAL))._replace(
                    predecessors=json.dumps([number_of[name] for name in step.after]) if step.after else None
                )
                for step, no in zip(steps, numbers, strict=True)
            ],
        )
        self._store.executemany(
            "INSERT INTO edge VALUES(?, ?, ?)",
            (
                (number_of[name], no, int(may_fail))
                for step, no in zip(steps, numbers, strict=True)
                for name, may_fail in step.after.items()
                if name not in known or not _is_satisfied(known[name].state, may_fail=may_fail)
            ),
        )
        self._mark_known(known, wanted, fatal)
        return [no for step, no in zip(steps, numbers, strict=True) if not step.on]

    def _mark_known(
        self, known: Mapping[str, Known], wanted: Collection[str], fatal: Mapping[str, Fatal]
    ) -> None:
        """Note what further steps expect of earlier ones."""
        numbers = [known[name].no for name in wanted if name in known]
        if numbers:
            self._store.execute("UPDATE step SET wanted = 1 WHERE no IN ANY ?", (numbers,))
        refused = [known[name].no for name, each in fatal.items() if name in known and each is Fatal.REFUSED]
        allowed = [known[name].no for name, each in fatal.items() if name in known and each is Fatal.ALLOWED]
        if refused:
            self._store.execute("UPDATE step SET fatal = ? WHERE no IN ANY ?", (int(Fatal.REFUSED), refused))
        if allowed:
            self._store.execute(
                "UPDATE step SET fatal = ? WHERE no IN ANY ? AND fatal = ?",
                (int(Fatal.ALLOWED), allowed, int(Fatal.FINAL)),
            )

    def add_elements(self, place: Place, parent: Any, args: Iterable[str]) -> int:
        """Add the steps of a map's elements, which are ready; return their number.

        parent -- the row of the map: no, name, type, form, options, wanted
        args -- the arguments of each
        """
        no, name, kind, form, options, wanted = parent
        texts = list(args)
        numbers = self._shards.numbers(place.shard, len(texts))
        ready, step, allowed = int(State.READY), int(Kind.STEP), int(Fatal.ALLOWED)
        self._store.executemany(
            _INSERT,
            [
                Row(
                    *(number, *place, f"{name}[{index}]", ready, 1, step, kind, form, text),
                    *(options, None, 0, wanted, allowed, None),
                    *(None, None, None, no, index),
                )
                for index, (number, text) in enumerate(zip(numbers, texts, strict=True))
            ],
        )
        self._store.executemany("INSERT INTO edge VALUES(?, ?, ?)", ((number, no, 1) for number in numbers))
        return len(texts)


def _row(no: int, place: Place, step: Step, is_wanted: bool, fatal: Fatal) -> Row:  # noqa: FBT001
    state = State.IDLE if step.on else State.WAITING
    return Row(
        *(no, *place, step.name, int(state), 1, int(_kind_of(step))),
        *(step.type, step.form, step.args, step.options, step.source or None),
        *(int(bool(step.references)), int(is_wanted), int(fatal), step.on or None),
    )


def _kind_of(step: Step) -> Kind:
    return Kind.CALLBACK if step.on else Kind.MAP if step.is_map else Kind.STEP


def _is_satisfied(state: State, *, may_fail: bool) -> bool:
    """Tell whether a step in this state holds back no step that waits for it."""
    return state == State.SUCCEEDED or (may_fail and state > State.SUCCEEDED)


def _fatal(steps: Iterable[Step]) -> dict[str, Fatal]:
    """Return, of each step that others wait for, whether all of them let it fail."""
    found: dict[str, Fatal] = {}
    for name, may_fail in _edges(steps):
        if not may_fail:
            found[name] = Fatal.REFUSED
        else:
            found.setdefault(name, Fatal.ALLOWED)
    return found


def _edges(steps: Iterable[Step]) -> Iterator[tuple[str, bool]]:
    for step in steps:
        yield from step.after.items()
