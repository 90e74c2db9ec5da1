"""The running workitems, the longest first, with their progress."""

import time
from collections.abc import Mapping
from typing import Any, Final

from taskqueue.cli.screens import workitem
from taskqueue.cli.screens.lines import Column, Row
from taskqueue.cli.screens.screen import Screen, Seen, Want
from taskqueue.cli.status import span
from taskqueue.messages.events import RUNNING
from taskqueue.monitor.client import Reader
from taskqueue.monitor.web.api import NeverSeen
from taskqueue.monitor.web.parameters import MOST_ROWS

_PROGRESS_DELAY: Final = 2.0  # seconds between two looks at the progress of a workitem


class Running(Screen):
    """The workitems that have run for a second or longer."""

    title, key, delay = "Running", "r", 1.0
    columns = (
        Column("id", 14, grows=True),
        Column("type", 12, grows=True),
        Column("for", 6, is_number=True),
        Column("progress", 20, 1),
        Column("worker", 12, 2),
        Column("host", 10, 3),
        Column("tenant", 8, 4),
    )
    orders = ("",)
    empty = "Nothing has run for a second or longer."
    unknown = "what began before is unknown"

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, str]] = {}  # when its progress was read, and as text

    def read(self, reader: Reader, want: Want) -> Seen:
        """Read what runs, and the progress of what is visible."""
        page = reader.ask("workitems", {"state": [RUNNING], "limit": [str(MOST_ROWS)]})
        found = sorted(page["workitems"], key=lambda each: each["started"] or 0.0)
        self._read_progress(reader, want.visible, {each["id"] for each in found})
        opened = workitem.read(reader, want.opened) if want.opened is not None else None
        more = f"at least {len(found)}" if page["next"] else str(len(found))
        return Seen(
            f"{more} running, the longest first",
            [self._row(each) for each in found],
            details=lambda width: list(opened.lines(width)) if opened else (),
        )

    def _read_progress(self, reader: Reader, visible: tuple[str, ...], running: set[str]) -> None:
        self._known = {id_: known for id_, known in self._known.items() if id_ in running}
        for id_ in running.intersection(visible):
            at, _ = self._known.get(id_, (0.0, ""))
            if time.monotonic() - at > _PROGRESS_DELAY:
                self._known[id_] = time.monotonic(), _progress(reader, id_)

    def _row(self, each: Mapping[str, Any]) -> Row:
        age = "" if each["started"] is None else span(max(0.0, time.time() - each["started"]))
        _, progress = self._known.get(each["id"], (0.0, ""))
        names = each["worker"], each["host"], each["tenant"]
        return Row(each["id"], (each["id"], each["worker_type"], age, progress, *names))


def _progress(reader: Reader, id_: str) -> str:
    try:
        progress = reader.ask("workitem", id=id_)["progress"]
    except NeverSeen:
        return ""
    return f"{progress['fraction']:4.0%} {progress['text']}" if progress else ""
