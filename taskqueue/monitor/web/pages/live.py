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
from taskqueue.monitor.web.hub import Make, Part, Stream, message_of
from taskqueue.monitor.web.pages import notices, overview, running, showing, static, workflows, workitem
from taskqueue.monitor.web.pages.page import Page
from taskqueue.monitor.web.view import View
from taskqueue.monitor.web.workflows import WorkflowRequest
from taskqueue.workflows.wire import SHOW

#: The address of the notices alone.
NOTICES: Final = "/live/notices"
_HEARTBEAT: Final = 15.0  # seconds after which a quiet stream says that it lives
_ASK_DELAY: Final = 2.0  # seconds between two questions to a flow process
_ASKING: Final = 0.1  # of the time is spent on questions, at most
_LONGEST: Final = 600.0  # seconds of a stream; the browser then asks for a new one
_templates: Final = Loader(str(static.TEMPLATES))


class Live(Page):
    """Answers with a stream of a part of a page."""

    async def follow(self, template: str, values: Callable[[View], Mapping[str, Any]]) -> None:
        """Send the part and the notices whenever they change, until the browser goes or the rights change.

        template -- of the part; "" for the notices alone
        """
        rights = replace(self.rights, user="")
        part = Part(self.request.uri or "", rights)
        with self.stream({part: _maker(template, values)} if template else {}) as stream:
            await self.send_all(stream)

    def stream(self, parts: Mapping[Part, Make]) -> contextlib.AbstractContextManager[Stream]:
        """Give a stream of some parts, and of the notices. Raises TooSlow if there are too many."""
        of_notices = Part(NOTICES, replace(self.rights, user=""), "notices")
        return self.service.hub.stream({of_notices: _maker("notices.html", _notices), **parts})

    async def send_all(self, stream: Stream) -> None:
        """Answer with the messages of a stream, until the browser goes or the rights change."""
        with contextlib.suppress(StreamClosedError):
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


class LiveWorkflow(Live):
    """Follows a workflow, of which a flow process tells; each stream asks for itself."""

    async def get(self, id_: str) -> None:
        """Answer."""
        parameters.read((), self.query())
        first = await self._part(id_)
        with self.stream({}) as stream:
            stream.put(id_, message_of(first))
            asking = asyncio.create_task(self._ask_again(stream, id_, first))
            try:
                await self.send_all(stream)
            finally:
                asking.cancel()

    async def _part(self, id_: str) -> str:
        answer = await self.ask(WorkflowRequest(SHOW, id_))
        shown = workflows.values(answer)
        return _templates.load("workflow_live.html").generate(show=showing, **shown).decode()

    async def _ask_again(self, stream: Stream, id_: str, last: str) -> None:
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            with contextlib.suppress(TaskqueueError):  # a flow process may answer later
                html = await self._part(id_)
                if html != last:
                    last = html
                    stream.put(id_, message_of(html))
            await asyncio.sleep(max(_ASK_DELAY, (loop.time() - begun) / _ASKING))


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
