"""The workload: workitems of every temper, with the end that each must come to."""

import json
import random
import time
from dataclasses import dataclass
from typing import Any

from support.slots import CODE

MAX_CRASHES = 3
RETRIES = 2
LIMIT = 3  # limited workitems that may run at once
TENANTS = 3
RESULTS, TICKS = "results", "ticks"  # queues

#: The options of each worker type's group. Success is wanted however often a worker is killed, except
#: of what kills its worker itself.
GROUPS = {
    "quick": {"workers": 2, "max_prefetch": 4, "max_tasks": 400, "max_crashes": 1000},
    "lasting": {"workers": 4, "max_crashes": 1000},
    "failing": {"workers": 2, "max_crashes": 1000, "retries": RETRIES, "retry_delay": 0.5},
    "crashing": {"workers": 2, "max_crashes": MAX_CRASHES},
    "greedy": {"workers": 1, "max_crashes": 1000, "memory_limit": 400},
    "limited": {"workers": 3, "max_crashes": 1000},
    "laned": {"workers": 2, "max_crashes": 1000},
    "ticking": {"workers": 1, "max_crashes": 1000, "results_routing_key": TICKS},
}
#: The options of the worker types themselves.
TYPES = {"limited": "limits: few", "laned": "lanes: 4"}
#: The other sections of the configuration.
SECTIONS = f"""
[limit few]
concurrency: {LIMIT}
"""


_SECONDS = {"slow": (0.05, 1.0), "limited": (0.02, 0.1)}  # how long they run


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of workitem."""

    name: str
    share: int  # of 200
    worker_type: str  # "" for one that no worker type can be found for
    state: str  # what it must come to
    cause: str = ""  # how the error begins, of one that fails
    is_delayed: bool = False  # whether it goes through delay queues
    results: str = RESULTS  # the queue of its results


KINDS = (
    Kind("instant", 125, "quick", "succeeded"),
    Kind("unique", 10, "quick", "succeeded"),  # by its own id
    Kind("slow", 16, "lasting", "succeeded"),
    Kind("limited", 6, "limited", "succeeded"),
    Kind("laned", 10, "laned", "succeeded"),  # with priorities and tenants
    Kind("delayed", 10, "quick", "succeeded", is_delayed=True),
    Kind("raising once", 6, "failing", "succeeded", is_delayed=True),
    Kind("raising", 4, "failing", "failed", "ValueError", is_delayed=True),
    Kind("crashing once", 2, "failing", "succeeded", is_delayed=True),
    Kind("crashing", 2, "crashing", "failed", "WorkerCrashed", is_delayed=True),
    Kind("eating memory", 3, "greedy", "failed", "MemoryError"),
    Kind("rejecting", 4, "quick", "rejected", "Reject"),
    Kind("unroutable", 2, "", "rejected", "the JSON object names no worker type"),
)
#: What schedules submit.
TICK = Kind("tick", 0, "ticking", "succeeded", results=TICKS)
#: Limited, and running until all are told to end.
HELD = Kind("held", 0, "limited", "succeeded")


@dataclass(frozen=True, slots=True)
class Workitem:
    """One workitem."""

    id: str
    kind: Kind
    body: str
    seconds: float  # how long it runs
    delay: float  # seconds before which it shall not run
    queue = "taskqueue"  # where it is published

    def properties(self) -> dict[str, Any]:
        """Return what it is published with, by py-amqp's names."""
        properties: dict[str, Any] = {"message_id": self.id, "content_type": "application/json"}
        if self.kind.worker_type:
            properties["type"] = self.kind.worker_type
        if self.delay:
            properties["application_headers"] = {"x-taskqueue-due": time.time() + self.delay}
        if self.kind.name == "unique":
            properties["application_headers"] = {"x-taskqueue-unique": self.id}
        if self.kind.name == "laned":
            number = int(self.id[1:].partition("-")[0])
            properties["priority"] = number % 10
            properties["application_headers"] = {"x-taskqueue-tenant": f"tenant {number % TENANTS}"}
        return properties


def workload(seed: int, number: int) -> list[Workitem]:
    """Return the workitems that a seed stands for; of every kind at least one."""
    chance = random.Random(f"{seed} workitems")
    kinds = [kind for kind in KINDS for _ in range(max(1, number * kind.share // 200))]
    kinds += [KINDS[0]] * (number - len(kinds))
    chance.shuffle(kinds)
    return [_workitem(chance, count, kind) for count, kind in enumerate(kinds[:number])]


def held(first: int) -> list[Workitem]:
    """Return twice as many workitems as may run at once; `first` is the number of the first one."""
    numbers = range(first, first + 2 * LIMIT)
    return [Workitem(f"<{number}-held>", HELD, _body(HELD, 600.0), 600.0, 0.0) for number in numbers]


def _workitem(chance: random.Random, number: int, kind: Kind) -> Workitem:
    seconds = chance.uniform(*_SECONDS[kind.name]) if kind.name in _SECONDS else 0.0
    delay = chance.uniform(0.3, 4.0) if kind.name == "delayed" else 0.0
    return Workitem(f"<{number}-{kind.name.replace(' ', '-')}>", kind, _body(kind, seconds), seconds, delay)


def _body(kind: Kind, seconds: float) -> str:
    counted = {"code": CODE} if kind.worker_type == "limited" else {}
    return json.dumps({"how": kind.name, "seconds": seconds} | counted)
