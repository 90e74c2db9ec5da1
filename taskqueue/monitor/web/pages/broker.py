"""The broker as the monitor sees it: connection, alarms, queues, and events that are missing."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from taskqueue.broker.topology import WORKER_PREFIX
from taskqueue.monitor.record import TypeRow
from taskqueue.monitor.report import STALE_AFTER, Report
from taskqueue.monitor.web.pages.page import Page
from taskqueue.monitor.web.view import View

_MOST: Final = 300  # queues, and gaps, on a page


class Broker(Page):
    """Shows the broker, taskqueue's queues, and where the record differs."""

    async def get(self) -> None:
        """Answer."""
        await self.make("broker.html", "Broker", _values)


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue of taskqueue."""

    name: str
    ready: int  # messages
    consumers: int | None
    worker_type: str = ""  # "" for a queue of no type
    running: int = 0  # workitems of its type
    difference: int | None = None  # so many more messages than the record has queued workitems
    kind: str = ""  # classic, quorum or stream; "" if it is not known
    policies: Sequence[str] = ()

    @property
    def is_unserved(self) -> bool:
        """Whether it has messages that nobody takes: busy workers may have left it until one is free."""
        return bool(self.worker_type and self.ready and self.consumers == 0 and not self.running)


def _values(view: View) -> Mapping[str, Any]:
    now = time.time()
    processes = [row for row in view.emitters() if row.is_alive(now)]
    report = view.report()
    gaps = view.gaps()
    is_fresh = report is not None and now - report.at < STALE_AFTER
    queues = _queues(report, view.types()) if report is not None and is_fresh else []
    return {
        "report": report if is_fresh else None,
        "queues": queues[:_MOST],
        "more": max(0, len(queues) - _MOST),
        "blocked": [row for row in processes if row.is_blocked],
        "processes": len(processes),
        "lost": sum(row.lost for row in processes),
        "missed": sum(gap.missed for gap in gaps),
        "gaps": gaps[:_MOST],
        "has_kinds": any(queue.kind for queue in queues),
        "nodes": report.management.get("nodes", []) if report is not None and is_fresh else [],
        "connections": report.management.get("connections") if report is not None and is_fresh else None,
    }


def _queues(report: Report, types: Sequence[TypeRow]) -> Sequence[Queue]:
    """Return the queues: those that nobody serves first, then the longest."""
    rows = {row.worker_type: row for row in types}
    found = []
    for name, ready in report.depths.items():
        worker_type = name.removeprefix(WORKER_PREFIX) if name.startswith(WORKER_PREFIX) else ""
        consumers = report.consumers.get(name)
        told = report.management.get("queues", {}).get(name, {})
        about = told.get("type", ""), told.get("policies", ())
        row = rows.get(worker_type)
        running, difference = (row.running, row.difference) if row is not None else (0, None)
        found.append(Queue(name, ready, consumers, worker_type, running, difference, *about))
    return sorted(found, key=lambda queue: (not queue.is_unserved, -queue.ready, queue.name))
