"""The document of a workflow: JSON in, its steps with their edges out, or all of its faults."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from taskqueue.errors import BadWorkflow
from taskqueue.messages.options import Options
from taskqueue.messages.routing import WORKER_TYPE
from taskqueue.texts import one_line, shorten
from taskqueue.workflows.wire import ID, LONGEST_NAME, MOST_DEPTH, MOST_STEPS, STEP, encode_json, is_deep

#: The keys of a reference to the result of a step, and to the results of a map.
RESULT, RESULTS = "$result", "$results"
#: The ends of a workflow that a callback may be for.
ENDS: Final = ("failed", "succeeded", "ended")
#: What a task's `params` are to be, and a worker type's `body`.
PARAMS, BODY = "params", "body"

_NAME: Final = re.compile(rf"[A-Za-z0-9_.-]{{1,{LONGEST_NAME}}}\Z")
_NAME_EXPECTED: Final = f"1 to {LONGEST_NAME} of letters, digits, _ - and ."
_KEYS: Final = frozenset(("step", "type", PARAMS, BODY, "map", "after", "allow_failed", "on", "options"))
_KNOWN: Final = ", ".join(sorted(_KEYS))
_DOCUMENT_KEYS: Final = frozenset(("kind", "workflow", "id", "steps", "tenant", "open"))
_MOST_FAULTS: Final = 100  # that are listed
_LONGEST_TITLE: Final = 200  # characters of a workflow's name

#: Tells which of these names are known steps, and whether each is a map.
Known = Callable[[Collection[str]], Mapping[str, bool]]


@dataclass(slots=True)
class Step:
    """A step as its document has it.

    Args:
        name: unique in the workflow.
        type: a task's name or a worker type.
        form: PARAMS or BODY.
        args: params or body, as JSON text.
        options: those of a submission, as JSON text; None for none.
        on: the end of the workflow that it is a callback for; "" for none.
        source: the step whose result it maps; "" for none.
        after: the steps that it waits for, and whether each may fail.
        references: the steps to whose results its arguments refer.
    """

    name: str
    type: str
    form: str = PARAMS
    args: str = "[]"
    options: str | None = None
    on: str = ""
    source: str = ""
    after: dict[str, bool] = field(default_factory=dict)
    references: dict[str, bool] = field(default_factory=dict)  # name to whether it is that of a map

    @property
    def is_map(self) -> bool:
        """Whether its elements are steps."""
        return bool(self.source)


@dataclass(frozen=True, slots=True)
class Document:
    """A workflow as it is started.

    Args:
        id: 32 hexadecimal digits; "" if the document has none.
        name: a title, which need not be unique.
        tenant: for whom its steps are, unless their options say otherwise; "" for nobody.
        steps: by name.
        is_open: whether it takes further steps, and does not end, until it is closed.
    """

    id: str
    name: str
    tenant: str
    steps: list[Step]
    is_open: bool = False


def read(document: Mapping[str, Any]) -> Document:
    """Return a workflow; raise BadWorkflow with all faults of its document."""
    faults: list[str] = []
    strange = document.keys() - _DOCUMENT_KEYS
    faults += [
        f"there is no {_shown(key)}; known are workflow, id, steps, tenant and open" for key in strange
    ]
    name, id_, tenant = document.get("workflow"), document.get("id", ""), document.get("tenant", "")
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_TITLE or one_line(name) != name:
        faults.append(f"workflow: expected a name of 1 to {_LONGEST_TITLE} characters, found {_shown(name)}")
    if id_ != "" and not (isinstance(id_, str) and ID.match(id_)):
        faults.append(f"id: expected 32 hexadecimal digits, found {_shown(id_)}")
    if tenant != "":
        faults += _option_faults("the document", {"tenant": tenant})
    if tenant is None or (isinstance(tenant, str) and one_line(tenant) != tenant):
        faults.append("tenant: expected a text without control characters")
    steps = document.get("steps")
    found = _read_steps(steps, faults, lambda _names: {})
    is_open = document.get("open", False)
    if not isinstance(is_open, bool):
        faults.append(f"open: expected true or false, found {_shown(is_open)}")
    if isinstance(steps, list) and not steps and not is_open:
        faults.append("steps: expected at least one step, found none")
    if faults:
        raise BadWorkflow(_first(faults))
    return Document(id_, str(name), tenant, found, is_open)


def read_steps(steps: Any, known: Known) -> list[Step]:
    """Return further steps of a workflow; raise BadWorkflow with all of their faults.

    known -- looks up the steps that it has already
    """
    faults: list[str] = []
    found = _read_steps(steps, faults, known)
    if faults:
        raise BadWorkflow(_first(faults))
    return found


def references(value: Any) -> Iterator[tuple[str, str]]:
    """Yield the references in a value of JSON: their keys and the names of steps."""
    todo = [value]
    while todo:
        each = todo.pop()
        if isinstance(each, list):
            todo += each
        elif isinstance(each, dict):
            if reference := reference_in(each):
                yield reference
            else:
                todo += each.values()


def reference_in(value: Any) -> tuple[str, str] | None:
    """Return the key and the step's name of a reference; None for any other value."""
    if isinstance(value, dict) and len(value) == 1:
        ((key, name),) = value.items()
        if key in (RESULT, RESULTS) and isinstance(name, str):
            return key, name
    return None


