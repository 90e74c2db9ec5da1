"""Reading the record for commands: from its directory, or over HTTP. Both return the API's JSON."""

import http.client
import json
import os
import ssl
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from taskqueue.config import MonitorSettings
from taskqueue.errors import ConfigError, ExitStatus, TaskqueueError
from taskqueue.monitor import place
from taskqueue.monitor.store.reading import Record
from taskqueue.monitor.store.sources import LIVE_NAME
from taskqueue.monitor.web import api, parameters, workflows
from taskqueue.monitor.web.api import NeverSeen
from taskqueue.monitor.web.parameters import BadRequest
from taskqueue.monitor.web.rights import ADMIN, NoRight, Rights
from taskqueue.monitor.web.view import View

URL_VARIABLE: Final = "TASKQUEUE_MONITOR"
TOKEN_VARIABLE: Final = "TASKQUEUE_MONITOR_TOKEN"  # noqa: S105 -- a variable's name
_TIMEOUT: Final = 30.0  # seconds for an answer of the web process
_ACTION_TIMEOUT: Final = 330.0  # more than it waits for the recorder
_LARGEST: Final = 256 * 1024 * 1024  # bytes of an answer
_ROUTES: Final = {route.name: route for route in api.ROUTES}

Query = Mapping[str, Sequence[str]]


class NoMonitor(TaskqueueError):
    """No record can be read: no monitor runs, or it cannot be reached."""

    status = ExitStatus.UNAVAILABLE


class NotAllowed(TaskqueueError):
    """The monitor refuses the token, or the user may not read the record."""

    status = ExitStatus.REFUSED


class Reader(Protocol):
    """Reads the record."""

    def ask(self, route: str, query: Query | None = None, **parts: str) -> Any:
        """Return the answer of a route of the API.

        Args:
            route: the name of one of `api.ROUTES`.
            query: the parameters.
            parts: the parts of its path.

        Raises:
            NeverSeen: the record has no such workitem.
            BadRequest: a parameter is not accepted.
            NoMonitor: the monitor cannot be reached.
            NotAllowed: the user or token may not.
        """


class DirectReader:
    """Reads the record in its directory, with all rights: who can read the files may see them."""

    def __init__(self, directory: Path, url: str | None = None) -> None:
        self._view = View(Record(directory, url), Rights("", ADMIN, bodies=True))

    def ask(self, route: str, query: Query | None = None, **parts: str) -> Any:
        """Return the answer of a route; see `Reader`."""
        found = _ROUTES[route]
        return found.answer(self._view, parameters.read(found.parameters, query or {}) | parts)


