"""The handlers of the API for workflows. Each asks the recorder, which asks the flow process that leads."""

from http import HTTPStatus

from tornado.web import HTTPError

from taskqueue.monitor.web import parameters, workflows
from taskqueue.monitor.web.handler import Handler
from taskqueue.monitor.web.workflows import OPERATIONS, WorkflowRequest
from taskqueue.workflows.wire import LIST, SHOW


class Workflows(Handler):
    """Lists workflows."""

    async def get(self) -> None:
        """Answer with workflows, the newest first."""
        known = (workflows.OPEN, workflows.BEFORE, workflows.LIMIT)
        values = parameters.read(known, self.query())
        is_open = values.pop("open", "") == "true"
        answer = await self.ask(WorkflowRequest(LIST, is_open=is_open, **values))
        self.send({"workflows": answer["workflows"], "next": answer["next"] or None})


class OneWorkflow(Handler):
    """Shows a workflow."""

    async def get(self, id_: str) -> None:
        """Answer with it and its steps."""
        parameters.read((), self.query())
        answer = await self.ask(WorkflowRequest(SHOW, id_))
        members = "workflow", "steps", "steps_left_out", "edges_left_out"
        self.send({name: answer[name] for name in members})


class WorkflowOperation(Handler):
    """Cancels a workflow, or runs again what has failed."""

    async def post(self, id_: str, operation: str) -> None:
        """Do so; answer with the workflow, and with the number of steps that run again."""
        if operation not in OPERATIONS:
            raise HTTPError(HTTPStatus.NOT_FOUND)
        parameters.read((), self.query())
        answer = await self.ask(WorkflowRequest(operation, id_))
        self.send({"workflow": answer["workflow"], "again": answer["again"]})
