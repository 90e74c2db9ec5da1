"""The list of workitems: a filter is its address, and what it selects can be acted on."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from taskqueue.messages.states import SHOWN
from taskqueue.monitor.record import Filter
from taskqueue.monitor.web import parameters
from taskqueue.monitor.web.pages import showing
from taskqueue.monitor.web.pages.page import Page
from taskqueue.monitor.web.parameters import FILTER, PAGE
from taskqueue.monitor.web.rights import OPERATOR
from taskqueue.monitor.web.view import View

PATH: Final = "/workitems"
ROWS: Final = 50
MOST_COUNTED: Final = 10_000  # of a state; more are shown as "more than"
_COUNTING_TIMEOUT: Final = 0.3  # seconds after which no further state is counted
#: The fields of the form, but the states, which are links.
FIELDS: Final = tuple(each for each in FILTER if each.name != "state")

Query = Mapping[str, list[str]]


@dataclass(frozen=True, slots=True)
class StateCount:
    """A state beside the filter.

    Args:
        state: the state; "" for any.
        count: the number of workitems; None if it was not counted in time.
        is_more: whether there are more.
        address: the list with this state.
        is_chosen: whether the list has this state.
    """

    state: str
    count: int | None
    is_more: bool
    address: str
    is_chosen: bool


class Workitems(Page):
    """Shows the workitems that a filter selects, the newest first."""

    async def get(self) -> None:
        """Answer."""
        query = given(self.query())
        values = parameters.read((*FILTER, *PAGE), query)
        wanted, cursor = parameters.filter_of(values), values.get("cursor")
        query = without(query, "cursor")
        await self.make("workitems.html", "Workitems", lambda view: _values(view, wanted, cursor, query))


def given(query: Query) -> dict[str, list[str]]:
    """Return the parameters of a form that are filled in."""
    filled = {name: [each for each in map(str.strip, texts) if each] for name, texts in query.items()}
    return {name: texts for name, texts in filled.items() if texts}


def without(query: Query, name: str) -> dict[str, list[str]]:
    """Return a query without a parameter."""
    return {each: texts for each, texts in query.items() if each != name}


def _values(view: View, wanted: Filter, cursor: str | None, query: Query) -> Mapping[str, Any]:
    page = view.page(wanted, cursor, ROWS)
    following = showing.address(PATH, {**query, "cursor": page.next}) if page.next else ""
    return {
        "workitems": page.workitems,
        "counts": _counts(view, wanted, query),
        "query": query,
        "fields": [each for each in FIELDS if each.name != "body" or view.rights.bodies],
        "newest": showing.address(PATH, query) if cursor else "",
        "following": following,
        "filter_text": showing.address("", query).removeprefix("?"),
        "may_act": view.rights.may(OPERATOR) and bool(page.workitems),
    }


def _counts(view: View, wanted: Filter, query: Query) -> list[StateCount]:
    rest = without(query, "state")
    found = [StateCount("", None, False, showing.address(PATH, rest), not wanted.states)]
    until = time.monotonic() + _COUNTING_TIMEOUT
    for state in SHOWN:
        count = None
        if time.monotonic() < until:
            count = view.count(replace(wanted, states=frozenset((state,))), MOST_COUNTED + 1)
        address = showing.address(PATH, {**rest, "state": state})
        is_more = count is not None and count > MOST_COUNTED
        shown = MOST_COUNTED if is_more else count
        found.append(StateCount(state, shown, is_more, address, state in wanted.states))
    return found
