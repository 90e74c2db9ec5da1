"""The workflows: a list with their progress, and a page for each, with its graph and its steps."""

from collections.abc import Mapping
from typing import Any, Final

from taskqueue.monitor.asking import ActionFailed
from taskqueue.monitor.web import parameters
from taskqueue.monitor.web.pages import showing
from taskqueue.monitor.web.pages.graph import graph_html, on_of, state_of
from taskqueue.monitor.web.pages.page import Page
from taskqueue.monitor.web.pages.workitems import PATH as WORKITEMS
from taskqueue.monitor.web.pages.workitems import given
from taskqueue.monitor.web.parameters import BadRequest
from taskqueue.monitor.web.rights import OPERATOR
from taskqueue.monitor.web.workflows import (
    BEFORE,
    FAILED,
    OPEN,
    OPERATIONS,
    PATH,
    StepRow,
    WorkflowRequest,
    WorkflowRow,
    progress,
    workflow_address,
)
from taskqueue.texts import counted
from taskqueue.workflows.wire import LIST, RETRY, SHOW

_ROWS: Final = 50  # of a page


class Workflows(Page):
    """Shows workflows, the newest first."""

    async def get(self) -> None:
        """Answer; while nobody answers for the workflows, the page says why."""
        values = parameters.read((OPEN, BEFORE), given(self.query()))
        is_open = values.get("open") == "true"
        answer: dict[str, Any] = {"workflows": [], "next": ""}
        trouble = ""
        try:
            request = WorkflowRequest(LIST, is_open=is_open, before=values.get("before", ()), limit=_ROWS)
            answer = await self.ask(request)
        except ActionFailed as error:
            trouble = str(error)
        filled = {"open": "true"} if is_open else {}
        following = showing.address(PATH, filled | {"before": answer["next"]}) if answer["next"] else ""
        await self.show_with_notices(
            "workflows.html",
            "Workflows",
            rows=[WorkflowRow(**each) for each in answer["workflows"]],
            following=following,
            is_open=is_open,
            is_first="before" not in values,
            trouble=trouble,
            workflow_address=workflow_address,
            progress=progress,
        )


class WorkflowPage(Page):
    """Shows a workflow, and acts on it."""

    async def get(self, id_: str) -> None:
        """Answer."""
        parameters.read((), self.query())
        shown = values(await self.ask(WorkflowRequest(SHOW, id_)))
        row = shown["row"]
        may_operate = self.rights.may(OPERATOR)
        await self.show_with_notices(
            "workflow.html",
            row.name,
            **shown,
            here=workflow_address(row.id),
            may_cancel=may_operate and row.state == "running",
            may_retry=may_operate and any(row.steps.get(state) for state in FAILED),
        )

    async def post(self, id_: str) -> None:
        """Do what the button says."""
        verb = self.get_body_argument("verb", "")
        if verb not in OPERATIONS:
            raise BadRequest(f"verb: expected one of {', '.join(OPERATIONS)}")
        answer = await self.ask(WorkflowRequest(verb, id_))
        name = showing.line(answer["workflow"]["name"], 100)
        title = f"{name} is cancelled"
        if verb == RETRY:
            title = f"{counted(answer['again'], 'step')} of {name} to run again"
        await self.show_with_notices(
            "done.html", title, workitem="", workitem_address="", back=workflow_address(id_)
        )


def values(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the template of the live part shows of an answer to SHOW."""
    row = WorkflowRow(**answer["workflow"])
    steps = [StepRow(**each) for each in answer["steps"]]
    addresses = {each.step: _address(row.id, each) for each in steps}
    return {
        "row": row,
        "steps": steps,
        "addresses": addresses,
        "picture": graph_html(f"The steps of {row.name}, as the table below has them", steps, addresses),
        "left_out": _left_out(answer),
        "progress": progress(row.steps),
        "state_of": state_of,
        "on_of": on_of,
        "workitems": workitems_address(row.id),
        # Its callbacks run after its end.
        "is_over": row.ended is not None and not any(row.steps.get(state) for state in ("ready", "queued")),
    }


def _left_out(answer: Mapping[str, Any]) -> str:
    """Return what the picture lacks, in words; "" for nothing."""
    counts = {"step": answer["steps_left_out"], "line": answer["edges_left_out"]}
    return " and ".join(counted(count, what) for what, count in counts.items() if count)


def _address(workflow: str, step: StepRow) -> str:
    """Return the address of a step's workitem, or of those of a map's elements."""
    if step.workitem:
        return showing.workitem_address(step.workitem, "")
    return workitems_address(workflow, f"{step.step}[")


def workitems_address(id_: str, step: str = "") -> str:
    """Return the address of the workitems of a workflow; step -- with which their steps' names begin."""
    return showing.address(WORKITEMS, {"id": f"{id_}.{step}"})
