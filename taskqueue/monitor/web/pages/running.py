"""The running workitems, the longest first, with their progress."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from taskqueue.messages.events import RUNNING
from taskqueue.monitor.record import Filter, Worker, Workitem
from taskqueue.monitor.web.pages import showing
from taskqueue.monitor.web.pages.page import Page
from taskqueue.monitor.web.rights import OPERATOR
from taskqueue.monitor.web.view import View

PATH: Final = "/running"
_MOST: Final = 1000  # that are looked at
_SHOWN: Final = 50


class Running(Page):
    """Shows the workitems that run, for a second or longer."""

    async def get(self) -> None:
        """Answer."""
        await self.make("running.html", "Running", values)


@dataclass(frozen=True, slots=True)
class Row:
    """A workitem that runs."""

    workitem: Workitem
    fraction: float | None  # of its progress, from 0 to 1
    text: str
    rss: int | None  # bytes of the worker

    @property
    def part_of_timeout(self) -> float | None:
        """The part of its time that it has used, from 0 on; None without a timeout."""
        ran, timeout = showing.run_time(self.workitem), self.workitem.timeout
        return ran / timeout if ran is not None and timeout else None


def values(view: View) -> Mapping[str, Any]:
    """Return what the template shows."""
    page = view.page(Filter(states=frozenset((RUNNING,))), None, _MOST)
    workers = view.workers()
    longest = sorted(page.workitems, key=lambda each: each.started or 0.0)[:_SHOWN]
    return {
        "rows": [_row(view, each, workers) for each in longest],
        "count": len(page.workitems),
        "is_more": page.next is not None,
        "may_act": view.rights.may(OPERATOR),
        "back": PATH,
    }


def _row(view: View, workitem: Workitem, workers: Mapping[tuple[str, str], Worker]) -> Row:
    details = view.find(workitem.id, workitem.tenant)
    fraction, text = (details.progress if details is not None else None) or (None, "")
    worker = workers.get((workitem.host, workitem.worker))
    return Row(workitem, fraction, text, worker.rss if worker is not None else None)
