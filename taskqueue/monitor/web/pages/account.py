"""The user's own rights; for admins, all users and tokens, which they add and remove."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final

from taskqueue.monitor.asking import ask_change
from taskqueue.monitor.web import users
from taskqueue.monitor.web.accounts import ADD, PASSWORD, REMOVE, AccountRequest
from taskqueue.monitor.web.login import Refused
from taskqueue.monitor.web.pages.page import SESSION_COOKIE, Page
from taskqueue.monitor.web.parameters import BadRequest
from taskqueue.monitor.web.rights import ADMIN, ROLES, Rights
from taskqueue.monitor.web.users import Account, UserError

PATH: Final = "/account"
_TOKEN: Final = "token"  # noqa: S105 -- the kind of an account
_MOST: Final = 300  # accounts on the page


class AccountPage(Page):
    """Shows the user, and changes accounts."""

    def get(self) -> None:
        """Answer."""
        self._show()

    async def post(self) -> None:
        """Add or remove an account; the secret of a new token is shown once."""
        if self.get_body_argument("change", "") == "password":
            await self._change_password()
            return
        self.rights.need(ADMIN)
        self.rights.need_all()
        is_token = self.get_body_argument("kind", "") == _TOKEN
        name = self.get_body_argument("name", "")
        if self.get_body_argument("change", "") == "remove":
            await self._change(AccountRequest(REMOVE, name, is_token))
            self.redirect(PATH, status=303)
            return
        account, secret = await self._new(name, is_token=is_token)
        await self._change(AccountRequest(ADD, name, is_token, account))
        if is_token:
            self._show(name, secret)
        else:
            self.redirect(PATH, status=303)

    async def _change_password(self) -> None:
        """Replace the user's own password; all its sessions end, and this browser gets a new one."""
        old, new, again = (
            self.get_body_argument(name, "", strip=False) for name in ("old", "password", "again")
        )
        if not self._has_password:
            raise BadRequest("you did not log in with a password")
        if new != again:
            raise BadRequest("the two new passwords differ: go back and type them again")
        name = self.rights.user
        try:
            await self.service.logins.account(name, old, self.client)
            account = await asyncio.to_thread(partial(users.user, self.rights, new))
        except (Refused, UserError) as error:
            raise BadRequest(str(error)) from None
        await self._change(AccountRequest(PASSWORD, name, is_token=False, account=account, old=old))
        self.service.sessions.end(self.get_cookie(SESSION_COOKIE) or "")
        secret = self.service.sessions.begin(self.service.users.read().by_name[name])
        self.set_cookie(SESSION_COOKIE, secret, **self.settings["cookies"])
        self.show("changed.html", "Your password is changed", back=PATH)

    @property
    def _has_password(self) -> bool:
        account = self.service.users.read().by_name.get(self.rights.user)
        return account is not None and not account.is_token and bool(account.hash)

    async def _change(self, request: AccountRequest) -> None:
        await ask_change(self.service.actions, self.rights, request)

    async def _new(self, name: str, *, is_token: bool) -> tuple[Account, str]:
        """Return the account that the form describes, and the secret of a token."""
        rights = self._granted(name)
        try:
            if is_token:
                return users.token(rights)
            password = self.get_body_argument("password", "", strip=False) or None
            return await asyncio.to_thread(partial(users.user, rights, password)), ""
        except UserError as error:
            raise BadRequest(str(error)) from None

    def _granted(self, name: str) -> Rights:
        role = self.get_body_argument("role", "")
        if role not in ROLES:
            raise BadRequest(f"role: expected one of {', '.join(ROLES)}")
        bodies = self.get_body_argument("bodies", "") == "yes"
        return Rights(name, role, frozenset(self._lines("tenants")), tuple(self._lines("types")), bodies)

    def _lines(self, field: str) -> Sequence[str]:
        lines = map(str.strip, self.get_body_argument(field, "").splitlines())
        return tuple(dict.fromkeys(line for line in lines if line))

    def _show(self, name: str = "", secret: str = "") -> None:
        """Answer with the page; name and secret -- of a new token."""
        is_admin = self.rights.may(ADMIN) and not self.rights.is_limited
        accounts = list(self.service.users.read().by_name.values()) if is_admin else []
        self.show(
            "account.html",
            "Account",
            is_admin=is_admin,
            has_password=self._has_password,
            accounts=accounts[:_MOST],
            more=max(0, len(accounts) - _MOST),
            roles=ROLES,
            new_name=name,
            secret=secret,
        )