def _first(faults: list[str]) -> list[str]:
    left = len(faults) - _MOST_FAULTS
    return faults if left <= 0 else [*faults[:_MOST_FAULTS], f"and {left} faults more"]


def _shown(value: Any) -> str:
    return shorten(repr(value), 60) if not isinstance(value, dict | list) else f"a {type(value).__name__}"


def _read_steps(steps: Any, faults: list[str], known: Known) -> list[Step]:
    if not isinstance(steps, list):
        faults.append(f"steps: expected a list, found {_shown(steps)}")
        return []
    if len(steps) > MOST_STEPS:
        faults.append(f"steps: expected at most {MOST_STEPS:,}, found {len(steps):,}")
        return []
    found: dict[str, Step] = {}
    for number, plain in enumerate(steps, 1):
        step = _read_step(plain, number, faults)
        if step is None:
            continue
        if step.name in found:
            faults.append(f"step {step.name}: two steps have this name")
        found.setdefault(step.name, step)
    _check_names(found, faults, known)
    if not faults:
        faults += _cycle_in(found)
    return list(found.values())


def _read_step(plain: Any, number: int, faults: list[str]) -> Step | None:
    """Return a step, and add its faults, but those of its neighbours; None if it has no name."""
    if not isinstance(plain, dict):
        faults.append(f"step {number}: expected an object, found {_shown(plain)}")
        return None
    name, type_ = plain.get("step"), plain.get("type")
    if not isinstance(name, str) or not _NAME.match(name):
        faults.append(f"step {number}: expected a name of {_NAME_EXPECTED}, found {_shown(name)}")
        return None
    place = f"step {name}"
    if not isinstance(type_, str) or not WORKER_TYPE.match(type_):
        faults.append(f"{place}: expected a type, the name of a task or worker type, found {_shown(type_)}")
    faults += [f"{place}: there is no {_shown(key)}; known are {_KNOWN}" for key in plain.keys() - _KEYS]
    step = Step(name, str(type_))
    _take_arguments(step, plain, faults)
    _take_edges(step, plain, faults)
    _take_end(step, plain, faults)
    if "options" in plain:
        _take_options(step, plain["options"], faults)
    return step


def _take_arguments(step: Step, plain: Mapping[str, Any], faults: list[str]) -> None:
    if PARAMS in plain and BODY in plain:
        faults.append(f"step {step.name}: expected params or body, found both")
        return
    step.form = BODY if BODY in plain else PARAMS
    value = plain.get(step.form, [])
    if step.form == PARAMS and not isinstance(value, list | dict):
        faults.append(f"step {step.name}, params: expected a list or an object, found {_shown(value)}")
    elif is_deep(value):
        faults.append(f"step {step.name}, {step.form}: nested deeper than {MOST_DEPTH}")
    else:
        try:
            step.args = encode_json(value)
        except ValueError as error:  # a number that JSON has not
            faults.append(f"step {step.name}, {step.form}: {error}")
        if '"$result' in step.args:
            step.references = {name: key == RESULTS for key, name in references(value)}


