"""Logging in to the monitor: HTTP Basic for users, bearer tokens for programs."""

import asyncio
import base64
import binascii
import hashlib
import math
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from taskqueue.errors import TaskqueueError
from taskqueue.monitor.web.rights import NoRight, Rights
from taskqueue.monitor.web.throttle import Throttle
from taskqueue.monitor.web.users import LONGEST_PASSWORD, Account, Accounts, UserFile
from taskqueue.process.logs import Log

_THREADS: Final = 2  # that compute scrypt, which releases the interpreter's lock
_REMEMBERED: Final = 300.0  # seconds for which a password that was right is not hashed again
_MOST_REMEMBERED: Final = 1000
_MOST_WAITING: Final = 100  # logins whose password is being hashed
_SOME_TOKEN: Final = "(token)"  # noqa: S105 -- no user has this name
LONGEST_NAME: Final = 64  # characters
_LONGEST_HEADER: Final = 8 * LONGEST_PASSWORD  # characters


class Refused(TaskqueueError):
    """A login was refused; `wait` is the number of seconds until the next one may be tried."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


class Logins:
    """Finds the rights of a request by its header Authorization."""

    def __init__(self, users: UserFile, own: Account | None) -> None:
        """Read users from a file; own -- the account of the token that `taskqueue up` has made."""
        self._users = users
        self._own = own
        self._log = Log("monitor")
        self.throttle = Throttle(self._log.warning)
        self._hashing = ThreadPoolExecutor(_THREADS, "login")
        self._waiting = 0
        self._key = secrets.token_bytes(32)
        self._right: dict[bytes, tuple[Account, float]] = {}  # by header, until when (monotonic)

    def close(self) -> None:
        """End the threads."""
        self._hashing.shutdown(cancel_futures=True)

    async def rights(self, header: str | None, address: str) -> Rights:
        """Return the rights of a request.

        Args:
            header: the value of Authorization; None if there is none.
            address: of the client.

        Raises:
            Refused: no user or token fits, or the address must wait.
            ConfigError: the file of users cannot be read.
        """
        if not header:
            raise Refused("log in with a user's name and password (Basic), or with a token (Bearer)")
        scheme, _, credentials = header[: _LONGEST_HEADER + 1].partition(" ")
        if len(header) > _LONGEST_HEADER or scheme.lower() not in ("basic", "bearer"):
            raise Refused("Authorization: expected Basic or Bearer")
        if scheme.lower() == "bearer":
            return self._program(credentials.strip(), address).rights
        return (await self._user(*_basic(credentials), address)).rights

    def of_proxy(self, name: str) -> Rights:
        """Return the rights of a user whom a trusted proxy has logged in.

        Raises:
            NoRight: there is no user of this name; a token is none.
            ConfigError: the file of users cannot be read.
        """
        found = self._users.read().by_name.get(name)
        if found is None or found.is_token:
            raise NoRight(f"there is no user {name[:80]!r}: `taskqueue monitor user add` adds one")
        return found.rights

    async def account(self, name: str, password: str, address: str) -> Account:
        """Return the account of a user, or, without a name, of the token whose secret is the password.

        Raises Refused and ConfigError as `rights` does.
        """
        if not name:
            return self._program(password, address)
        return await self._user(name[:LONGEST_NAME], password, address)

    def own_account(self, secret: str) -> Account | None:
        """Return the account of the token that `taskqueue up` has made, if this is its secret."""
        return self._own if self._own is not None and self._own.fits(secret) else None

    def is_valid(self, account: Account) -> bool:
        """Return whether an account is still as it was. Raises ConfigError as `rights` does."""
        return account == self._own or self._users.read().by_name.get(account.name) == account

    def _program(self, secret: str, address: str) -> Account:
        """Return the account of a token; no pause, as none can be guessed and a right one must not wait."""
        found = self._with_token(secret)
        if found is None:
            self.throttle.failed(address, _SOME_TOKEN)
            raise Refused("the token is wrong")
        return found

    def _with_token(self, secret: str) -> Account | None:
        if self._own is not None and self._own.fits(secret):
            return self._own
        return self._users.read().with_token(secret)

    async def _user(self, name: str, password: str, address: str) -> Account:
        """Return the account of a user, at once if the password was right a short time ago."""
        accounts = self._users.read()
        key = hashlib.blake2b(f"{name}\0{password}".encode("utf-8", "replace"), key=self._key).digest()
        account, until = self._right.get(key, (None, 0.0))
        if account is not None and until > time.monotonic() and accounts.by_name.get(name) == account:
            return account
        wait = self.throttle.wait(address, name)
        if wait > 0:
            raise Refused(f"too many failed logins: try again in {math.ceil(wait)} s", wait)
        found = await self._hash(accounts, name, password)
        if found is None:
            self.throttle.failed(address, name)
            raise Refused("name or password is wrong")
        self.throttle.succeeded(address, name)
        self._remember(key, found)
        return found

    async def _hash(self, accounts: Accounts, name: str, password: str) -> Account | None:
        if self._waiting >= _MOST_WAITING:
            raise Refused("too many logins at a time: try again", 1.0)
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._hashing, accounts.with_password, name, password)
        finally:
            self._waiting -= 1

    def _remember(self, key: bytes, account: Account) -> None:
        self._right.pop(key, None)
        self._right[key] = account, time.monotonic() + _REMEMBERED
        while len(self._right) > _MOST_REMEMBERED:
            del self._right[next(iter(self._right))]


def _basic(credentials: str) -> tuple[str, str]:
    """Return name and password (RFC 7617). Raises Refused."""
    try:
        text = base64.b64decode(credentials.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        raise Refused("Authorization: expected name:password in Base64 (RFC 7617)") from None
    name, colon, password = text.partition(":")
    if not colon or not name:
        raise Refused("Authorization: expected name:password in Base64 (RFC 7617)")
    return name[:LONGEST_NAME], password
