"""The handlers of the API for schedules. Each asks the recorder, which asks the scheduler that leads."""

from http import HTTPStatus
from typing import Any

from tornado.web import HTTPError

from taskqueue.monitor.web import parameters, schedules
from taskqueue.monitor.web.handler import Handler
from taskqueue.monitor.web.parameters import BadRequest
from taskqueue.monitor.web.schedules import (
    ADD,
    LIST,
    OPERATIONS,
    REMOVE,
    SHOW,
    ScheduleRequest,
)


class _Asking(Handler):
    """Answers requests about schedules."""

    def send_schedule(self, answer: dict[str, Any], **more: Any) -> None:
        """Answer with a schedule."""
        self.send({"schedule": answer["schedule"], **more})


class Schedules(_Asking):
    """Lists schedules, and adds one."""

    async def get(self) -> None:
        """Answer with schedules by name."""
        values = parameters.read((schedules.TEXT, schedules.AFTER, schedules.LIMIT), self.query())
        answer = await self.ask(ScheduleRequest(LIST, text=values.pop("name", ""), **values))
        self.send({"schedules": answer["schedules"], "next": answer["next"] or None})

    async def post(self) -> None:
        """Add a schedule, and answer with it."""
        parameters.read((), self.query())
        fields = self.json_body()
        if not isinstance(fields, dict):
            raise BadRequest("body: expected a schedule as a JSON object")
        self.send_schedule(await self.ask(ScheduleRequest(ADD, definition=fields)))


class OneSchedule(_Asking):
    """Shows a schedule, and removes it."""

    async def get(self, name: str) -> None:
        """Answer with it."""
        parameters.read((), self.query())
        self.send_schedule(await self.ask(ScheduleRequest(SHOW, name)))

    async def delete(self, name: str) -> None:
        """Remove it, and answer with its last state."""
        force = parameters.read((schedules.FORCE,), self.query()).get("force") == "true"
        self.send_schedule(await self.ask(ScheduleRequest(REMOVE, name, force=force)))


class NextTimes(_Asking):
    """Tells when a schedule is due next."""

    async def get(self, name: str) -> None:
        """Answer with the times."""
        number = parameters.read((schedules.NUMBER,), self.query()).get("number", schedules.SHOWN_TIMES)
        answer = await self.ask(ScheduleRequest(SHOW, name, times=number))
        self.send({"next": answer["schedule"]["next"]})


class ScheduleOperation(_Asking):
    """Pauses or resumes a schedule, or runs it now."""

    async def post(self, name: str, operation: str) -> None:
        """Do so; answer with the schedule, and with the id of the workitem that runs."""
        if operation not in OPERATIONS:
            raise HTTPError(HTTPStatus.NOT_FOUND)
        parameters.read((), self.query())
        answer = await self.ask(ScheduleRequest(operation, name))
        self.send_schedule(answer, workitem=answer.get("workitem"))
