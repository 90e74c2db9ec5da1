"""The sessions of users who have logged in with a browser: random secrets, in memory."""

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from taskqueue.monitor.web.users import Account

IDLE: Final = 12 * 3600.0  # seconds without a request after which a session ends
LONGEST: Final = 7 * 86400.0  # seconds after which it ends in any case
MOST: Final = 10_000  # beyond them, the one that was not used for the longest time ends


@dataclass(frozen=True, slots=True)
class _Session:
    account: Account
    began: float  # monotonic
    used: float  # monotonic


class Sessions:
    """A bounded table of sessions by the hash of their secret; it ends with the process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin without sessions; clock -- returns monotonic seconds."""
        self._clock = clock
        self._by_key: dict[bytes, _Session] = {}  # the last used is at the end

    def __len__(self) -> int:
        """Return the number of sessions."""
        return len(self._by_key)

    def begin(self, account: Account) -> str:
        """Begin a session; return its secret, for the cookie."""
        secret, now = secrets.token_urlsafe(32), self._clock()
        self._by_key[_key(secret)] = _Session(account, now, now)
        while len(self._by_key) > MOST:
            del self._by_key[next(iter(self._by_key))]
        return secret

    def account(self, secret: str) -> Account | None:
        """Return the account of a session, and note its use; None if there is no such session."""
        key, now = _key(secret), self._clock()
        found = self._by_key.pop(key, None)
        if found is None or now - found.used > IDLE or now - found.began > LONGEST:
            return None
        self._by_key[key] = replace(found, used=now)
        return found.account

    def end(self, secret: str) -> None:
        """End a session, if there is one."""
        self._by_key.pop(_key(secret), None)


def _key(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
