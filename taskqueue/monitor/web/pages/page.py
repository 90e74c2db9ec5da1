"""A page: its login by session, its protection against other sites, its layout and its errors."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, TypeVar
from urllib.parse import quote

from tornado.web import HTTPError

from taskqueue.errors import TaskqueueError
from taskqueue.monitor.web.clients import FORWARDED_PROTO
from taskqueue.monitor.web.handler import Handler
from taskqueue.monitor.web.pages import notices, screens, showing
from taskqueue.monitor.web.rights import NoRight, Rights
from taskqueue.monitor.web.view import View

SESSION_COOKIE: Final = "taskqueue_session"
LOGIN: Final = "/login"
#: The content security policy: a page loads from this site, sends forms to it, and has no script in itself.
_POLICY: Final = "; ".join(
    f"{what} {where}"
    for what, where in {
        "default-src": "'none'",
        "connect-src": "'self'",
        "img-src": "'self'",
        "script-src": "'self'",
        "style-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'self'",
        "frame-ancestors": "'none'",
    }.items()
)
#: A path of this site: a browser takes // and /\ for the begin of another site's address.
_OWN_PATH: Final = re.compile(r"/(?![/\\])[\x21-\x5b\x5d-\x7e]*")
_LONGEST_PATH: Final = 2000  # characters

T = TypeVar("T")


class LoggedOut(TaskqueueError):
    """A page needs a login, and the browser has no valid session."""


@dataclass(frozen=True, slots=True)
class Content:
    """The values of a page, and the notices of the layout."""

    values: Any
    notices: tuple[str, ...]


class Page(Handler):
    """Answers with HTML, errors included.

    The user is that of a proxy, of a header Authorization, or of the session that `LogIn` has begun.
    """

    def set_default_headers(self) -> None:
        """Allow this site's own style, script and forms, and nothing else."""
        super().set_default_headers()
        self.set_header("Content-Security-Policy", _POLICY)
        self.set_header("Cross-Origin-Opener-Policy", "same-origin")

    def set_cookie(self, name: str, value: str | bytes, *args: Any, **settings: Any) -> None:
        """Set a cookie; for HTTPS alone if the trusted proxy says that the browser speaks that."""
        is_proxy = self.settings["proxy_header"] is not None
        if is_proxy and self.request.headers.get(FORWARDED_PROTO, "").strip().lower() == "https":
            settings["secure"] = True
        super().set_cookie(name, value, *args, **settings)

    async def prepare(self) -> None:
        """Refuse forms of other sites, then log in."""
        if self.request.method not in ("GET", "HEAD"):
            self._check_form()
        await super().prepare()

    def _check_form(self) -> None:
        try:
            self.check_xsrf_cookie()
        except HTTPError:
            raise NoRight("this form is out of date: go back, reload the page and send it again") from None

    async def _log_in(self) -> Rights:
        proxy_header = self.settings["proxy_header"]
        headers = self.request.headers
        if "Authorization" in headers or (proxy_header is not None and proxy_header in headers):
            return await super()._log_in()
        account = self.service.sessions.account(self.get_cookie(SESSION_COOKIE) or "")
        if account is None or not self.service.logins.is_valid(account):
            raise LoggedOut("log in to see this page")
        return account.rights

    async def make(self, template: str, title: str, values: Callable[[View], Mapping[str, Any]]) -> None:
        """Answer with a page of what the user may see.

        Args:
            template: the file.
            title: the heading.
            values: returns the template's names; it runs in a thread.
        """
        content = await self.read(lambda view: Content(values(view), notices.notices(view)))
        self.show(template, title, content.notices, **content.values)

    async def show_with_notices(self, template: str, title: str, **values: Any) -> None:
        """Answer with a page, as `make` does, whose values are not of the record."""
        self.show(template, title, await self.read(notices.notices), **values)

    def show(self, template: str, title: str, said: tuple[str, ...] = (), **values: Any) -> None:
        """Answer with a page.

        Args:
            template: the file.
            title: the heading.
            said: what the layout says above it.
            values: the template's other names.
        """
        rights = self.rights if hasattr(self, "rights") else None
        layout = {
            "title": title,
            "notices": said,
            "rights": rights,
            "screens": screens.of(rights) if rights else (),
            "has_session": bool(self.get_cookie(SESSION_COOKIE)),
            "path": self.request.path,
            "show": showing,
        }
        self.set_header("Content-Type", "text/html; charset=UTF-8")
        self.finish(self.render_string(template, **layout, **values))

    def send_file(self, name: str, content: bytes) -> None:
        """Answer with bytes that browsers save and never show."""
        self.set_header("Content-Type", "application/octet-stream")
        self.set_header("Content-Disposition", f'attachment; filename="{name}"')
        self.finish(content)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer with a page that says what is wrong; who is logged out is sent to the login."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(error, LoggedOut):
            self._send_to_login()
            return
        status, text = self.set_failure(status_code, error)
        title = HTTPStatus(status).phrase if status in list(HTTPStatus) else "Error"
        self.show("error.html", title, text=text)

    def _send_to_login(self) -> None:
        came_for = self.request.uri or "/"
        is_worth_it = self.request.method == "GET" and came_for != "/"
        self.redirect(f"{LOGIN}?next={quote(came_for, safe='')}" if is_worth_it else LOGIN, status=303)


def own_path(text: str) -> str:
    """Return a path of this site that a request has named; / for what is none."""
    return text if len(text) <= _LONGEST_PATH and _OWN_PATH.fullmatch(text) else "/"


class NotFound(Page):
    """Answers browsers' requests for a path that does not exist."""

    async def prepare(self) -> None:
        """Log the user in; then there is nothing."""
        await super().prepare()
        raise HTTPError(HTTPStatus.NOT_FOUND)
