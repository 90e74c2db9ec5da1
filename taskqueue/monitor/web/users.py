"""The users and tokens of the monitor, in a file: passwords as scrypt hashes, tokens as SHA-256 hashes.

A token is 256 random bits, so that a fast hash protects it as well as a slow one.
"""

import contextlib
import errno
import fcntl
import hashlib
import hmac
import json
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from taskqueue.errors import ConfigError, ExitStatus, TaskqueueError
from taskqueue.monitor.web.rights import LONGEST_LIMIT, MOST_LIMITS, NAME, ROLES, Rights

_MODE: Final = 0o640
_VERSION: Final = 1
_LARGEST: Final = 4 * 1024 * 1024  # bytes of the file
LONGEST_PASSWORD: Final = 1024  # characters
SHORTEST_PASSWORD: Final = 8
#: Cost parameters of scrypt (RFC 7914): 16 MiB and some 40 ms for each password.
_COST: Final = {"n": 2**14, "r": 8, "p": 1}
_MAX_MEMORY: Final = 64 * 1024 * 1024
_MOST_COST: Final = {"n": 2**17, "r": 8, "p": 4}  # of a hash in the file
_TOKEN_PREFIX: Final = "tq_"  # noqa: S105 -- no secret


class UserError(TaskqueueError):
    """A user or token cannot be added, or does not exist."""

    status = ExitStatus.FAILED


@dataclass(frozen=True, slots=True)
class Account:
    """A user or a token, with the hash of its secret; a user without one logs in at a proxy."""

    rights: Rights
    is_token: bool
    hash: str  # in hexadecimal digits; "" for a user without a password
    salt: str = ""  # in hexadecimal digits; of a password only
    cost: tuple[tuple[str, int], ...] = ()  # n, r and p of scrypt; of a password only

    @property
    def name(self) -> str:
        """The name, which is unique among users and tokens."""
        return self.rights.user

    def fits(self, secret: str) -> bool:
        """Return whether a secret is the account's. A password takes some 40 ms of processor time."""
        if self.is_token:
            return hmac.compare_digest(self.hash, _digest(secret))
        if not self.hash or len(secret) > LONGEST_PASSWORD:
            return False
        found = _scrypt(secret, bytes.fromhex(self.salt), dict(self.cost))
        return hmac.compare_digest(self.hash, found)


#: Compared where a user does not exist, so that the answer takes as long.
_NOBODY: Final = Account(Rights("nobody"), False, "00" * 32, "00" * 16, tuple(_COST.items()))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _scrypt(password: str, salt: bytes, cost: Mapping[str, int]) -> str:
    n, r, p = (min(cost.get(name, 1), _MOST_COST[name]) for name in "nrp")
    data = password.encode("utf-8", "surrogatepass")
    return hashlib.scrypt(data, salt=salt, n=n, r=r, p=p, maxmem=4 * _MAX_MEMORY, dklen=32).hex()


def user(rights: Rights, password: str | None, cost: Mapping[str, int] = _COST) -> Account:
    """Return a new user. Raises UserError for a name or password that is not accepted.

    password -- None for a user who logs in only at a proxy
    cost -- n, r and p of scrypt
    """
    check(rights)
    if password is None:
        return Account(rights, is_token=False, hash="")
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise UserError(
            f"password: expected {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters, found {len(password)}"
        )
    salt = secrets.token_bytes(16)
    return Account(rights, False, _scrypt(password, salt, cost), salt.hex(), tuple(cost.items()))


def token(rights: Rights) -> tuple[Account, str]:
    """Return a new token: the account, and its secret. Raises UserError for a name that is not accepted."""
    check(rights)
    secret = new_secret()
    return Account(rights, True, _digest(secret)), secret


def new_secret() -> str:
    """Return the secret of a new token."""
    return _TOKEN_PREFIX + secrets.token_urlsafe(32)


def of_token(rights: Rights, secret: str) -> Account:
    """Return the account of a token whose secret is known."""
    return Account(rights, True, _digest(secret))


def check(rights: Rights) -> None:
    """Raise UserError for a name or limits that are not accepted."""
    if not NAME.fullmatch(rights.user):
        raise UserError(
            "name: expected 1 to 64 of letters, digits, _ - . and @, a letter or digit first, "
            f"found {rights.user[:80]!r}"
        )
    for kind, given in (("--tenant", rights.tenants), ("--type", rights.types)):
        if len(given) > MOST_LIMITS:
            raise UserError(f"{kind}: expected at most {MOST_LIMITS}, found {len(given)}")
        for each in given:
            if not 0 < len(each) <= LONGEST_LIMIT:
                raise UserError(f"{kind}: expected 1 to {LONGEST_LIMIT} characters, found {len(each)}")


# --- the file ---


@dataclass(frozen=True, slots=True)
class Accounts:
    """The users and tokens of a file."""

    by_name: Mapping[str, Account]

    @classmethod
    def of(cls, *accounts: Account) -> Self:
        """Return these accounts."""
        return cls({each.name: each for each in accounts})

    def with_password(self, name: str, password: str) -> Account | None:
        """Return the user with a name and password; None if there is none. Takes as long in both cases."""
        found = self.by_name.get(name)
        if found is None or found.is_token or not found.hash:
            _NOBODY.fits(password)
            return None
        return found if found.fits(password) else None

    def with_token(self, secret: str) -> Account | None:
        """Return the token with a secret; None if there is none."""
        if not secret.startswith(_TOKEN_PREFIX):
            return None
        digest = _digest(secret)
        tokens = [each for each in self.by_name.values() if each.is_token]
        return next((each for each in tokens if hmac.compare_digest(each.hash, digest)), None)


