"""The dead letters, in groups of one worker type and one error."""

import shlex
import time
from collections.abc import Iterator, Mapping
from typing import Any

from rich.text import Text

from taskqueue.cli.screens import lines, workitem
from taskqueue.cli.screens.lines import Column, Row
from taskqueue.cli.screens.screen import Screen, Seen, Want
from taskqueue.cli.status import clock, span
from taskqueue.monitor.client import Reader

Group = Mapping[str, Any]


class DeadLetters(Screen):
    """The failed and rejected workitems."""

    title, key, delay = "Dead letters", "d", 5.0
    columns = (
        Column("count", 6, is_number=True),
        Column("type", 14),
        Column("state", 8, 2),
        Column("last", 5, 1, is_number=True),
        Column("error of the newest", 20, grows=True),
    )
    orders = ("",)
    empty = "Nothing has failed or was rejected, as far as the record reaches."
    unknown = "before: taskqueue failed list"

    def read(self, reader: Reader, want: Want) -> Seen:
        """Read the groups, and the newest workitem of the one that is opened."""
        found = reader.ask("dead_letters")
        groups = {_key(each): each for each in found["groups"]}
        opened = groups.get(want.opened) if want.opened is not None else None
        newest = workitem.read(reader, opened["newest"]) if opened else None
        counted = f"the newest {found['count']}" if found["is_more"] else str(found["count"])
        return Seen(
            f"{counted} failed or rejected, in {len(groups)} groups of one error",
            [_row(key, each) for key, each in groups.items()],
            details=lambda width: list(_details(opened, newest, width)) if opened else (),
        )


def _key(group: Group) -> str:
    return "\n".join((group["worker_type"], group["state"], group["words"]))


def _row(key: str, group: Group) -> Row:
    last = "" if group["last"] is None else span(max(0.0, time.time() - group["last"]))
    names = group["worker_type"] or "unknown", group["state"]
    return Row(key, (str(group["count"]), *names, last, group["error"] or "without an error"))


def _details(group: Group, newest: workitem.Workitem | None, width: int) -> Iterator[Text]:
    kept = group["state"]  # failed or rejected, as the commands are named
    told = {
        "error": group["error"],
        "count": str(group["count"]),
        "first": clock(group["first"]),
        "last": clock(group["last"]),
        "retry one": shlex.join(("taskqueue", kept, "retry", group["newest"])),
    }
    if group["worker_type"]:
        told["retry type"] = shlex.join(("taskqueue", kept, "retry", "--type", group["worker_type"]))
    yield from lines.pairs(told, width)
    if newest is not None:
        yield Text()
        yield Text("The newest", "bold")
        yield from newest.lines(width)
