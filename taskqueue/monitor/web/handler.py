"""A request: its login, its limits, and its answer in JSON, errors included."""

import json
import math
import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

from tornado.web import HTTPError, RequestHandler

from taskqueue.errors import BadSchedule, ConfigError, RecordDamaged, RecordUnavailable, TaskqueueError
from taskqueue.monitor import asking
from taskqueue.monitor.asking import ActionFailed
from taskqueue.monitor.web import api
from taskqueue.monitor.web.api import NeverSeen
from taskqueue.monitor.web.clients import FORWARDED, behind_proxy, network
from taskqueue.monitor.web.login import Refused
from taskqueue.monitor.web.parameters import BadRequest
from taskqueue.monitor.web.readers import TooSlow
from taskqueue.monitor.web.requests import VerbRequest
from taskqueue.monitor.web.rights import NoRight, Rights
from taskqueue.monitor.web.service import Service
from taskqueue.monitor.web.view import View
from taskqueue.process.logs import Log

_PRIVATE: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

#: The status of an answer to a request that raised; the first class that fits.
_STATUSES: Final[tuple[tuple[type[TaskqueueError], HTTPStatus], ...]] = (
    (BadRequest, HTTPStatus.BAD_REQUEST),
    (BadSchedule, HTTPStatus.BAD_REQUEST),
    (NoRight, HTTPStatus.FORBIDDEN),
    (NeverSeen, HTTPStatus.NOT_FOUND),
    (TooSlow, HTTPStatus.SERVICE_UNAVAILABLE),
    (ActionFailed, HTTPStatus.BAD_GATEWAY),
    (ConfigError, HTTPStatus.SERVICE_UNAVAILABLE),
    (RecordUnavailable, HTTPStatus.SERVICE_UNAVAILABLE),
    (RecordDamaged, HTTPStatus.SERVICE_UNAVAILABLE),
)

_log = Log("monitor")


def pattern(path: str) -> str:
    """Return the regular expression of a path; a part in braces is anything up to the next slash."""
    return re.sub(r"\\\{\w+\\\}", "([^/]+)", re.escape(path)) + "$"


class Handler(RequestHandler):
    """Answers a request in JSON, errors included, after the login."""

    service: Service
    rights: Rights

    def initialize(self, service: Service) -> None:
        """Take what all handlers share."""
        self.service = service

    def set_default_headers(self) -> None:
        """Forbid caching, framing and guessing of types."""
        self.clear_header("Server")
        for name, value in _PRIVATE.items():
            self.set_header(name, value)

    async def prepare(self) -> None:
        """Log the user in. Raises BadRequest for a body of a length that Tornado 6.2 takes for none."""
        length = self.request.headers.get("Content-Length", "0")
        if not (length.isascii() and length.isdecimal()):
            raise BadRequest("Content-Length: expected a number of bytes")
        if self.needs_login:
            self.rights = await self._log_in()

    async def _log_in(self) -> Rights:
        headers, logins = self.request.headers, self.service.logins
        proxy_header = self.settings["proxy_header"]
        if proxy_header is not None and proxy_header in headers:
            return logins.of_proxy(headers[proxy_header])
        return await logins.rights(headers.get("Authorization"), self.client)

    @property
    def client(self) -> str:
        """The address of the client, or its network; that of a proxy's client, if the proxy is trusted."""
        if self.settings["proxy_header"] is not None:
            return network(behind_proxy(self.request.headers.get(FORWARDED))) or "the proxy"
        return network(self.request.remote_ip or "")

    @property
    def needs_login(self) -> bool:
        """Whether the request needs a user."""
        return True

    async def read(self, answer: Callable[[View], Any]) -> Any:
        """Return what `answer` makes of what the user may see; it runs in a thread."""
        rights = self.rights
        return await self.service.readers.read(lambda record: answer(View(record, rights)))

    async def ask(self, request: VerbRequest) -> dict[str, Any]:
        """Return the answer of the scheduler, the pools or a flow process, if the user may ask.

        Raises what `asking.ask_daemons` raises.
        """
        self.rights.need(request.role)
        return await asking.ask_daemons(self.service.actions, self.rights, request)

    def send(self, content: Mapping[str, Any]) -> None:
        """Answer in JSON."""
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(content))

    def json_body(self) -> Any:
        """Return the request's body, which must be JSON. Raises BadRequest."""
        kind = self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # a form of another site cannot send that
            raise BadRequest("Content-Type: expected application/json")
        try:
            return json.loads(self.request.body)
        except (ValueError, RecursionError):
            raise BadRequest("body: expected a JSON object") from None

    def query(self) -> dict[str, list[str]]:
        """Return the query's parameters as texts. Raises HTTPError for what is no UTF-8."""
        return {
            name: [self.decode_argument(value, name) for value in values]
            for name, values in self.request.query_arguments.items()
        }

    def decode_argument(self, value: bytes, name: str | None = None) -> str:
        """Return a parameter, or a part of the path, as text. Raises BadRequest."""
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise BadRequest(f"{'parameter' if name else 'path'}: expected UTF-8") from None

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer with an error: what it is, and what was expected."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        status, message = self.set_failure(status_code, error)
        self.send({"error": {"status": status, "message": message}})

    def set_failure(self, status: int, error: BaseException | None) -> tuple[int, str]:
        """Set the status and headers of an error; return the status and a text.

        status -- of an error that is not ours
        """
        if isinstance(error, Refused):
            status = HTTPStatus.TOO_MANY_REQUESTS if error.wait else HTTPStatus.UNAUTHORIZED
            self.set_header(*_challenge(error))
        elif isinstance(error, TaskqueueError):
            found = (code for kind, code in _STATUSES if isinstance(error, kind))
            status = next(found, HTTPStatus.INTERNAL_SERVER_ERROR)
        self.set_status(status)
        return int(status), str(error) if isinstance(error, TaskqueueError) else _phrase(status)

    def log_exception(self, kind: Any, value: Any, trace: Any) -> None:
        """Log what is a bug of ours."""
        if not isinstance(value, TaskqueueError | HTTPError):
            _log.critical("a bug of ours", exc_info=(kind, value, trace))


def _challenge(error: Refused) -> tuple[str, str]:
    if error.wait:
        return "Retry-After", f"{math.ceil(error.wait)}"
    return "WWW-Authenticate", 'Basic realm="taskqueue monitor", charset="UTF-8"'


def _phrase(status: int) -> str:
    if status == HTTPStatus.NOT_FOUND:
        return f"there is nothing at this path; {api.PREFIX}/openapi.json lists the paths"
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        return "the method is not allowed here"
    return HTTPStatus(status).phrase if status in list(HTTPStatus) else "error"
