"""Slowing down failed logins: a bounded table of failures by address and name."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

FREE: Final = 5  # failures without a pause
LONGEST: Final = 60.0  # seconds of the longest pause
_FORGOTTEN: Final = 600.0  # seconds after the last failure
MOST: Final = 10_000  # entries; beyond them the oldest is forgotten


@dataclass(slots=True)
class _Entry:
    failures: int
    last: float  # monotonic
    until: float  # monotonic; earlier attempts are refused


class Throttle:
    """Counts failed logins, and says how long the next attempt must wait.

    Each failure counts for the pair of address and name, and a tenth for the address alone: one that tries
    many names is slowed down, too.
    """

    def __init__(self, say: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        """Count nothing yet.

        say -- takes a line for the log at the begin of each burst
        clock -- returns monotonic seconds
        """
        self._say = say
        self._clock = clock
        self._entries: dict[tuple[str, str], _Entry] = {}  # the last failure is at the end

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self._entries)

    def wait(self, address: str, name: str) -> float:
        """Return the seconds until a login may be tried; 0 for now."""
        now = self._clock()
        keys = (address, name), (address, "")
        return max([0.0, *[self._entries[key].until - now for key in keys if key in self._entries]])

    def failed(self, address: str, name: str) -> None:
        """Count a failed login."""
        if self._add((address, name), FREE) == 1:
            self._say(f"failed login as {name!r} from {address}; further ones slow down and are not logged")
        if name:
            self._add((address, ""), 10 * FREE)

    def succeeded(self, address: str, name: str) -> None:
        """Forget the failures of a name that has logged in."""
        self._entries.pop((address, name), None)

    def _add(self, key: tuple[str, str], free: int) -> int:
        now = self._clock()
        entry = self._entries.pop(key, None)
        if entry is None or now - entry.last > _FORGOTTEN:
            entry = _Entry(0, now, now)
        entry.failures, entry.last = entry.failures + 1, now
        if entry.failures >= free:
            entry.until = now + min(LONGEST, 2.0 ** min(entry.failures - free, 16))
        self._entries[key] = entry
        while len(self._entries) > MOST:
            del self._entries[next(iter(self._entries))]
        return entry.failures
