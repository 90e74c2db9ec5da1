"""The schedules: a list of all, and a page for each, with its ticks and what may be done with it."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

from taskqueue.errors import TaskqueueError
from taskqueue.monitor.asking import ActionFailed
from taskqueue.monitor.web import parameters
from taskqueue.monitor.web.pages import showing
from taskqueue.monitor.web.pages.page import Page
from taskqueue.monitor.web.pages.schedule_form import ScheduleForm
from taskqueue.monitor.web.pages.workitems import PATH as WORKITEMS
from taskqueue.monitor.web.pages.workitems import given
from taskqueue.monitor.web.parameters import BadRequest
from taskqueue.monitor.web.rights import ADMIN, OPERATOR
from taskqueue.monitor.web.schedules import (
    ADD,
    AFTER,
    LABEL,
    LIST,
    PATH,
    REMOVE,
    SHOW,
    TEXT,
    ScheduleRequest,
    ScheduleRow,
)
from taskqueue.monitor.web.wording import duration

_ROWS: Final = 50  # of a page
_TIMES: Final = 10  # that follow, on the page of a schedule
_BODY: Final = 8_000  # characters
_DONE: Final = {
    "pause": "is paused",
    "resume": "is active",
    "run-now": "runs now",
    REMOVE: "is removed",
    ADD: "is added",
}


class Schedules(Page):
    """Shows all schedules, and adds one."""

    async def get(self) -> None:
        """Answer; while nobody answers for the schedules, the page says why."""
        values = parameters.read((TEXT, AFTER), given(self.query()))
        text, after = values.get("name", ""), values.get("after", "")
        answer: dict[str, Any] = {"schedules": [], "next": ""}
        trouble = ""
        try:
            answer = await self.ask(ScheduleRequest(LIST, text=text, after=after, limit=_ROWS))
        except ActionFailed as error:
            trouble = str(error)
        await self.show_with_notices(
            "schedules.html",
            "Schedules",
            rows=[_row(each) for each in answer["schedules"]],
            following=_following(text, answer["next"]),
            text=text,
            after=after,
            trouble=trouble,
            may_add=self.rights.may(ADMIN),
            form=ScheduleForm(),
            schedule_address=schedule_address,
            workitems=workitems_address,
            when=when,
        )

    async def post(self) -> None:
        """Add the schedule that the form describes; show the form again if something is wrong with it."""
        self.rights.need(ADMIN)
        form = ScheduleForm.of(self.get_body_argument)
        try:
            answer = await self.ask(ScheduleRequest(ADD, definition=form.definition()))
        except TaskqueueError as error:
            self.set_failure(HTTPStatus.BAD_REQUEST, error)
            form = form.with_fault(error)
            await self.show_with_notices("schedule_refused.html", "Add a schedule", form=form)
            return
        await _say(self, answer, ADD)


class SchedulePage(Page):
    """Shows a schedule, and acts on it."""

    async def get(self, name: str) -> None:
        """Answer."""
        parameters.read((), self.query())
        answer = await self.ask(ScheduleRequest(SHOW, name, times=_TIMES))
        row = _row(answer["schedule"])
        await self.show_with_notices(
            "schedule.html",
            row.name,
            row=row,
            when=when(row),
            body=showing.block(row.body, _BODY),
            workitems=workitems_address(row.name),
            here=schedule_address(row.name),
            may_operate=self.rights.may(OPERATOR),
            may_remove=self.rights.may(ADMIN),
            bodies=self.rights.bodies,
        )

    async def post(self, name: str) -> None:
        """Do what the button says."""
        verb = self.get_body_argument("verb", "")
        if verb not in _DONE or verb == ADD:
            raise BadRequest("verb: expected pause, resume, run-now or remove")
        force = self.get_body_argument("force", "") == "yes"
        await _say(self, await self.ask(ScheduleRequest(verb, name, force=force)), verb)


async def _say(page: Page, answer: Mapping[str, Any], verb: str) -> None:
    """Answer with what was done."""
    name = str(answer["schedule"]["name"])
    workitem = str(answer.get("workitem", ""))
    await page.show_with_notices(
        "done.html",
        f"{name} {_DONE[verb]}",
        workitem=workitem,
        workitem_address=showing.workitem_address(workitem, answer["schedule"]["tenant"]),
        back=PATH if verb == REMOVE else schedule_address(name),
    )


def _following(text: str, after: str) -> str:
    """Return the address of the next page; "" after the last one."""
    filled = {"name": text, "after": after} if text else {"after": after}
    return showing.address(PATH, filled) if after else ""


def _row(told: Mapping[str, Any]) -> ScheduleRow:
    return ScheduleRow(**told)


def when(row: ScheduleRow) -> str:
    """Return when a schedule is due, in a few words."""
    if row.cron:
        return f"{row.cron} ({row.timezone})"
    return f"every {duration(row.every)}" + (f" + {duration(row.offset)}" if row.offset else "")


def schedule_address(name: str) -> str:
    """Return the address of the page of a schedule."""
    return f"{PATH}/{quote(name, safe='')}"


def workitems_address(name: str) -> str:
    """Return the address of the workitems of a schedule."""
    return showing.address(WORKITEMS, {"label": f"{LABEL}{name}"})
