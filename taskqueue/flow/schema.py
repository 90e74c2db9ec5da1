"""The tables of a database of workflows, for SQLite and PostgreSQL, and the numbers in them."""

from collections.abc import Sequence
from enum import IntEnum
from typing import Final


class State(IntEnum):
    """The state of a step. Those up to QUEUED are open: their workflow has not ended."""

    WAITING = 0  # for other steps
    READY = 1  # to be published: these rows are the outbox
    QUEUED = 2  # the broker has it
    IDLE = 3  # a callback whose end of the workflow has not come
    SUCCEEDED = 4
    FAILED = 5
    REJECTED = 6
    CANCELLED = 7
    SKIPPED = 8  # a step that it waits for has not succeeded


class Outcome(IntEnum):
    """The state of a workflow."""

    RUNNING = 0
    SUCCEEDED = 1
    FAILED = 2
    CANCELLED = 3


class Kind(IntEnum):
    """The kind of a step."""

    STEP = 0
    MAP = 1  # no workitem; its elements are steps
    SPREAD = 2  # a map whose elements are known
    CALLBACK = 3


class Fatal(IntEnum):
    """Whether the failure of a step is one of its workflow."""

    ALLOWED = 0  # every step that waits for it lets it fail
    REFUSED = 1
    FINAL = 2  # no step waits for it


#: The statements are SQLite's; `postgresql.py` translates them. Numbers of rows are unique in all shards:
#: each is a multiple of SHARDS, and the number of its shard. Times are seconds since 1970.
VERSIONS: Final[Sequence[Sequence[str]]] = (
    (
        "CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL)",
        "CREATE TABLE shard(number INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, next INTEGER NOT NULL)",
        """CREATE TABLE workflow(no INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, shard INTEGER NOT NULL,
        name TEXT NOT NULL, tenant TEXT NOT NULL, state INTEGER NOT NULL, secret TEXT NOT NULL,
        digest TEXT NOT NULL, open INTEGER NOT NULL, started REAL NOT NULL, ended REAL)""",
        "CREATE INDEX workflow_of_shard ON workflow(shard, no)",
        "CREATE INDEX workflow_open ON workflow(shard, no) WHERE ended IS NULL",
        "CREATE INDEX workflow_ended ON workflow(ended) WHERE ended IS NOT NULL",
        """CREATE TABLE step(no INTEGER PRIMARY KEY, workflow INTEGER NOT NULL, shard INTEGER NOT NULL,
        name TEXT NOT NULL, state INTEGER NOT NULL, run INTEGER NOT NULL, kind INTEGER NOT NULL,
        type TEXT NOT NULL, form TEXT NOT NULL, args TEXT NOT NULL, options TEXT, source TEXT,
        refs INTEGER NOT NULL,
        wanted INTEGER NOT NULL, fatal INTEGER NOT NULL, hook TEXT, result TEXT, size INTEGER, error TEXT,
        parent INTEGER, position INTEGER, published REAL, ended REAL,
        predecessors TEXT)""",  # numbers as JSON: the edges as they were at first, for its picture
        "CREATE UNIQUE INDEX step_name ON step(workflow, name)",
        "CREATE INDEX step_state ON step(workflow, state)",
        f"CREATE INDEX step_ready ON step(shard, no) WHERE state = {State.READY:d}",
        "CREATE INDEX step_parent ON step(parent, position) WHERE parent IS NOT NULL",
        """CREATE TABLE edge(predecessor INTEGER NOT NULL, step INTEGER NOT NULL, allow INTEGER NOT NULL,
        PRIMARY KEY(predecessor, step)) WITHOUT ROWID""",
        "CREATE INDEX edge_step ON edge(step)",
        "CREATE TABLE removed(workflow INTEGER PRIMARY KEY)",  # whose steps are being removed
    ),
)


def state_name(state: int) -> str:
    """Return a step's state in words: a callback waits, too."""
    return (State.WAITING if state == State.IDLE else State(state)).name.lower()


def workitem_id(workflow: str, step: str, run: int) -> str:
    """Return the id of a step's workitem, which is the same one however often it is published."""
    return f"{workflow}.{step}" if run == 1 else f"{workflow}.{step}.{run}"
