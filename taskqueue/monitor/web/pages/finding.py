"""The field in the layout that jumps to a workitem, a worker type, a schedule or a screen."""

import asyncio
from typing import Final, NamedTuple

from taskqueue.monitor.record import Filter
from taskqueue.monitor.web.pages import screens, showing, workitems
from taskqueue.monitor.web.pages.page import Page
from taskqueue.monitor.web.pages.schedules import schedule_address
from taskqueue.monitor.web.view import View

_LONGEST: Final = 255  # characters
_SHORTEST_ID: Final = 2  # characters of an id for which workitems are looked up
_MOST: Final = 6  # types, workitems, and schedules


class Find(Page):
    """Goes to what a word names; else to the workitems whose id begins with it."""

    async def get(self) -> None:
        """Answer."""
        word = self.get_query_argument("q", "").strip()[:_LONGEST]
        paths = {each.title.lower(): each.path for each in screens.of(self.rights)}
        path = paths.get(word.lower()) or await self.read(lambda view: _address(view, word))
        if not path and await self.service.schedules.has(self.rights, word):
            path = schedule_address(word)
        self.redirect(path or showing.address(workitems.PATH, {"id": word}), status=303)


class Suggest(Page):
    """Answers with what a word may mean, in JSON, for the script."""

    async def get(self) -> None:
        """Answer."""
        word = self.get_query_argument("q", "").strip()[:_LONGEST]
        found = await self._suggestions(word) if word else []
        self.send({"suggestions": [each._asdict() for each in found]})

    async def _suggestions(self, word: str) -> list["Suggestion"]:
        found, names = await asyncio.gather(
            self.read(lambda view: suggestions(view, word)),
            self.service.schedules.containing(self.rights, word, _MOST),
        )
        return [*found, *(Suggestion("schedule", name, schedule_address(name)) for name in names)]


class Suggestion(NamedTuple):
    """A place that a word may mean."""

    kind: str  # screen, type, workitem or schedule
    text: str
    address: str


def suggestions(view: View, word: str) -> list[Suggestion]:
    """Return screens and worker types that have a word in their name, and workitems whose id begins so."""
    low = word.lower()
    found = [
        Suggestion("screen", each.title, each.path)
        for each in screens.of(view.rights)
        if low in each.title.lower()
    ]
    types = sorted(row.worker_type for row in view.types() if low in row.worker_type.lower())
    types.sort(key=lambda name: not name.lower().startswith(low))
    found += [
        Suggestion("type", showing.line(name), showing.address(workitems.PATH, {"type": name}))
        for name in types[:_MOST]
    ]
    if len(word) >= _SHORTEST_ID:
        page = view.page(Filter(id_prefix=word), None, _MOST)
        found += [
            Suggestion("workitem", showing.line(each.id, 80), showing.workitem_address(each.id, each.tenant))
            for each in page.workitems
        ]
    return found


def _address(view: View, word: str) -> str:
    """Return the address of a workitem or of a type's workitems; "" for neither."""
    if not word:
        return workitems.PATH
    if view.find(word) is not None:
        return showing.workitem_address(word, "")
    is_type = word in {row.worker_type for row in view.types()}
    return showing.address(workitems.PATH, {"type": word}) if is_type else ""
