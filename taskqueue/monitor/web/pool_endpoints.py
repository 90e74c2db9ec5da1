"""The handlers of the API for pools. Each asks the recorder, which signs a command to all pools."""

from http import HTTPStatus

from tornado.web import HTTPError

from taskqueue.monitor.web import parameters
from taskqueue.monitor.web.handler import Handler
from taskqueue.monitor.web.pools import COMMANDS, SHOW, PoolRequest


class _Asking(Handler):
    """Answers requests about pools."""

    async def answer(self, request: PoolRequest) -> None:
        """Answer with what the pools say, if the user may ask."""
        self.rights.need_all()
        told = await self.ask(request)
        self.send({name: value for name, value in told.items() if name != "count"})


class Pools(_Asking):
    """Tells what the pools do."""

    async def get(self) -> None:
        """Answer."""
        parameters.read((), self.query())
        await self.answer(PoolRequest(SHOW))


class PoolCommand(_Asking):
    """Gives pools a command."""

    async def post(self, command: str) -> None:
        """Do so, and answer with what the pools do then."""
        if command not in COMMANDS:
            raise HTTPError(HTTPStatus.NOT_FOUND)
        parameters.read((), self.query())
        await self.answer(PoolRequest.of(command, self.json_body()))
