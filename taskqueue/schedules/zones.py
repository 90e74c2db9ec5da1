"""Time zones: the changes of their offset from UTC, and the zone of this host."""

import os
from bisect import bisect_right
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from taskqueue.errors import BadSchedule
from taskqueue.texts import shorten

_STEP: Final = 6 * 3600  # seconds between two looks; no zone has changed twice within that time


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a zone's offset."""

    at: int  # seconds since 1970
    before: int  # seconds east of UTC
    after: int


@dataclass(frozen=True, slots=True)
class Period:
    """A time in which a zone's offset is the same.

    Args:
        offset: seconds east of UTC.
        until: its end, or a later look is needed for that; seconds since 1970.
        last: the change at its beginning, if that is known.
        coming: the change at `until`; None if the offset does not change then.
    """

    offset: int
    until: int
    last: Change | None
    coming: Change | None


class Zone:
    """A time zone of the tz database."""

    def __init__(self, name: str) -> None:
        """Find the zone. Raises BadSchedule if this host's database has none of that name."""
        try:
            self._info = ZoneInfo(name)
        except (OSError, ValueError):  # ZoneInfoNotFoundError is a KeyError
            raise BadSchedule(f"no time zone {shorten(name, 60)!r}") from None
        except KeyError:
            raise BadSchedule(f"no time zone {shorten(name, 60)!r} in this host's tz database") from None
        self.name = name

    def offset(self, at: int) -> int:
        """Return the seconds east of UTC at a time in seconds since 1970."""
        offset = datetime.fromtimestamp(at, self._info).utcoffset() or timedelta()
        return int(offset.total_seconds())

    def period(self, at: int) -> Period:
        """Return the period without a change that a time is in; without a change it ends after a year."""
        year = datetime.fromtimestamp(at, UTC).year
        near = [change for each in (year - 1, year, year + 1) for change in _changes(self.name, each)]
        place = bisect_right([change.at for change in near], at)
        last = near[place - 1] if place else None
        coming = near[place] if place < len(near) else None
        until = coming.at if coming is not None else int(datetime(year + 2, 1, 1, tzinfo=UTC).timestamp())
        return Period(self.offset(at), until, last, coming)


@lru_cache(maxsize=64)
def zone(name: str) -> Zone:
    """Return the zone of a name. Raises BadSchedule if there is none."""
    return Zone(name)


@lru_cache(maxsize=4096)
def _changes(name: str, year: int) -> tuple[Change, ...]:
    """Return the changes of a zone's offset in a year of UTC."""
    here = zone(name)
    begin = int(datetime(year, 1, 1, tzinfo=UTC).timestamp())
    end = int(datetime(year + 1, 1, 1, tzinfo=UTC).timestamp())
    found, before = [], here.offset(begin - 1)
    for at in range(begin - 1, end - 1, _STEP):
        until = min(at + _STEP, end - 1)
        after = here.offset(until)
        if after != before:
            found.append(Change(_first(here, at, until, after), before, after))
        before = after
    return tuple(found)


def _first(here: Zone, low: int, high: int, offset: int) -> int:
    """Return the first second of an offset that holds at `high`, but not at `low`."""
    while high - low > 1:
        middle = (low + high) // 2
        if here.offset(middle) == offset:
            high = middle
        else:
            low = middle
    return high


def shown_in(name: str, at: float) -> str:
    """Return a time, in seconds since 1970, as a clock of a zone shows it, with its offset from UTC.

    In UTC, if this host does not know the zone.
    """
    try:
        offset = zone(name).offset(int(at))
    except BadSchedule:
        offset = 0
    there = datetime.fromtimestamp(at, timezone(timedelta(seconds=offset)))
    return there.isoformat(sep=" ", timespec="seconds")


def host_zone() -> str:
    """Return the name of this host's time zone: of TZ, of /etc/localtime or /etc/timezone, else UTC."""
    named = os.environ.get("TZ", "").removeprefix(":")
    localtime = Path("/etc/localtime")
    if not named and localtime.is_symlink():
        named = str(localtime.resolve()).partition("zoneinfo/")[2]
    if not named and (file := Path("/etc/timezone")).is_file():
        named = file.read_text(encoding="utf-8", errors="replace").strip()
    try:
        return zone(named or "UTC").name
    except BadSchedule:
        return "UTC"
