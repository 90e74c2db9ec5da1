"""Signed messages: JSON behind an HMAC of it by the control key (RFC 2104, with SHA-256).

All versions have the signature, and the members version, kind, id and time; an answer also has to and host,
and one that refuses a command, error. So a host can tell one of another version why it refuses its command.
"""

import hmac
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from taskqueue.messages.forwarding import new_id

#: The version of all messages of this package; another one is refused, with an answer to a command.
VERSION: Final = 1

#: Seconds that a command is valid, and that clocks may differ.
LIFETIME: Final = 60.0

LARGEST: Final = 4 * 1024 * 1024  # bytes of a message
_SIGNATURE: Final = 64  # hexadecimal digits
_MOST_SEEN: Final = 10_000  # commands in twice their lifetime; more are refused


class Unsealed(ValueError):
    """A message is not to be heeded; the text says why."""


class Stale(Unsealed):
    """A command was signed by the key, but too long ago, or by a clock that is ahead."""


class OtherVersion(Unsealed):
    """A message is signed by the key, but of another version; it has the message's content."""

    def __init__(self, text: str, content: dict[str, Any] | None = None) -> None:
        super().__init__(text)
        self.content = content or {}

    @property
    def is_later(self) -> bool:
        """Whether its version is a later one."""
        version = self.content.get("version")
        return not isinstance(version, int) or version > VERSION


def seal(key: bytes, kind: str, content: Mapping[str, Any]) -> bytes:
    """Return a message of a kind with the time, a new id and the content, signed."""
    fixed = {"version": VERSION, "kind": kind, "id": new_id(), "time": time.time()}
    text = json.dumps({**fixed, **content}).encode()
    return _sign(key, text) + b"\n" + text


def unseal(key: bytes, kind: str, body: bytes) -> dict[str, Any]:
    """Return the content of a signed message of a kind.

    Raises:
        OtherVersion: it is of another version.
        Unsealed: the key has not signed it so.
    """
    if len(body) > LARGEST:
        raise Unsealed(f"it has {len(body)} bytes")
    signature, _, text = body.partition(b"\n")
    if len(signature) != _SIGNATURE or not hmac.compare_digest(signature, _sign(key, text)):
        raise Unsealed("it is not signed by this host's control key")
    content: dict[str, Any] = json.loads(text)  # of somebody who has the key
    if content.get("kind") != kind:
        raise Unsealed(f"it is no {kind}")
    if content.get("version") != VERSION:
        found = content.get("version")
        raise OtherVersion(f"it has version {found!r:.20}, and this host knows {VERSION}", content)
    return content


def _sign(key: bytes, text: bytes) -> bytes:
    return hmac.digest(key, text, "sha256").hex().encode()


class Guard:
    """Refuses commands that come again, or too late."""

    def __init__(
        self, clock: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin.

        clock -- returns the time in seconds since 1970
        steady -- returns the time in seconds of a clock that nobody sets
        """
        self._clock, self._steady = clock, steady
        self._seen: dict[str, float] = {}  # when each was seen (monotonic), the oldest first

    def check(self, command: Mapping[str, Any]) -> None:
        """Remember a command; raise Stale or Unsealed if it is not to be obeyed."""
        age = self._clock() - float(command["time"])
        if abs(age) > LIFETIME:
            how = f"{age:.0f} s old" if age > 0 else f"{-age:.0f} s ahead of this host's clock"
            raise Stale(
                f"it is {how}; at most {LIFETIME:.0f} s are allowed: do the clocks of the hosts agree?"
            )
        self._forget()
        if command["id"] in self._seen:
            raise Unsealed("it was here before")
        if len(self._seen) >= _MOST_SEEN:
            raise Unsealed(f"there were {_MOST_SEEN} in {2 * LIFETIME:.0f} s")
        self._seen[command["id"]] = self._steady()

    def _forget(self) -> None:
        # A command whose clock is ahead stays valid for twice the lifetime.
        early = self._steady() - 2 * LIFETIME - 1
        while self._seen and next(iter(self._seen.values())) < early:
            del self._seen[next(iter(self._seen))]
