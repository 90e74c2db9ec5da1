"""The dead letters, in groups of one worker type and one error."""

from collections.abc import Mapping
from typing import Any, Final

from taskqueue.monitor.record import Filter
from taskqueue.monitor.web import parameters
from taskqueue.monitor.web.grouping import STATES, LetterGroup, newest_groups
from taskqueue.monitor.web.pages import showing
from taskqueue.monitor.web.pages.page import Page
from taskqueue.monitor.web.pages.workitems import PATH as WORKITEMS
from taskqueue.monitor.web.pages.workitems import given
from taskqueue.monitor.web.parameters import FILTER
from taskqueue.monitor.web.rights import OPERATOR
from taskqueue.monitor.web.view import View
from taskqueue.texts import counted

PATH: Final = "/dead-letters"
_GROUPS: Final = 50  # on the page
_FIELDS: Final = tuple(each for each in FILTER if each.name in ("type", "tenant", "error", "since", "until"))


class DeadLetters(Page):
    """Shows the groups, the largest first."""

    async def get(self) -> None:
        """Answer."""
        query = given(self.query())
        wanted = parameters.filter_of(parameters.read(_FIELDS, query))
        await self.make("dead_letters.html", "Dead letters", lambda view: _values(view, wanted, query))


def _values(view: View, wanted: Filter, query: Mapping[str, list[str]]) -> Mapping[str, Any]:
    found = newest_groups(view, wanted, _GROUPS)
    everything = {**query, "state": sorted(STATES)}
    return {
        "groups": [(each, _query(each, query)) for each in found.groups],
        "groups_left_out": found.left_out,
        "count": found.count,
        "is_more": found.is_more,
        "query": query,
        "fields": _FIELDS,
        "everything": showing.address("", everything).removeprefix("?"),
        "may_act": view.rights.may(OPERATOR),
        "back": showing.address(PATH, query),
        "list": WORKITEMS,
        "counted": counted,
    }


def _query(group: LetterGroup, base: Mapping[str, Any]) -> str:
    """Return the query that selects a group among what a query selects; "" if none does.

    base -- that query
    """
    if not group.filter:
        return ""
    return showing.address("", {**base, **group.filter}).removeprefix("?")
