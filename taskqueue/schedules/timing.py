"""The times of a schedule: `next_after` of a cron expression in a time zone, and of a fixed interval.

croniter 1.3.5 and 2.0.7, of Debian 12 and 13, are not used: with them `30 2 * * *` in Europe/Berlin is due
at 03:30 on the day after the clocks went back, `30 * * * *` misses the second pass of the doubled hour, and
`*/90` is taken for `0`.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final, Protocol

from taskqueue.schedules.fields import CronFields, parse
from taskqueue.schedules.zones import Change, Period, Zone, zone

#: Larger changes of the clock are no daylight saving (cron(8) of Debian): schedules go on by the new time.
_LARGEST_CHANGE: Final = 3 * 3600  # seconds
_DAY: Final = 86400  # seconds
_EPOCH: Final = date(1970, 1, 1).toordinal()
_LAST_DAY: Final = date(9998, 1, 1).toordinal() - _EPOCH


class Timing(Protocol):
    """When a schedule is due. Times are seconds since 1970."""

    def next_after(self, at: float) -> float:
        """Return the first time after `at`; infinity if there is none before the year 9998."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Due every `every` seconds, counted from 1970-01-01 00:00 UTC plus `offset` seconds."""

    every: float
    offset: float = 0.0

    def next_after(self, at: float) -> float:
        """Return the first time after `at`."""
        number = math.floor((at - self.offset) / self.every) + 1
        time = number * self.every + self.offset
        return time if time > at else time + self.every


class Cron:
    """A cron expression in a time zone.

    When the clock is changed by up to three hours, it is as with Debian's cron: a schedule whose second,
    minute or hour begins with * goes on by the clock. Any other is due once: at the end of a skipped hour if
    its time is in it, and in the first pass of an hour that the clock shows twice.
    """

    def __init__(self, expression: str, timezone: str) -> None:
        """Read an expression. Raises BadSchedule."""
        self._zone: Zone = zone(timezone)
        self._fields = parse(expression)
        self._times = _Times(self._fields)

    def next_after(self, at: float) -> float:
        """Return the first time after `at`; infinity if there is none before the year 9998."""
        now = math.floor(at)
        period = self._zone.period(now)
        wall = now + period.offset + 1
        if period.last is not None and self._is_repeated(period.last):
            wall = max(wall, period.last.at + period.last.before)  # the clock has shown what precedes that
        while (due := self._times.at_or_after(wall)) is not None:
            if due - period.offset < period.until:
                return float(due - period.offset)
            change = period.coming
            if change is not None and self._is_skipped(change) and due < change.at + change.after:
                return float(change.at)
            wall = self._wall_at_end(period)
            period = self._zone.period(period.until)
        return math.inf

    def _wall_at_end(self, period: Period) -> int:
        """Return what the clock shows at the end of a period that has not been before."""
        change = period.coming
        is_new = change is not None and not self._is_repeated(change)
        return period.until + (change.after if change is not None and is_new else period.offset)

    def _is_repeated(self, change: Change) -> bool:
        return not self._fields.follows_clock and 0 < change.before - change.after <= _LARGEST_CHANGE

    def _is_skipped(self, change: Change) -> bool:
        return not self._fields.follows_clock and 0 < change.after - change.before <= _LARGEST_CHANGE


class _Times:
    """The times that fields allow, in seconds since 1970 as a clock shows them that knows no time zone."""

    def __init__(self, fields: CronFields) -> None:
        self._fields = fields

    def at_or_after(self, wall: int) -> int | None:
        """Return the first time at or after `wall`; None if there is none before the year 9998."""
        day, second = divmod(wall, _DAY)
        today = self._time_at_or_after(second) if self._allows(day) else None
        if today is not None:
            return day * _DAY + today
        later = self._day_after(day)
        fields = self._fields
        first = fields.hours[0] * 3600 + fields.minutes[0] * 60 + fields.seconds[0]
        return None if later is None else later * _DAY + first

    def _time_at_or_after(self, second: int) -> int | None:
        """Return the first time of day, in seconds since midnight; None if all are over."""
        fields = self._fields
        hour, minute = second // 3600, second // 60 % 60
        if hour in fields.hours:
            if minute in fields.minutes and (late := _at_or_after(fields.seconds, second % 60)) is not None:
                return hour * 3600 + minute * 60 + late
            if (next_minute := _at_or_after(fields.minutes, minute + 1)) is not None:
                return hour * 3600 + next_minute * 60 + fields.seconds[0]
        next_hour = _at_or_after(fields.hours, hour + 1)
        if next_hour is None:
            return None
        return next_hour * 3600 + fields.minutes[0] * 60 + fields.seconds[0]

    def _allows(self, day: int) -> bool:
        there = date.fromordinal(day + _EPOCH)
        return self._fields.allows(there.month, there.day, there.isoweekday() % 7)

    def _day_after(self, day: int) -> int | None:
        """Return the next allowed day; days are counted from 1970-01-01."""
        day += 1
        while day < _LAST_DAY:
            there = date.fromordinal(day + _EPOCH)
            if there.month not in self._fields.months:
                day += (there.replace(day=1) + timedelta(days=32)).replace(
                    day=1
                ).toordinal() - there.toordinal()
            elif self._fields.allows(there.month, there.day, there.isoweekday() % 7):
                return day
            else:
                day += 1
        return None


def _at_or_after(values: tuple[int, ...], least: int) -> int | None:
    place = bisect_left(values, least)
    return values[place] if place < len(values) else None
