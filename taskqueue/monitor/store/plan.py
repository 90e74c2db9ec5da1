"""The changes of a write to the files of days: a plan, kept in live.db until the files have it."""

import json
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Final

from taskqueue.monitor.record import FIRST_LINES, LAST_LINES
from taskqueue.monitor.store.item import Item, Key

#: The columns of a workitem after `seq`, in the order of the tables.
COLUMNS: Final = (
    *("id", "type", "state", "tenant", "labels", "queued", "due", "started", "ended", "again_at"),
    *("attempts", "host", "worker", "user", "size", "result_size", "error", "head", "routed", "emitter"),
    "more",
)
#: Those of them that are numbers of names.
NAMED: Final = tuple(COLUMNS.index(name) for name in ("type", "tenant", "host", "worker", "user"))

Row = list[Any]  # the columns of a workitem, with names as text
#: A row of the table `log`, with the tenant as text: id, number, at, worker, level, text, tenant.
Line = tuple[str, int, float, str, str, str, str]


#: The columns as a workitem has them, without `more`.
_attributes: Final = attrgetter(*COLUMNS[:-1])
_EMPTY: Final = tuple(COLUMNS.index(name) for name in ("labels", "error", "head"))


def row_of(item: Item) -> Row:
    """Return the columns of a workitem."""
    row = [*_attributes(item), item.more()]
    for column in _EMPTY:
        row[column] = row[column] or None
    return row


def item_of(row: Row) -> Item:
    """Return the workitem of such columns."""
    item = Item(row[3], row[0])
    _, item.type, item.state, _, labels, item.queued, item.due, *rest = row
    item.started, item.ended, item.again_at, item.attempts, item.host, item.worker, item.user, *rest = rest
    item.size, item.result_size, error, head, item.routed, item.emitter, more = rest
    item.labels, item.error, item.head = labels or "", error or "", head or ""
    item.read_more(more)
    return item


@dataclass(slots=True)
class FilePlan:
    """The changes of one file."""

    deletes: list[int] = field(default_factory=list)  # sequence numbers
    inserts: list[tuple[float, Row]] = field(default_factory=list)  # with the time that orders them
    lines: list[Line] = field(default_factory=list)
    trims: list[tuple[Key, int]] = field(default_factory=list)  # how many lines a workitem has had


Plan = dict[str, FilePlan]  # by the file's name


def encode(plan: Plan) -> str:
    """Return a plan as JSON."""
    plain = {name: [each.deletes, each.inserts, each.lines, each.trims] for name, each in plan.items()}
    return json.dumps(plain, ensure_ascii=False, separators=(",", ":"))


def decode(text: str) -> Plan:
    """Return the plan that `encode` wrote."""
    return {name: _file_plan(*parts) for name, parts in json.loads(text).items()}


def _file_plan(deletes: list[int], inserts: list[Any], lines: list[Any], trims: list[Any]) -> FilePlan:
    tenants = {row[0]: row[3] for _, row in inserts}

    def key(told: Any) -> Key:  # an earlier version had only the id
        return (tenants.get(told, ""), told) if isinstance(told, str) else (told[0], told[1])

    lines = [line if len(line) == 7 else (*line, tenants.get(line[0], "")) for line in lines]
    return FilePlan(deletes, inserts, lines, [(key(told), count) for told, count in trims])


def is_kept(number: int, count: int) -> bool:
    """Whether the line of a number is one of the first or the last ones of so many."""
    return number < FIRST_LINES or number >= count - LAST_LINES
