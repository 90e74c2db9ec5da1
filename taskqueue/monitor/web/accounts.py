"""Changes of the users and tokens: the web process cannot write their file, so it asks the recorder."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Final

from taskqueue.monitor.web import users
from taskqueue.monitor.web.parameters import BadRequest
from taskqueue.monitor.web.rights import ADMIN, NoRight, Rights
from taskqueue.monitor.web.users import Account, UserError, UserFile

ADD, REMOVE, PASSWORD = "add account", "remove account", "change password"
CHANGES: Final = (ADD, REMOVE, PASSWORD)


@dataclass(frozen=True, slots=True)
class AccountRequest:
    """A change: an account is added, the one of a name and kind is removed, or a user's password replaced."""

    action: str  # one of CHANGES
    name: str
    is_token: bool
    account: Account | None = None  # that is added, or has the new password
    old: str = field(default="", repr=False)  # the old password, of a user who changes it

    #: Changes are not counted before they are made.
    dry_run: ClassVar[bool] = False

    def plain(self) -> dict[str, Any]:
        """Return the members of the request, as `account_request_of` reads them."""
        if self.account is not None:
            return {"account": users.plain_of(self.account), "old": self.old}
        return {"name": self.name, "is_token": self.is_token}

    @property
    def audit_action(self) -> str:
        """The action in words."""
        if self.action == PASSWORD:
            return f"change password of {self.name}"
        return f"{self.action.partition(' ')[0]} {'token' if self.is_token else 'user'} {self.name}"

    @property
    def about(self) -> str:
        """The account's rights as JSON, for the audit."""
        return json.dumps({"name": self.name} if self.account is None else users.listed(self.account))


def account_request_of(action: str, content: Mapping[str, Any]) -> AccountRequest:
    """Return the change of a request's members. Raises BadRequest."""
    try:
        if action in (ADD, PASSWORD):
            account = users.account_of(content["account"])
            return AccountRequest(
                action, account.name, account.is_token, account, str(content.get("old", ""))
            )
        return AccountRequest(action, str(content["name"])[:255], content["is_token"] is True)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise BadRequest("expected an account, or name and is_token") from None


def change(file: UserFile, rights: Rights, request: AccountRequest) -> None:
    """Change a user's own password; or add or remove an account for an admin who sees all workitems.

    Raises:
        NoRight: the user is no such admin, would grant more than it has, or would remove itself.
        BadRequest: the name is taken, there is no such account, or the old password is wrong.
        ConfigError: the file cannot be written.
    """
    if request.action == PASSWORD and request.account is not None:
        _change_password(file, rights, request.account, request.old)
        return
    rights.need(ADMIN)
    rights.need_all()
    try:
        if request.account is not None:
            if request.account.rights.bodies:
                _check_bodies(rights)
            users.check(request.account.rights)
            file.add(request.account)
        elif request.name == rights.user:
            raise NoRight("you cannot remove yourself: ask another admin")
        else:
            file.remove(request.name, is_token=request.is_token)
    except UserError as error:
        raise BadRequest(str(error)) from None


def _change_password(file: UserFile, rights: Rights, new: Account, old: str) -> None:
    if new.name != rights.user:
        raise NoRight("you can change only your own password")
    if new.is_token or not new.hash:
        raise BadRequest("expected a user with a password")
    found = file.read().with_password(new.name, old)
    if found is None:
        raise BadRequest("the old password is wrong")
    file.replace(found, replace(found, hash=new.hash, salt=new.salt, cost=new.cost))


def _check_bodies(rights: Rights) -> None:
    if not rights.bodies:
        raise NoRight(f"user {rights.user!r} may not see bodies, so cannot let others see them")
