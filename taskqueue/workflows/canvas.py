"""Chains and groups: short forms of workflows whose steps pass results on."""

from typing import Any, Final

from taskqueue.workflows.definition import Placed, Reference, Steps, TaskLike, Workflow

_NOTHING: Final = object()


class Chain(Workflow):
    """A workflow whose steps run one after the other."""

    def __init__(self, parts: tuple["Part", ...], name: str) -> None:
        if not parts:
            raise ValueError("a chain has at least one part")
        super().__init__(name)
        self.parts = parts
        self._placed = _chained(self, parts, _NOTHING, ())

    @property
    def result(self) -> Any:
        """The result of its last part, as an argument of a step that is added."""
        return self._placed.value


class Group(Workflow):
    """A workflow whose steps run side by side."""

    def __init__(self, parts: tuple["Part", ...], name: str) -> None:
        super().__init__(name)
        self.parts = parts
        self._placed = _grouped(self, parts, _NOTHING, ())

    @property
    def results(self) -> list[Any]:
        """The list of the results of its parts, in order, as an argument of a step that is added."""
        return self._placed.results


#: A task or its name; a tuple of it and its arguments; or a chain or a group.
Part = TaskLike | str | tuple[Any, ...] | Chain | Group


def chain(*parts: Part, name: str = "chain") -> Chain:
    """Return a workflow of parts that run one after the other.

    The first argument of each is the result of the one before, followed by its own; after a group that is the
    list of results. `chain(("add", 2, 2), ("add", 4))` comes to 8.

    Args:
        parts: a task or its name; a tuple of it and its arguments; or a chain or a group.
        name: of the workflow.

    Raises ValueError without parts, and TypeError as `Workflow.add` does.
    """
    return Chain(parts, name)


def group(*parts: Part, name: str = "group") -> Group:
    """Return a workflow of parts that run side by side. Arguments are those of `chain`; no part is needed."""
    return Group(parts, name)


def _place(flow: Workflow, part: Part, given: Any, after: tuple[str, ...]) -> Placed:
    """Add a part whose first argument is `given`; return its steps."""
    if isinstance(part, Chain):
        return _chained(flow, part.parts, given, after)
    if isinstance(part, Group):
        return _grouped(flow, part.parts, given, after)
    task, *args = part if isinstance(part, tuple) else (part,)
    others = () if isinstance(given, Reference) else after  # a reference names its step
    return flow.add(task, *(args if given is _NOTHING else (given, *args)), after=others)


def _chained(flow: Workflow, parts: tuple[Part, ...], given: Any, after: tuple[str, ...]) -> Placed:
    placed: Placed = Steps(())
    for part in parts:
        placed = _place(flow, part, given, after)
        given = placed.value
        after = placed.names
    return placed


def _grouped(flow: Workflow, parts: tuple[Part, ...], given: Any, after: tuple[str, ...]) -> Steps:
    return Steps([_place(flow, part, given, after) for part in parts], after)