def _take_edges(step: Step, plain: Mapping[str, Any], faults: list[str]) -> None:
    after, allowed = plain.get("after", []), plain.get("allow_failed", [])
    for key, names in (("after", after), ("allow_failed", allowed)):
        if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
            faults.append(f"step {step.name}, {key}: expected a list of names of steps")
            return
    mapped = plain.get("map")
    if "map" in plain:
        reference = reference_in(mapped)
        if reference is None:
            expected = f'{{"{RESULT}": NAME}} or {{"{RESULTS}": NAME}}'
            faults.append(f"step {step.name}, map: expected {expected}, found {_shown(mapped)}")
        else:
            step.source = reference[1]
            step.references[reference[1]] = reference[0] == RESULTS
    if step.is_map and step.form == PARAMS and step.args[0] == "{":
        faults.append(f"step {step.name}, params: expected a list beside map, found an object")
    if step.is_map and plain.get(BODY) is not None:
        faults.append(f"step {step.name}: the element of map is the body; expected no other one than null")
    step.after = dict.fromkeys(after if plain.get("on") else (*after, *step.references), False)
    for name in allowed:
        if name not in step.after:
            faults.append(f"step {step.name}, allow_failed: it does not wait for {_shown(name)}")
        step.after[name] = True
    if step.name in step.after:
        faults.append(f"step {step.name}: it waits for itself")


def _take_end(step: Step, plain: Mapping[str, Any], faults: list[str]) -> None:
    on = plain.get("on")
    if on is None:
        return
    if on not in ENDS:
        faults.append(f"step {step.name}, on: expected {', '.join(ENDS)}, found {_shown(on)}")
    elif step.after or step.is_map:
        faults.append(
            f"step {step.name}: it waits for the workflow's end; expected no after or map beside on"
        )
    else:
        step.on = on


def _take_options(step: Step, options: Any, faults: list[str]) -> None:
    if option_faults := _option_faults(f"step {step.name}", options):
        faults += option_faults
    elif options:
        step.options = encode_json(options)


def _option_faults(place: str, options: Any) -> list[str]:
    if not isinstance(options, dict):
        return [f"{place}, options: expected an object, found {_shown(options)}"]
    try:
        Options.checked(**options)
    except (TypeError, ValueError) as error:
        return [f"{place}, options: {error}"]
    return []


def _check_names(found: Mapping[str, Step], faults: list[str], known: Known) -> None:
    """Add the faults of references to steps that are not there, or are of another kind."""
    named = {name for step in found.values() for name in (*step.after, *step.references)}
    others = known({name for name in (*named, *found) if STEP.match(name)})
    twice = found.keys() & others.keys()
    faults += [f"step {name}: the workflow has a step of this name already" for name in sorted(twice)]
    are_maps = {**others, **{step.name: step.is_map for step in found.values()}}
    callbacks = {step.name for step in found.values() if step.on}
    for step in found.values():
        for name in dict.fromkeys((*step.after, *step.references)):
            if name not in are_maps:
                faults.append(f"step {step.name}: there is no step {_shown(name)}")
            elif name in callbacks:
                faults.append(f"step {step.name}: {name} is a callback, for which no step can wait")
        for name, is_of_map in step.references.items():
            if name in are_maps and is_of_map != are_maps[name]:
                kind, key = ("no map", RESULT) if is_of_map else ("a map", RESULTS)
                faults.append(f"step {step.name}: {name} is {kind}: expected {key}")


def _cycle_in(found: Mapping[str, Step]) -> Iterator[str]:
    """Yield the fault of steps that wait for each other, if there are some."""
    waits = {name: {each for each in step.after if each in found} for name, step in found.items()}
    followers: dict[str, list[str]] = {name: [] for name in found}
    for name, names in waits.items():
        for each in names:
            followers[each].append(name)
    ready = [name for name, names in waits.items() if not names]
    left = set(found)
    while ready:
        name = ready.pop()
        left.discard(name)
        for follower in followers[name]:
            waits[follower].discard(name)
            if not waits[follower]:
                ready.append(follower)
    if left:
        yield f"steps wait for each other in a cycle: {shorten(' -> '.join(_cycle(waits, left)), 500)}"


def _cycle(waits: Mapping[str, Collection[str]], left: Collection[str]) -> list[str]:
    """Return the names of one cycle, in which each waits for the one before."""
    name, path = min(left), dict[str, None]()
    while name not in path:
        path[name] = None
        name = min(waits[name])
    names = list(path)
    cycle = [*names[names.index(name) :], name]
    return cycle[::-1]
