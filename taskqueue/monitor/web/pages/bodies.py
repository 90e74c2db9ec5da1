"""The message of a failed or rejected workitem: its headers, its body, and a retry with an edited one."""

import json

from taskqueue.messages.content import JSON, media_type
from taskqueue.monitor import asking
from taskqueue.monitor.web import api, parameters
from taskqueue.monitor.web.bodies import EDIT, READ, BodyAnswer, BodyRequest, check_size
from taskqueue.monitor.web.pages import showing
from taskqueue.monitor.web.pages.page import Page
from taskqueue.monitor.web.pages.workitem import TENANT, found, is_whole
from taskqueue.monitor.web.parameters import BadRequest


class WorkitemBody(Page):
    """Answers with the body as a file."""

    async def get(self, id_: str) -> None:
        """Answer with the broker's message of a dead letter, else with a body that is recorded as a whole."""
        self.rights.need_bodies()
        details = await self.read(lambda view: found(view, id_, self.tenant))
        is_letter = details.workitem.state in api.CONCERNED["retry"]
        if is_letter and self.rights.may(api.ACTION_ROLE):
            self.send_file("body", (await self.read_message(id_)).body)
        elif is_whole(details.workitem):
            self.send_file("body", details.workitem.head.encode())
        else:
            raise BadRequest("only the beginning of this body is recorded")

    async def read_message(self, id_: str) -> BodyAnswer:
        """Return the body, its content type and the headers."""
        self._need()
        return await self._ask(BodyRequest(READ, id_, self.tenant))

    def _need(self) -> None:
        self.rights.need(api.ACTION_ROLE)
        self.rights.need_bodies()

    @property
    def tenant(self) -> str | None:
        """Whose workitem it is; None for the newest of the id."""
        tenant: str | None = parameters.read((TENANT,), self.query()).get("tenant")
        return tenant

    async def _ask(self, request: BodyRequest) -> BodyAnswer:
        return await asking.ask_body(self.service.actions, self.rights, request)


class WorkitemMessage(WorkitemBody):
    """Shows the properties and headers of the message that the broker has."""

    async def get(self, id_: str) -> None:
        """Answer."""
        message = await self.read_message(id_)
        back = showing.workitem_address(id_, self.tenant or "")
        self.show("message.html", f"Headers of {id_}", message=message, back=back)


class EditedRetry(WorkitemBody):
    """Shows the body in a form, and retries the workitem with what the form has."""

    async def get(self, id_: str) -> None:
        """Show the form."""
        message = await self.read_message(id_)
        check_size(message.body)
        try:
            text = message.body.decode()
        except UnicodeDecodeError:
            raise BadRequest("this body is no text: download it, and submit another one") from None
        back = showing.workitem_address(id_, self.tenant or "")
        kind, size = message.content_type, len(message.body)
        title = f"Retry {id_} with another body"
        self.show("edit.html", title, text=text, kind=kind, back=back, size=size)

    async def post(self, id_: str) -> None:
        """Retry."""
        self._need()
        kind, text = (self.decode_argument(self._field(name), name) for name in ("kind", "body"))
        body = text.replace("\r\n", "\n").encode()  # browsers send line ends so
        check_size(body)
        if media_type(kind or JSON) == JSON:
            _check_json(text)
        count = (await self._ask(BodyRequest(EDIT, id_, self.tenant, body))).count
        title = f"{showing.number(count)} workitem{'' if count == 1 else 's'} sent back with another body"
        self.show("acted.html", title, back=showing.workitem_address(id_, self.tenant or ""))

    def _field(self, name: str) -> bytes:
        return next(iter(self.request.body_arguments.get(name, ())), b"")


def _check_json(text: str) -> None:
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"body: expected JSON, as the content type says; {error}") from None
