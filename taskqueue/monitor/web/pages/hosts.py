"""The hosts: their processes, and why their workers crashed."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from taskqueue.monitor.record import EmitterRow, Worker
from taskqueue.monitor.web.pages.page import Page
from taskqueue.monitor.web.view import View

_MOST: Final = 200  # processes on a page
_DAY: Final = 86400.0


class Hosts(Page):
    """Shows the processes of each host."""

    async def get(self) -> None:
        """Answer."""
        await self.make("hosts.html", "Hosts", _values)


@dataclass(frozen=True, slots=True)
class Host:
    """A host with its processes."""

    name: str
    processes: Sequence[EmitterRow]

    @property
    def consumers(self) -> Sequence[EmitterRow]:
        """Those that have workers."""
        return [row for row in self.processes if row.emitter.kind == "consumer"]

    @property
    def workers(self) -> Sequence[tuple[str, Worker]]:
        """Workers with their names, as many as a page shows."""
        return self._workers[:_MOST]

    @property
    def workers_left_out(self) -> int:
        """Number of further ones."""
        return max(0, len(self._workers) - _MOST)

    @property
    def _workers(self) -> Sequence[tuple[str, Worker]]:
        return [each for row in self.consumers for each in row.named_workers.items()]

    @property
    def slots(self) -> int:
        """Workers."""
        return sum(row.slots for row in self.consumers)

    @property
    def busy(self) -> int:
        """Workers that run a workitem."""
        return sum(row.busy for row in self.consumers)


def _values(view: View) -> Mapping[str, Any]:
    now = time.time()
    rows = view.emitters()
    alive = [row for row in rows if row.is_alive(now)]
    gone = [row for row in rows if not row.is_alive(now) and now - row.last_seen < _DAY]
    crashes: Counter[tuple[str, str]] = Counter()
    for each in view.crashes(now - _DAY, now):
        crashes[each.worker_type, each.cause] += each.count
    return {
        "hosts": _by_host(alive[:_MOST]),
        "more": max(0, len(alive) - _MOST),
        "gone": gone[: _MOST // 2],
        "crashes": crashes.most_common(_MOST // 2),
    }


def _by_host(rows: Sequence[EmitterRow]) -> Sequence[Host]:
    ordered = sorted(rows, key=lambda row: row.emitter[:4])
    return [Host(name, tuple(found)) for name, found in groupby(ordered, key=lambda row: row.emitter.host)]
