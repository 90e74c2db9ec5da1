"""The audit: what users did, with a filter, and as a file."""

import csv
import io
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from taskqueue.monitor.record import Action
from taskqueue.monitor.web import parameters
from taskqueue.monitor.web.pages.page import Page
from taskqueue.monitor.web.parameters import text
from taskqueue.monitor.web.view import View

_ROWS: Final = 200  # on the page; the file has all that the view returns
_FILTER: Final = (
    text("user", "The user."),
    text("action", "The beginning of the action."),
    text("about", "A part of the filter or of the ids."),
)


class Audit(Page):
    """Shows the newest actions."""

    async def get(self) -> None:
        """Answer."""
        wanted = self._wanted()
        await self.make("audit.html", "Audit", lambda view: _values(view, wanted))

    def _wanted(self) -> Mapping[str, str]:
        """Return the filter; a field that a form leaves empty is none."""
        given = {name: values for name, values in self.query().items() if values != [""]}
        return parameters.read(_FILTER, given)


class AuditFile(Audit):
    """Answers with the actions as a file (RFC 4180)."""

    async def get(self) -> None:
        """Answer."""
        wanted = self._wanted()
        found = await self.read(lambda view: _chosen(view.audit(), wanted))
        self.set_header("Content-Type", "text/csv; charset=UTF-8")
        self.set_header("Content-Disposition", 'attachment; filename="audit.csv"')
        self.finish(_lines(found))


def _values(view: View, wanted: Mapping[str, str]) -> Mapping[str, Any]:
    everything = view.audit()
    found = _chosen(everything, wanted)
    return {
        "actions": found[:_ROWS],
        "count": len(found),
        "all": len(everything),
        "wanted": wanted,
    }


def _chosen(actions: Iterable[Action], wanted: Mapping[str, str]) -> Sequence[Action]:
    return [
        each
        for each in actions
        if wanted.get("user", each.user) == each.user
        and each.action.startswith(wanted.get("action", ""))
        and wanted.get("about", "") in each.filter
    ]


def _lines(actions: Iterable[Action]) -> str:
    """Return lines of CSV. No field begins as a spreadsheet's formula does: users and actions are letters."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(("at", "user", "action", "filter", "workitems"))
    for each in actions:
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(each.at))
        writer.writerow((at, each.user, each.action, each.filter, each.count))
    return file.getvalue()
