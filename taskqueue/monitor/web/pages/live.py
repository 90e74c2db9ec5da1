"""Parts of pages that follow the record, as server-sent events (WHATWG HTML, section 9.2)."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from tornado.iostream import StreamClosedError
from tornado.template import Loader

from taskqueue.errors import TaskqueueError
from taskqueue.monitor.web import parameters
from taskqueue.monitor.web.hub import Make, Part, Stream
from taskqueue.monitor.web.pages import notices, overview, running, showing, static, workitem
from taskqueue.monitor.web.pages.page import Page
from taskqueue.monitor.web.view import View

#: The address of the notices alone.
NOTICES: Final = "/live/notices"
_HEARTBEAT: Final = 15.0  # seconds after which a quiet stream says that it lives
_LONGEST: Final = 600.0  # seconds of a stream; the browser then asks for a new one
_templates: Final = Loader(str(static.TEMPLATES))


class Live(Page):
    """Answers with a stream of a part of a page."""

    async def follow(self, template: str, values: Callable[[View], Mapping[str, Any]]) -> None:
        """Send the part and the notices whenever they change, until the browser goes or the rights change.

        template -- of the part; "" for the notices alone
        """
        rights = replace(self.rights, user="")
        parts = {Part(NOTICES, rights, "notices"): _maker("notices.html", _notices)}
        if template:
            parts[Part(self.request.uri or "", rights)] = _maker(template, values)
        with self.service.hub.stream(parts) as stream, contextlib.suppress(StreamClosedError):
            self.set_header("Content-Type", "text/event-stream")
            self.set_header("X-Accel-Buffering", "no")  # nginx would wait for more
            await self.flush()
            await self._send(stream)

    async def _send(self, stream: Stream) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + _LONGEST
        while loop.time() < until and await self._has_rights():
            messages = await stream.take(_HEARTBEAT)
            if messages is None:
                return
            self.write(messages or ": nothing new\n\n")
            await self.flush()

    async def _has_rights(self) -> bool:
        try:
            return await self._log_in() == self.rights
        except TaskqueueError:
            return False


def _maker(template: str, values: Callable[[View], Mapping[str, Any]]) -> Make:
    def make(view: View) -> str:
        return _templates.load(template).generate(show=showing, **values(view)).decode()

    return make


def _notices(view: View) -> Mapping[str, Any]:
    return {"notices": notices.notices(view)}


class LiveNotices(Live):
    """Follows the notices, for pages without another live part."""

    async def get(self) -> None:
        """Answer."""
        await self.follow("", _notices)


class LiveRunning(Live):
    """Follows the workitems that run."""

    async def get(self) -> None:
        """Answer."""
        await self.follow("running_live.html", running.values)


class LiveOverview(Live):
    """Follows the overview."""

    async def get(self) -> None:
        """Answer."""
        reach = overview.reach_of(self.query())
        await self.follow("overview_live.html", lambda view: overview.values(view, reach))


class LiveWorkitem(Live):
    """Follows a workitem."""

    async def get(self, id_: str) -> None:
        """Answer."""
        tenant = parameters.read((workitem.TENANT,), self.query()).get("tenant")
        await self.read(lambda view: workitem.found(view, id_, tenant))
        await self.follow("workitem_live.html", lambda view: workitem.values(view, id_, tenant))
