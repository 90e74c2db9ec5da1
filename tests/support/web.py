"""The web process of the monitor as a real process, and requests to it by http.client."""

import base64
import contextlib
import http.client
import json
import re
import socket
import sys
from collections.abc import Callable, Iterator
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

from support.processes import Daemon

_SERVE = """
import sys
from dataclasses import replace
from http.cookies import SimpleCookie
from pathlib import Path
from taskqueue.config import LoggingSettings, MonitorSettings
from taskqueue.monitor.web.listening import listen_for_proxy
from taskqueue.monitor.web.server import serve
from taskqueue.monitor.web.service import WebSettings
from taskqueue.monitor.web.tls import server_context
from taskqueue.process import logs
logs.set_up(LoggingSettings(), "web")
settings = WebSettings(Path(sys.argv[1]), token=sys.argv[2] or None, deadline=float(sys.argv[3]))
monitor = MonitorSettings(cert_file=sys.argv[4] or None)
proxy = listen_for_proxy(sys.argv[5]) if sys.argv[5] else None
settings = replace(settings, proxy_header="X-Remote-User" if proxy else None)
sys.exit(serve(settings, tls=server_context(monitor), proxy=proxy))
"""


class Answer(NamedTuple):
    """An answer of the web process."""

    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def error(self) -> str:
        message: str = self.json["error"]["message"]
        return message


def basic(name: str, password: str) -> str:
    """Return the header of a user (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


class Web:
    """A web process that serves a record."""

    def __init__(
        self,
        daemon: Callable[[list[str]], Daemon],
        record: Path,
        token: str = "",
        deadline: float = 10,
        *,
        certificate: Path | None = None,
        proxy: Path | None = None,
    ) -> None:
        """Start it.

        certificate: with its key in the same file, for HTTPS
        proxy: the socket of a proxy, which names the user in X-Remote-User
        """
        options = [str(record), token, str(deadline), str(certificate or ""), str(proxy or "")]
        self.daemon = daemon([sys.executable, "-c", _SERVE, *options])
        self.scheme = "https" if certificate else "http"
        self.daemon.wait_for(f"serves at {self.scheme}://")
        found = re.search(r"serves at https?://127\.0\.0\.1:([0-9]+)", self.daemon.output())
        assert found
        self.port = int(found[1])
        self.token = token

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def get(self, path: str, login: str | None = None, method: str = "GET") -> Answer:
        """Request a path; login -- the header Authorization; None for that of the token, "" for none."""
        return self.request(method, path, login=login)

    def post(
        self, path: str, content: Any, login: str | None = None, kind: str = "application/json"
    ) -> Answer:
        """Post a value as JSON."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        return self.request("POST", path, body, {"Content-Type": kind}, login=login)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        *,
        login: str | None = None,
    ) -> Answer:
        login = f"Bearer {self.token}" if login is None and self.token else login
        sent = {**(headers or {}), **({"Authorization": login} if login else {})}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            if cookies := response.headers.get_all("Set-Cookie"):
                names["set-cookie"] = "; ".join(cookies)
            return Answer(response.status, names, response.read())
        finally:
            connection.close()

    def raw(self, data: bytes) -> bytes:
        """Send bytes; return what comes until the server closes the connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as sock:
            received = b""
            try:
                sock.sendall(data)
                while part := sock.recv(65_536):
                    received += part
            except ConnectionError:
                pass
            return received


@contextlib.contextmanager
def serving(record: Path, output: Path, token: str = "") -> Iterator[Web]:
    """Serve a record for the tests of a module.

    output -- the directory of what the process prints
    """
    web = Web(lambda command: Daemon(command, output), record, token)
    yield web
    web.daemon.clean_up()


class Browser:
    """A browser without a script: it keeps cookies and sends forms with their hidden fields."""

    def __init__(self, web: Web, headers: dict[str, str] | None = None) -> None:
        self.web = web
        self.cookies: dict[str, str] = {}
        self._headers = {"Accept": "text/html,*/*;q=0.8", **(headers or {})}

    def get(self, path: str) -> Answer:
        """Request a page."""
        return self._request("GET", path)

    def follow(self, answer: Answer) -> Answer:
        """Go where a redirection leads."""
        assert answer.status == 303, answer
        return self.get(answer.headers["location"])

    def post(self, path: str, fields: dict[str, Any], *, on: str | Answer = "/login") -> Answer:
        """Send a form.

        on: the page that has the form, with the token against other sites
        """
        page = on if isinstance(on, Answer) else self.get(on)
        found = re.search(r'name="_xsrf" value="([^"]+)"', page.text)
        assert found, page.text
        return self.send(path, {"_xsrf": found[1], **fields})

    def send(self, path: str, fields: dict[str, Any]) -> Answer:
        """Send a form as it is."""
        body = urlencode(fields, doseq=True).encode()
        return self._request("POST", path, body, {"Content-Type": "application/x-www-form-urlencoded"})

    def log_in(self, name: str, password: str, following: str = "/") -> Answer:
        return self.post("/login", {"name": name, "password": password, "next": following})

    def _request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        sent = {**self._headers, **(headers or {})}
        if self.cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        answer = self.web.request(method, path, body, sent, login="")
        for name, morsel in SimpleCookie(answer.headers.get("set-cookie", "")).items():
            self.cookies[name] = morsel.value
            if not morsel.value:
                del self.cookies[name]
        return answer
