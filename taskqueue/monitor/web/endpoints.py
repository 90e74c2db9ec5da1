"""The handlers of the API, the metrics and the probe, and their paths."""

import re
import time
from http import HTTPStatus
from typing import Any

from tornado.web import HTTPError

from taskqueue.errors import RecordDamaged, RecordUnavailable
from taskqueue.monitor import asking
from taskqueue.monitor.web import api, openapi, parameters, pools, schedules, workflows
from taskqueue.monitor.web.api import Route
from taskqueue.monitor.web.handler import Handler, pattern
from taskqueue.monitor.web.pool_endpoints import PoolCommand, Pools
from taskqueue.monitor.web.readers import TooSlow
from taskqueue.monitor.web.rights import OWN_RIGHTS
from taskqueue.monitor.web.schedule_endpoints import NextTimes, OneSchedule, ScheduleOperation, Schedules
from taskqueue.monitor.web.service import Service
from taskqueue.monitor.web.workflow_endpoints import OneWorkflow, WorkflowOperation, Workflows


class Nothing(Handler):
    """Answers requests for a path that does not exist."""

    async def prepare(self) -> None:
        """Log the user in; then there is nothing."""
        await super().prepare()
        raise HTTPError(HTTPStatus.NOT_FOUND)


class Reading(Handler):
    """Answers the routes of `api.ROUTES`."""

    route: Route

    def initialize(self, service: Service, route: Route) -> None:  # type: ignore[override]
        """Take the route."""
        super().initialize(service)
        self.route = route

    async def get(self, *parts: str) -> None:
        """Answer."""
        self.rights.need(self.route.role)
        values = parameters.read(self.route.parameters, self.query())
        names = re.findall(r"\{(\w+)\}", self.route.path)
        values |= dict(zip(names, parts, strict=True))
        self.send(await self.read(lambda view: self.route.answer(view, values)))


class Acting(Handler):
    """Answers requests for actions, which the recorder performs."""

    async def post(self, action: str) -> None:
        """Act, and answer with the number of workitems."""
        self.rights.need(api.ACTION_ROLE)
        parameters.read((), self.query())
        request = api.action_of(action, self.json_body())
        if request.wanted is not None and request.wanted.body_text:
            self.rights.need_bodies()
        count = await asking.ask(self.service.actions, self.rights, request)
        self.send({"action": action, "count": count, "dry_run": request.dry_run})


class Document(Handler):
    """Answers with the OpenAPI document."""

    def get(self) -> None:
        """Answer."""
        self.send(openapi.document())


class Exposition(Handler):
    """Answers with the metrics for Prometheus."""

    async def get(self) -> None:
        """Answer."""
        self.rights.need_all()
        text, kind = await self.read(lambda view: self.service.metrics.expose(view, time.time()))
        self.set_header("Content-Type", kind)
        self.finish(text)


class Health(Handler):
    """Answers whether the record can be read."""

    @property
    def needs_login(self) -> bool:
        """No: it tells nothing."""
        return False

    async def get(self) -> None:
        """Answer."""
        self.rights = OWN_RIGHTS
        try:
            await self.read(lambda view: view.began_at())
        except (RecordUnavailable, RecordDamaged):  # whose text has paths, which are nobody's business
            raise TooSlow("the record cannot be read; the API says why") from None
        self.send({"status": "ok"})


# --- the paths ---


def routes(service: Service) -> list[Any]:
    """Return the paths and their handlers, as Tornado takes them."""
    reading: list[Any] = [
        (pattern(api.PREFIX + route.path), Reading, {"service": service, "route": route})
        for route in api.ROUTES
    ]
    others = (
        (api.PREFIX + api.ACTION_PATH, Acting),
        (api.PREFIX + schedules.PATH, Schedules),
        (api.PREFIX + schedules.ONE_PATH, OneSchedule),
        (api.PREFIX + schedules.NEXT_PATH, NextTimes),
        (api.PREFIX + schedules.OPERATION_PATH, ScheduleOperation),
        (api.PREFIX + pools.PATH, Pools),
        (api.PREFIX + pools.COMMAND_PATH, PoolCommand),
        (api.PREFIX + workflows.PATH, Workflows),
        (api.PREFIX + workflows.ONE_PATH, OneWorkflow),
        (api.PREFIX + workflows.OPERATION_PATH, WorkflowOperation),
        (f"{api.PREFIX}/openapi.json", Document),
        ("/metrics", Exposition),
        ("/healthz", Health),
    )
    return reading + [(pattern(path), handler, {"service": service}) for path, handler in others]
