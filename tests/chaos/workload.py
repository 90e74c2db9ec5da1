"""What is submitted: workitems of every temper, and what each must come to."""

import json
import random
import time
from dataclasses import dataclass
from typing import Any

MAX_CRASHES = 3
RETRIES = 2

#: The options of each worker type's group. Success is wanted however often a worker is killed, except
#: of what kills its worker itself.
GROUPS = {
    "quick": {"workers": 2, "max_prefetch": 4, "max_tasks": 400, "max_crashes": 1000},
    "lasting": {"workers": 4, "max_crashes": 1000},
    "failing": {"workers": 2, "max_crashes": 1000, "retries": RETRIES, "retry_delay": 0.5},
    "crashing": {"workers": 2, "max_crashes": MAX_CRASHES},
    "greedy": {"workers": 1, "max_crashes": 1000, "memory_limit": 400},
}


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of workitem."""

    name: str
    share: int  # of 200
    worker_type: str  # "" for one that no worker type can be found for
    state: str  # what it must come to
    cause: str = ""  # how the error begins, of one that fails
    climbs: bool = False  # whether it goes up the delay ladder


KINDS = (
    Kind("instant", 151, "quick", "succeeded"),
    Kind("slow", 16, "lasting", "succeeded"),
    Kind("delayed", 10, "quick", "succeeded", climbs=True),
    Kind("raising once", 6, "failing", "succeeded", climbs=True),
    Kind("raising", 4, "failing", "failed", "ValueError", climbs=True),
    Kind("crashing once", 2, "failing", "succeeded", climbs=True),
    Kind("crashing", 2, "crashing", "failed", "WorkerCrashed", climbs=True),
    Kind("eating memory", 3, "greedy", "failed", "MemoryError"),
    Kind("rejecting", 4, "quick", "rejected", "Reject"),
    Kind("unroutable", 2, "", "rejected", "the JSON object names no worker type"),
)


@dataclass(frozen=True, slots=True)
class Workitem:
    """One workitem."""

    id: str
    kind: Kind
    body: str
    seconds: float  # how long it runs
    delay: float  # seconds before which it shall not run

    def properties(self) -> dict[str, Any]:
        """Return what it is published with, by py-amqp's names."""
        properties: dict[str, Any] = {"message_id": self.id, "content_type": "application/json"}
        if self.kind.worker_type:
            properties["type"] = self.kind.worker_type
        if self.delay:
            properties["application_headers"] = {"x-taskqueue-due": time.time() + self.delay}
        return properties


def workload(seed: int, number: int) -> list[Workitem]:
    """Return the workitems that a seed stands for; of every kind at least one."""
    chance = random.Random(f"{seed} workitems")
    kinds = [kind for kind in KINDS for _ in range(max(1, number * kind.share // 200))]
    kinds += [KINDS[0]] * (number - len(kinds))
    chance.shuffle(kinds)
    return [_workitem(chance, count, kind) for count, kind in enumerate(kinds[:number])]


def _workitem(chance: random.Random, number: int, kind: Kind) -> Workitem:
    seconds = chance.uniform(0.05, 1.0) if kind.name == "slow" else 0.0
    delay = chance.uniform(0.3, 4.0) if kind.name == "delayed" else 0.0
    body = {"how": kind.name, "seconds": seconds}
    return Workitem(f"<{number}-{kind.name.replace(' ', '-')}>", kind, json.dumps(body), seconds, delay)
