"""The workflows of the workload, of several shapes, and what each must come to."""

import json
import random
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taskqueue.config import AmqpSettings
from taskqueue.flow import client

SHARDS = 4
QUEUES = tuple(f"taskqueue_flow_{number}" for number in range(SHARDS))
NOTES = "steps"  # the directory and the file where steps note their runs
SHARE = 40  # workitems for each workflow
WIDTH = 5  # steps side by side, and elements of a map
SECTION = "[flow]\ndatabase: {}\n"

Runs = list[tuple[float, float]]  # beginning and end of each, in seconds since 1970


@dataclass(frozen=True)
class Started:
    """One workflow; the producer publishes its document."""

    id: str
    shape: str
    document: Mapping[str, Any]
    state: str  # what it must come to
    states: Mapping[str, str] = field(default_factory=dict)  # of steps that must not succeed
    result: Any = None  # of its step "last"; None for whatever it is

    @property
    def body(self) -> str:
        """The message that starts it."""
        return json.dumps({"kind": "start", "id": self.id, **self.document})

    @property
    def queue(self) -> str:
        """Where that goes."""
        return QUEUES[zlib.crc32(self.id.encode()) % SHARDS]

    def before(self, step: str) -> Sequence[str]:
        """Return the names of the steps that must have ended before a step begins."""
        if step.startswith("on-"):
            return [each["step"] for each in self.document["steps"] if each["step"] not in self.states
                    and "on" not in each and "map" not in each]  # fmt: skip
        return next((each.get("after", ()) for each in self.document["steps"] if each["step"] == step), ())

    def properties(self) -> dict[str, Any]:
        """Return what it is published with, by py-amqp's names."""
        return {"message_id": f"start {self.id}", "content_type": "application/json"}


def workflows(seed: int, workitems: int, notes: Path) -> list[Started]:
    """Return the workflows that a seed stands for, beside so many workitems.

    notes: where steps note their runs
    """
    chance = random.Random(f"{seed} workflows")
    shapes = list(_SHAPES) * (workitems // SHARE // len(_SHAPES) + 1)
    return [_workflow(f"{chance.getrandbits(128):032x}", shape, notes) for shape in shapes]


def _workflow(id_: str, shape: str, notes: Path) -> Started:
    def step(name: str, how: str = "instant", type_: str = "quick", **others: Any) -> dict[str, Any]:
        body = {"how": how, "seconds": 0, "note": str(notes), "result": name}
        return {"step": name, "type": type_, "body": body, **others}

    steps, state, states = _SHAPES[shape](step)
    others = {"succeeded", "failed"} - {state}
    hooks = [step(f"on-{on}", on=on) for on in ("succeeded", "failed", "ended")]
    ends = states | {f"on-{on}": "waiting" for on in others}
    document = {"workflow": shape, "steps": [*steps, *hooks]}
    return Started(id_, shape, document, state, ends, _RESULTS.get(shape))


def _chain(step):
    names = [f"link-{number}" for number in range(WIDTH)]
    steps = [step(name, after=names[max(0, at - 1) : at]) for at, name in enumerate(names)]
    return steps, "succeeded", {}


def _join(step):
    sides = [f"side-{number}" for number in range(WIDTH)]
    first, last = step("first"), step("last", after=sides)
    last["body"]["result"] = [{"$result": side} for side in sides]
    return [first, *(step(side, after=["first"]) for side in sides), last], "succeeded", {}


def _map(step):
    first, last = step("list"), step("last")
    first["body"]["result"] = [step(f"element-{number}")["body"] for number in range(WIDTH)]
    last["body"]["result"] = {"$results": "each"}
    each = {"step": "each", "type": "quick", "map": {"$result": "list"}, "body": None}
    return [first, each, last], "succeeded", {}


def _failing(step):
    steps = [
        step("first"),
        step("bad", "raising", "failing", after=["first"]),
        step("beside", after=["first"]),
        step("never", after=["bad", "beside"]),
    ]
    return steps, "failed", {"bad": "failed", "never": "skipped"}


def _allowing(step):
    steps = [
        step("bad", "raising", "failing"),
        step("good", "crashing once", "failing"),
        step("last", after=["bad", "good"], allow_failed=["bad"]),
    ]
    return steps, "succeeded", {"bad": "failed"}


_SHAPES = {"chain": _chain, "join": _join, "map": _map, "failing": _failing, "allowing": _allowing}

_RESULTS = {
    "join": [f"side-{number}" for number in range(WIDTH)],
    "map": [f"element-{number}" for number in range(WIDTH)],
}


def left(url: str, started: Iterable[Started]) -> list[str]:
    """Return the ids of workflows that have not ended, or whose callbacks have not."""
    amqp, found = AmqpSettings.from_url(url), {}
    for each in client.ask_all(amqp, timeout=60):
        steps = each["steps"]
        open_ = sum(steps.get(state, 0) for state in ("ready", "queued"))
        found[each["id"]] = each["ended"] is not None and not open_
    return [each.id for each in started if not found.get(each.id)]


def faults(url: str, started: Sequence[Started], notes: Path) -> Iterator[str]:
    """Yield in which ways workflows have come to what they must not come to."""
    amqp, runs = AmqpSettings.from_url(url), runs_of(notes)
    for each in started:
        state = client.ask(amqp, "show", each.id, timeout=60)["state"]
        if state != each.state:
            yield f"workflow {each.id} ({each.shape}) {state}, expected {each.state}"
        if each.result is not None:
            result = client.ask(amqp, "result", each.id, timeout=60, step="last").get("result")
            if result != each.result:
                yield f"workflow {each.id} ({each.shape}) came to {result}, expected {each.result}"
        for step in client.steps(amqp, each.id):
            yield from _faults_of(each, step, runs)


def _faults_of(each: Started, step: Mapping[str, Any], runs: Mapping[str, Runs]) -> Iterator[str]:
    expected = each.states.get(step["step"], "succeeded")
    place = f"step {step['step']} of workflow {each.id} ({each.shape})"
    if step["state"] != expected:
        yield f"{place} {step['state']}, expected {expected}: {step['error']}"
    if step["run"] != 1:
        yield f"{place} was begun {step['run']} times"
    if "workitem" not in step:
        return
    noted = runs.get(step["workitem"], [])
    if bool(noted) != (expected in ("succeeded", "failed")):
        yield f"{place} ran {len(noted)} times, and is {expected}"
    for other in each.before(step["step"]):
        earlier = runs.get(f"{each.id}.{other}", [])
        if noted and (not earlier or min(noted)[0] < min(end for _, end in earlier)):
            yield f"{place} ran before step {other} had ended"


def runs_of(notes: Path) -> dict[str, Runs]:
    """Return the runs of each step's workitem."""
    runs: dict[str, Runs] = {}
    for line in notes.read_text().splitlines() if notes.exists() else ():
        workitem, began, ended = line.split()
        runs.setdefault(workitem, []).append((float(began), float(ended)))
    return runs


def runs_by_number(notes: Path) -> dict[int, int]:
    """Return how many steps ran how often."""
    return dict(Counter(len(each) for each in runs_of(notes).values()))