class HttpReader:
    """Reads the record over HTTP, with a token."""

    def __init__(
        self, url: str, token: str | None, ca_file: str | None = None, named: str = "--monitor"
    ) -> None:
        """Read from a URL with a token.

        named -- the option or variable that has the URL
        ca_file -- has the certificates to trust (PEM); None for the system's
        Raises ConfigError if the URL is none, or the file cannot be used.
        """
        self._url = url
        self._parsed = urllib.parse.urlsplit(url)
        if not _is_address(self._parsed):
            raise ConfigError([f"{named}: expected http://HOST:PORT or https://HOST:PORT, found {url!r}"])
        self._token = token
        self._context = self._trusted(ca_file)

    def _trusted(self, ca_file: str | None) -> ssl.SSLContext | None:
        if self._parsed.scheme != "https":
            if ca_file is not None:
                raise ConfigError(
                    [f"--ca-file: expected a monitor at https://HOST:PORT, found {self._url!r}"]
                )
            return None
        try:
            return ssl.create_default_context(cafile=ca_file)
        except OSError as error:  # ssl.SSLError is one
            reason = "no certificate in PEM format" if isinstance(error, ssl.SSLError) else error.strerror
            raise ConfigError([f"--ca-file {ca_file}: expected certificates, found: {reason}"]) from None

    def ask(self, route: str, query: Query | None = None, **parts: str) -> Any:
        """Return the answer of a route; see `Reader`."""
        quoted = {name: urllib.parse.quote(part, safe="") for name, part in parts.items()}
        path = _ROUTES[route].path.format(**quoted)
        encoded = urllib.parse.urlencode(query or {}, doseq=True)
        return self._request("GET", f"{path}?{encoded}" if encoded else path, None, _TIMEOUT)

    def act(self, action: str, ids: Sequence[str], tenant: str | None = None) -> int:
        """Act on workitems; return their number. Raises as `ask` does.

        action -- one of `api.ACTIONS`
        tenant -- whose they are; None for any
        """
        path = api.ACTION_PATH.format(action=action)
        request = api.ActionRequest(action, tuple(ids), tenant=tenant)
        return int(self._request("POST", path, request.about, _ACTION_TIMEOUT)["count"])

    def workflows(self, limit: int) -> list[dict[str, Any]]:
        """Return the newest workflows that have not ended, as the API has them. Raises as `ask` does."""
        path = f"{workflows.PATH}?open=true&limit={limit}"
        return list(self._request("GET", path, None, _TIMEOUT)["workflows"])

    def _request(self, method: str, path: str, content: Any, timeout: float) -> Any:
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        body = None
        if content is not None:
            body, headers["Content-Type"] = json.dumps(content), "application/json"
        try:
            connection = self._connect(timeout)
            try:
                connection.request(method, api.PREFIX + path, body, headers)
                response = connection.getresponse()
                data = response.read(_LARGEST)
            finally:
                connection.close()
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise NoMonitor(f"the monitor at {self._url} cannot be reached: {_reason(error)}") from None
        return self._content(response.status, data)

    def _connect(self, timeout: float) -> http.client.HTTPConnection:
        host, port = self._parsed.hostname or "", self._parsed.port
        if self._context is not None:
            return http.client.HTTPSConnection(host, port, timeout=timeout, context=self._context)
        return http.client.HTTPConnection(host, port, timeout=timeout)

    def _content(self, status: int, data: bytes) -> Any:
        try:
            content = json.loads(data)
            message = content["error"]["message"] if status != http.HTTPStatus.OK else ""
        except (ValueError, TypeError, KeyError):
            raise NoMonitor(f"what answers at {self._url} is no monitor: status {status}, no JSON") from None
        match status:
            case http.HTTPStatus.OK:
                return content
            case http.HTTPStatus.NOT_FOUND:
                raise NeverSeen(message)
            case http.HTTPStatus.BAD_REQUEST:
                raise BadRequest(message)
            case http.HTTPStatus.UNAUTHORIZED if not self._token:
                raise NotAllowed(
                    f"the monitor at {self._url} needs a token: expected --token-file or {TOKEN_VARIABLE}"
                )
            case http.HTTPStatus.UNAUTHORIZED | http.HTTPStatus.TOO_MANY_REQUESTS:
                raise NotAllowed(f"the monitor at {self._url} refuses the token: {message}")
            case http.HTTPStatus.FORBIDDEN:
                raise NoRight(message)
        raise NoMonitor(f"the monitor at {self._url}: {message}")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}; name the one to trust by --ca-file"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _is_address(parsed: urllib.parse.SplitResult) -> bool:
    try:
        return (
            parsed.scheme in ("http", "https")
            and bool(parsed.hostname)
            and (parsed.port is None or parsed.port > 0)
            and parsed.path in ("", "/")
        )
    except ValueError:  # of the port
        return False


@dataclass(frozen=True, slots=True)
class Access:
    """The way of a command to the record."""

    monitor: str | None = None  # the URL of the web process; None: that of URL_VARIABLE
    token_file: str | None = None
    ca_file: str | None = None  # certificates to trust (PEM); None for the system's

    @property
    def is_remote(self) -> bool:
        """Whether a URL or a token is given, so that the record is read over HTTP."""
        return bool(self._given_url or self.token_file or os.environ.get(TOKEN_VARIABLE))

    @property
    def _given_url(self) -> str | None:
        return self.monitor or os.environ.get(URL_VARIABLE)

    def http(self, settings: MonitorSettings) -> HttpReader:
        """Return what reads over HTTP. Raises ConfigError if the token's file cannot be read."""
        named = "--monitor" if self.monitor else URL_VARIABLE
        return HttpReader(self._given_url or _url(settings), self._token(), self.ca_file, named)

    def reader(self, settings: MonitorSettings) -> Reader:
        """Return what reads the record: over HTTP, if a URL or a token is given, else from its directory.

        Raises:
            ConfigError: the token's file cannot be read, or the URL is none.
            NoMonitor: there is no record.
            NotAllowed: the user may not read it.
        """
        if self.is_remote:
            return self.http(settings)
        directory = place.directory_to_read(settings)
        database = place.database_url(settings, is_reader=True)
        if database is not None:
            return DirectReader(directory, database)
        try:
            with (directory / LIVE_NAME).open("rb"):
                return DirectReader(directory)
        except PermissionError:
            raise NotAllowed(
                f"you cannot read the record in {directory}: use a token (--token-file or {TOKEN_VARIABLE}), "
                f"which reads it from {_url(settings)}"
            ) from None
        except OSError:
            raise NoMonitor(
                f"there is no record in {directory}: start a monitor with `taskqueue monitor`, or everything "
                "with `taskqueue up`, or name one by --monitor URL"
            ) from None

    def _token(self) -> str | None:
        if self.token_file is None:
            return os.environ.get(TOKEN_VARIABLE) or None
        try:
            with Path(self.token_file).open(encoding="ascii", errors="replace") as file:
                return file.readline(1024).strip()
        except OSError as error:
            raise ConfigError([f"token file {self.token_file}: {error.strerror}"]) from None


def _url(settings: MonitorSettings) -> str:
    host, port = place.host_and_port(settings.listen)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 -- compared, not bound
    return place.url("https" if settings.cert_file else "http", host, port)
