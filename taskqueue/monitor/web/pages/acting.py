"""Acting on workitems: first a question with their number, then the action."""

from typing import Any, Final
from urllib.parse import parse_qs

from taskqueue.monitor import asking
from taskqueue.monitor.web import api, parameters
from taskqueue.monitor.web.api import ActionRequest
from taskqueue.monitor.web.pages import showing
from taskqueue.monitor.web.pages.page import Page, own_path
from taskqueue.monitor.web.pages.workitems import PATH
from taskqueue.monitor.web.parameters import FILTER, BadRequest

_ALL: Final = "all"
#: The participle of each action, for the answer.
_DONE: Final = {"retry": "sent back to their queues", "cancel": "cancelled", "purge": "removed for good"}
_LONGEST_FILTER: Final = 20_000  # characters


class Act(Page):
    """Asks before an action on the selected workitems or on all that a filter selects, and performs it."""

    async def post(self) -> None:
        """Answer with the question or, if it was answered, with the number of workitems."""
        self.rights.need(api.ACTION_ROLE)
        is_confirmed = self.get_body_argument("confirmed", "") == "yes"
        request = self._request(is_dry=not is_confirmed)
        if request.wanted is not None and request.wanted.body_text:
            self.rights.need_bodies()
        count = await asking.ask(self.service.actions, self.rights, request)
        back = own_path(self.get_body_argument("back", PATH))
        names: dict[str, Any] = {"action": request.action, "count": count, "back": back}
        number = f"{showing.number(count)} workitem{'' if count == 1 else 's'}"
        if is_confirmed:
            self.show("acted.html", f"{number} {_DONE[request.action]}", **names)
        else:
            title = f"{request.action.capitalize()} {number}?"
            self.show("question.html", title, ids=request.ids, filter_text=self._filter_text(), **names)

    def _request(self, *, is_dry: bool) -> ActionRequest:
        action = self.get_body_argument("action", "")
        if action not in api.ACTIONS:
            raise BadRequest(f"action: expected one of {', '.join(api.ACTIONS)}")
        if self.get_body_argument("which", "") == _ALL:
            values = parameters.read(FILTER, self._query())
            return ActionRequest(action, (), parameters.filter_of(values), is_dry)
        ids = [self.decode_argument(each, "id") for each in self.request.body_arguments.get("id", ())]
        if not ids:
            raise BadRequest("nothing is selected: go back and select workitems, or all that match")
        return ActionRequest(action, parameters.ids_of_json(ids), None, is_dry)

    def _filter_text(self) -> str:
        return self.get_body_argument("filter", "")

    def _query(self) -> dict[str, list[str]]:
        text = self._filter_text()
        if len(text) > _LONGEST_FILTER:
            raise BadRequest("filter: it is too long")
        return parse_qs(text)