class UserFile:
    """The file of users and tokens. It is replaced as a whole; readers need no lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, ...] = ()
        self._accounts = Accounts({})

    def read(self) -> Accounts:
        """Return the accounts; the file is read again if it has changed. A missing file has none.

        Raises ConfigError if it cannot be read or is damaged.
        """
        try:
            status = self.path.stat()
            seen = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
            if seen != self._seen:
                self._accounts = self._load()
                self._seen = seen
        except FileNotFoundError:
            self._seen, self._accounts = (), Accounts({})
        except OSError as error:
            raise ConfigError([f"users file {self.path}: {error.strerror}"]) from None
        return self._accounts

    def _load(self) -> Accounts:
        with self.path.open("rb") as file:
            data = file.read(_LARGEST + 1)
        try:
            if len(data) > _LARGEST:
                raise ValueError(f"more than {_LARGEST} bytes")
            content = json.loads(data)
            if content["version"] != _VERSION:
                raise ValueError(f"version {content['version']!r}")
            return Accounts.of(*[account_of(each) for each in content["accounts"]])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            found = f"{type(error).__name__} {error}"[:200]
            what = f"expected what `taskqueue monitor user` writes, version {_VERSION}; found {found}"
            raise ConfigError([f"users file {self.path}: {what}"]) from None

    def add(self, account: Account) -> None:
        """Add an account. Raises UserError if its name is taken, ConfigError if the file is unusable."""

        def change(accounts: dict[str, Account]) -> None:
            if account.name in accounts:
                kind = "token" if accounts[account.name].is_token else "user"
                raise UserError(f"a {kind} {account.name!r} exists already: remove it first")
            accounts[account.name] = account

        self._change(change)

    def remove(self, name: str, *, is_token: bool) -> None:
        """Remove an account. Raises UserError if it does not exist, ConfigError as `add` does."""

        def change(accounts: dict[str, Account]) -> None:
            _check_kind(accounts.get(name), name, is_token=is_token)
            del accounts[name]

        _check_kind(self.read().by_name.get(name), name, is_token=is_token)  # even without a directory
        self._change(change)

    def replace(self, old: Account, new: Account) -> None:
        """Put an account in the place of another one of its name. Raises UserError if that has changed."""

        def change(accounts: dict[str, Account]) -> None:
            if accounts.get(old.name) != old:
                raise UserError(f"user {old.name!r} was changed meanwhile: try again")
            accounts[old.name] = new

        self._change(change)

    def _change(self, change: Callable[[dict[str, Account]], None]) -> None:
        try:
            with self._locked():
                accounts = dict(self.read().by_name)
                change(accounts)
                self._replace(accounts)
        except OSError as error:
            raise ConfigError([f"users file {self.path}: {error.strerror}"]) from None

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold a lock on the file's directory: the file itself is replaced."""
        descriptor = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _replace(self, accounts: Mapping[str, Account]) -> None:
        content = {"version": _VERSION, "accounts": [plain_of(each) for each in accounts.values()]}
        text = json.dumps(content, indent=1) + "\n"
        if len(text.encode()) > _LARGEST:
            raise OSError(errno.EFBIG, f"more than {_LARGEST} bytes")
        descriptor, new = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                self._give(file.fileno())
                file.flush()
                os.fsync(file.fileno())
            Path(new).rename(self.path)
        except BaseException:
            Path(new).unlink(missing_ok=True)
            raise

    def _give(self, descriptor: int) -> None:
        """Give the new file to the owner and group of the old one, or of the directory: root may write it."""
        owner = self.path if self.path.exists() else self.path.parent
        status = owner.stat()
        if os.geteuid() == 0:
            os.fchown(descriptor, status.st_uid, status.st_gid)
        os.fchmod(descriptor, _MODE)


def _check_kind(found: Account | None, name: str, *, is_token: bool) -> None:
    if found is None or found.is_token != is_token:
        raise UserError(f"there is no {'token' if is_token else 'user'} {name[:80]!r}")


def plain_of(account: Account) -> dict[str, Any]:
    """Return an account as the file has it."""
    rights = account.rights
    return {
        "name": rights.user,
        "kind": "token" if account.is_token else "user",
        "role": rights.role,
        "tenants": sorted(rights.tenants),
        "types": list(rights.types),
        "bodies": rights.bodies,
        "hash": account.hash,
        "salt": account.salt,
        "scrypt": dict(account.cost),
    }


def account_of(plain: Mapping[str, Any]) -> Account:
    """Return an account of the file. Raises ValueError, TypeError or KeyError if it is none."""
    rights = Rights(
        plain["name"],
        plain["role"],
        frozenset(map(str, plain["tenants"])),
        tuple(map(str, plain["types"])),
        plain["bodies"] is True,
    )
    if not NAME.fullmatch(rights.user) or rights.role not in ROLES or plain["kind"] not in ("user", "token"):
        raise ValueError(f"an account {str(plain['name'])[:80]!r} without a name, role or kind")
    has_password = plain["kind"] == "user" and plain["hash"] != ""
    cost = tuple((name, int(plain["scrypt"][name])) for name in "nrp") if has_password else ()
    account = Account(rights, plain["kind"] == "token", plain["hash"], plain["salt"], cost)
    needs_hash = has_password or account.is_token
    if (needs_hash and len(bytes.fromhex(account.hash)) != 32) or (
        cost and len(bytes.fromhex(account.salt)) < 16
    ):
        raise ValueError(f"the account {rights.user!r} without a hash")
    return account


def listed(account: Account) -> dict[str, Any]:
    """Return what is shown of an account: no hash."""
    plain = {
        name: value for name, value in plain_of(account).items() if name not in ("hash", "salt", "scrypt")
    }
    return plain if account.is_token else plain | {"password": bool(account.hash)}
