"""Logging in and out with a browser."""

from taskqueue.monitor.web.login import Refused
from taskqueue.monitor.web.pages.page import LOGIN, SESSION_COOKIE, Page, own_path
from taskqueue.monitor.web.users import Account


class LogIn(Page):
    """Shows the form, and begins a session."""

    @property
    def needs_login(self) -> bool:
        """No: it is the login."""
        return False

    def get(self) -> None:
        """Show the form; the address that `taskqueue up` prints has its token, and logs in at once."""
        following = own_path(self.get_query_argument("next", "/"))
        own = self.service.logins.own_account(self.get_query_argument("token", ""))
        if own is not None:
            self._begin(own, following)
            return
        self._show_form("", following)

    async def post(self) -> None:
        """Log in."""
        name, password = (
            self.get_body_argument("name", ""),
            self.get_body_argument("password", "", strip=False),
        )
        following = own_path(self.get_body_argument("next", "/"))
        try:
            account = await self.service.logins.account(name, password, self.client)
        except Refused as error:
            self.set_failure(401, error)
            self.clear_header("WWW-Authenticate")  # the form asks, and not the browser
            self._show_form(str(error), following, name)
            return
        self._begin(account, following)

    def _begin(self, account: Account, following: str) -> None:
        self._forget()
        secret = self.service.sessions.begin(account)
        self.set_cookie(SESSION_COOKIE, secret, **self.settings["cookies"])
        self.redirect(following, status=303)

    def _show_form(self, problem: str, following: str, name: str = "") -> None:
        self.show("login.html", "Log in", problem=problem, following=following, name=name)

    def _forget(self) -> None:
        self.service.sessions.end(self.get_cookie(SESSION_COOKIE) or "")


class LogOut(LogIn):
    """Ends the session."""

    def get(self) -> None:
        """Go to the login: only a form logs out."""
        self.redirect(LOGIN, status=303)

    async def post(self) -> None:
        """Log out."""
        self._forget()
        self.clear_cookie(SESSION_COOKIE)
        self.redirect(LOGIN, status=303)
