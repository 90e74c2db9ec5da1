"""A workflow as its author writes it: steps, and what each of them needs of the others.

`document` (docs/protocol.md) is what is sent; its faults are found all together at the start.
"""

import copy
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NoReturn, Protocol, Self, Unpack

from taskqueue.messages.forwarding import new_id
from taskqueue.messages.options import NONE, Asked, Options
from taskqueue.workflows.wire import LONGEST_NAME

#: The media type of what a step that returned Extend comes to, from its worker to its consumer.
EXTENDED: Final = "application/vnd.taskqueue.extend+json"

_SUFFIX: Final = 12  # hexadecimal digits in the names of steps that are added later


class TaskLike(Protocol):
    """The part of a task that a step needs."""

    name: str

    def options_of(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> Options:
        """Return the options of a call with these arguments."""

    def by_name(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return all arguments by name."""


class Reference:
    """The result of a step, which is known only once that step is over; it stands among arguments."""

    __slots__ = ("_kind", "step")

    def __init__(self, step: str, kind: str = "$result") -> None:
        """Refer to a step by its name.

        kind -- $result, or $results for the list of the results of a map
        """
        self.step, self._kind = step, kind

    def __repr__(self) -> str:
        """Show what it stands for."""
        return f"<the {self._kind.removeprefix('$')} of step {self.step}>"

    def as_json(self) -> dict[str, str]:
        """Return it as a document has it."""
        return {self._kind: self.step}

    def _unknown(self, *_: object) -> NoReturn:
        raise TypeError(f"the result of step {self.step!r} is known only once that step is over")

    __iter__ = __getitem__ = __len__ = __bool__ = _unknown


class Step:
    """A step of a workflow, to be named in others."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        """Show the name."""
        return f"<step {self.name}>"

    @property
    def result(self) -> Reference:
        """Its result, as an argument of other steps; these run once it has succeeded."""
        return Reference(self.name)

    @property
    def value(self) -> Any:
        """The argument for a step that follows it."""
        return self.result

    @property
    def names(self) -> tuple[str, ...]:
        """Its name, as `after` has it."""
        return (self.name,)


class Map(Step):
    """A step for each element of a result."""

    @property
    def results(self) -> Reference:
        """The list of the elements' results, in order, as an argument of other steps."""
        return Reference(self.name, "$results")

    @property
    def value(self) -> Any:
        """The argument for a step that follows it."""
        return self.results


class Steps:
    """Several steps that do not depend on each other."""

    def __init__(self, steps: Sequence["Placed"], before: tuple[str, ...] = ()) -> None:
        """Name steps; who waits for none waits for those `before` them."""
        self._steps, self._before = tuple(steps), before

    def __repr__(self) -> str:
        """Show the names."""
        return f"<steps {', '.join(self.names)}>"

    @property
    def results(self) -> list[Any]:
        """The list of their results, in order, as an argument of other steps."""
        return [each.value for each in self._steps]

    @property
    def value(self) -> Any:
        """The argument for a step that follows them."""
        return self.results

    @property
    def names(self) -> tuple[str, ...]:
        """Their names, as `after` has them."""
        return tuple(name for each in self._steps for name in each.names) or self._before


Placed = Step | Steps
#: A step by its handle or by its name.
Named = Placed | str


class Graph:
    """Steps that are added one by one."""

    def __init__(self, suffix: str = "") -> None:
        """Begin without steps.

        suffix -- of the default names of steps, behind a hyphen
        """
        self._steps: list[dict[str, Any]] = []
        self._counts: Counter[str] = Counter()  # of each type, as default names have it
        self._suffix = suffix
        self._options = NONE

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The steps, as a document has them."""
        return self._steps

    def options(self, **options: Unpack[Asked]) -> Self:
        """Return the same graph, to which steps with these options are added.

        `flow.options(priority=9).add("fetch", url)`. An option that is not given is that of the task.

        Args:
            options: those of `Client.options`.

        Raises:
            ValueError: an option is out of its range.
            TypeError: there is no such option.
        """
        other = copy.copy(self)
        other._options = Options.checked(**options).over(self._options)  # noqa: SLF001 -- of this class
        return other

    def add(
        self,
        task: TaskLike | str,
        *args: Any,
        step: str | None = None,
        after: Named | Iterable[Named] = (),
        allow_failed: Named | Iterable[Named] = (),
        on: str | None = None,
        **kwargs: Any,
    ) -> Step:
        """Add a step: a call of a task, or a workitem for the plugin of a worker type.

        Args:
            task: the task or its name, or a worker type.
            args: the arguments by position; results of other steps may be anywhere in them.
            step: its name, of letters, digits, `_`, `-` and `.`; by default that of the task, with a number
                from the second on.
            after: steps that have to succeed before, beside those whose results are arguments.
            allow_failed: steps that have to be over before; they may have failed, with None as their results.
            on: for a callback, the end of the workflow after which it runs: succeeded, failed or ended.
            kwargs: the arguments by name. Instead of all arguments, `body` is the body of a workitem for a
                plugin, any JSON value.

        Returns the step, for `after` and for its `result`.

        Raises TypeError for arguments that JSON cannot express, and if some are by position and some by name.
        """
        options, content = self._content(task, args, kwargs)
        return Step(self._enter(task, step, options, content, _edges(after, allow_failed, on)))

    def map(
        self,
        task: TaskLike | str,
        elements: Reference | Iterable[Any],
        *args: Any,
        step: str | None = None,
        after: Named | Iterable[Named] = (),
        allow_failed: Named | Iterable[Named] = (),
        is_body: bool = False,
    ) -> Map | Steps:
        """Add a step for each element of a list; the element is its first argument.

        Args:
            task: the task or its name, or a worker type.
            elements: the result of another step, a list, or any elements that are known now.
            args: further arguments of each step.
            step: the name of all of them together; `name[0]` is that of the first.
            after: as of `add`.
            allow_failed: as of `add`.
            is_body: whether an element is the body of a workitem for a plugin.

        Returns the steps, for `after` and for their `results`. Raises as `add` does.
        """
        edges = _edges(after, allow_failed, None)
        if not isinstance(elements, Reference):
            return Steps([self._element(task, each, args, edges, is_body=is_body) for each in elements])
        if is_body and args:
            raise TypeError(f"{_name(task)}: a body has no further arguments")
        options, content = self._content(task, args, {"body": None} if is_body else {})
        content["map"] = elements.as_json()
        return Map(self._enter(task, step, options, content, edges))

    def _element(
        self,
        task: TaskLike | str,
        element: Any,
        args: tuple[Any, ...],
        edges: dict[str, Any],
        *,
        is_body: bool,
    ) -> Step:
        given = {"body": element} if is_body else {}
        options, content = self._content(task, args if is_body else (element, *args), given)
        return Step(self._enter(task, None, options, content, edges))

    def _content(
        self, task: TaskLike | str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Options, dict[str, Any]]:
        """Return the options of a step, and its arguments or its body, as a document has them."""
        name, options = _name(task), self._options
        if "body" in kwargs and isinstance(task, str):
            body = kwargs.pop("body")
            if args or kwargs:
                raise TypeError(f"{name}: a workitem has a body or arguments, not both")
            return options, {"body": plain(name, body)}
        if not isinstance(task, str):
            options = options.over(_options_of(task, args, kwargs))
            args, kwargs = ((), dict(task.by_name(args, kwargs))) if args and kwargs else (args, kwargs)
        if args and kwargs:
            raise TypeError(
                f"{name}: arguments go by position or by name, not both (JSON-RPC 2.0, section 4.2)"
            )
        return options, {"params": plain(name, kwargs or args)}

    def _enter(
        self,
        task: TaskLike | str,
        step: str | None,
        options: Options,
        content: dict[str, Any],
        edges: dict[str, Any],
    ) -> str:
        type_ = _name(task)
        name = self._default_name(type_) if step is None else step
        entry = {"step": name, "type": type_, **content, **edges}
        if asked := options.as_json():
            entry["options"] = asked
        self._steps.append(entry)
        return name

    def _default_name(self, type_: str) -> str:
        self._counts[type_] += 1
        count = self._counts[type_]
        end = "".join(f"-{part}" for part in (self._suffix, "" if count == 1 else count) if part)
        return type_[: LONGEST_NAME - len(end)] + end


class Workflow(Graph):
    """Steps that run one after the other or side by side, as each needs the results of others.

    `Client.start` starts it.
    """

    def __init__(self, name: str, *, tenant: str | None = None) -> None:
        """Begin without steps.

        name -- of letters, digits, `_`, `-` and `.`, at most 100; several workflows may have the same
        tenant -- for whom it is
        """
        super().__init__()
        self.name, self._tenant = name, tenant

    def __repr__(self) -> str:
        """Show the name and the number of steps."""
        return f"<workflow {self.name} of {len(self)} steps>"

    def document(self) -> dict[str, Any]:
        """Return the workflow as it is sent, without an id."""
        tenant = {} if self._tenant is None else {"tenant": self._tenant}
        return {"workflow": self.name, "steps": self.steps, **tenant}


class Batch(Workflow):
    """Any number of calls, of which more are added while it runs, until it is closed."""

    def document(self) -> dict[str, Any]:
        """Return the batch as it is sent, without an id."""
        return super().document() | {"open": True}


class Extend(Graph):
    """The result of a step that adds steps to its workflow: a handler returns it.

    The steps of the workflow that were there before can be named in `after`, and the added ones run beside
    them; the workflow is over once they are, too.
    """

    def __init__(self, result: Any = None) -> None:
        """Begin without steps. By default they get names that no other step has.

        result -- what the step comes to, a JSON value
        """
        super().__init__(new_id()[:_SUFFIX])
        self._result = result

    def encode(self) -> bytes:
        """Return it as JSON. Raises TypeError, ValueError or RecursionError for a result outside JSON."""
        return _encode({"result": self._result, "extend": self.steps}).encode()


def plain(name: str, value: Any) -> Any:
    """Return a value as a document has it: a copy as JSON, with references in it.

    name -- whose arguments it is, for the error

    Raises TypeError for a value that JSON cannot express.
    """
    try:
        return json.loads(_encode(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"{name}: the arguments cannot be sent as JSON: {error}") from None


def _reference(value: Any) -> Any:
    if isinstance(value, Reference):
        return value.as_json()
    if isinstance(value, Placed):
        raise TypeError(f"{value!r} is no value; its result is")
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


_encode: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=_reference).encode


def _name(task: TaskLike | str) -> str:
    return task if isinstance(task, str) else task.name


def _options_of(task: TaskLike, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Options:
    try:
        return task.options_of(args, kwargs)
    except TypeError as error:
        if "Reference" not in str(error):
            raise
        raise TypeError(
            f"{task.name}: its calls are unique by an argument that is known only once another step is over"
        ) from None


def _edges(
    after: Named | Iterable[Named], allow_failed: Named | Iterable[Named], on: str | None
) -> dict[str, Any]:
    allowed = _names(allow_failed)
    before = [*dict.fromkeys([*_names(after), *allowed])]
    edges = {"after": before, "allow_failed": allowed, "on": on}
    return {name: value for name, value in edges.items() if value}


def _names(steps: Named | Iterable[Named]) -> list[str]:
    if isinstance(steps, str):
        return [steps]
    listed = [steps] if isinstance(steps, Placed) else list(steps)
    return [name for each in listed for name in ([each] if isinstance(each, str) else each.names)]
