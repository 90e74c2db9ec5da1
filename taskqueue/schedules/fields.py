"""The fields of a cron expression, as crontab(5) of Debian has them, with an optional field for seconds."""

import calendar
import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from taskqueue.errors import BadSchedule
from taskqueue.texts import shorten

_MACROS: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_LONGEST: Final = 1000  # characters
_PART: Final = re.compile(
    r"(?:(?P<star>\*)|(?P<first>\w+)(?:-(?P<last>\w+))?)(?:/(?P<step>[0-9]{1,4}))?", re.ASCII
)
_DAYS_OF_MONTH: Final = (0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)  # by month, of a leap year
_SUNDAY: Final = 7


class Field(NamedTuple):
    """One field: its name, its bounds, and the names of its values from the lowest on."""

    name: str
    least: int
    most: int
    names: tuple[str, ...] = ()


SECOND: Final = Field("second", 0, 59)
MINUTE: Final = Field("minute", 0, 59)
HOUR: Final = Field("hour", 0, 23)
DAY: Final = Field("day of month", 1, 31)
MONTH: Final = Field("month", 1, 12, tuple(name.lower() for name in calendar.month_abbr[1:]))
WEEKDAY: Final = Field("day of week", 0, _SUNDAY, ("sun", "mon", "tue", "wed", "thu", "fri", "sat"))
_FIELDS: Final = (SECOND, MINUTE, HOUR, DAY, MONTH, WEEKDAY)


@dataclass(frozen=True, slots=True)
class CronFields:
    """The values that each field allows, in ascending order.

    Args:
        seconds: of a minute.
        minutes: of an hour.
        hours: of a day.
        days: of a month.
        months: of a year.
        weekdays: 0 is Sunday.
        needs_both: whether day of month and day of week must both match; else one of them is enough.
        follows_clock: whether second, minute or hour begins with *: such a schedule is due often, and goes
            on by the new time when the clock is changed.
    """

    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    needs_both: bool
    follows_clock: bool

    def allows(self, month: int, day: int, weekday: int) -> bool:
        """Tell whether a date is allowed; weekday 0 is Sunday."""
        if month not in self.months:
            return False
        if self.needs_both:
            return day in self.days and weekday in self.weekdays
        return day in self.days or weekday in self.weekdays


def parse(expression: str) -> CronFields:
    """Read a cron expression of five fields, of six with seconds first, or a macro such as @daily.

    Raises BadSchedule, which says what is wrong with which field.
    """
    if len(expression) > _LONGEST:
        raise BadSchedule(f"a cron expression has at most {_LONGEST} characters")
    text = expression.strip().lower()
    if text.startswith("@"):
        if text not in _MACROS:
            raise BadSchedule(f"{_shown(text)} is not known; known are {', '.join(_MACROS)}")
        text = _MACROS[text]
    words = text.split()
    if len(words) not in (5, 6):
        raise BadSchedule(
            f"{_shown(expression)} has {len(words)} fields; expected 5, or 6 with seconds first"
        )
    if len(words) == 5:
        words.insert(0, "0")
    values = [_values(field, word) for field, word in zip(_FIELDS, words, strict=True)]
    seconds, minutes, hours = (tuple(sorted(each)) for each in values[:3])
    days, months, weekdays = (frozenset(each) for each in values[3:])
    fields = CronFields(
        seconds,
        minutes,
        hours,
        days,
        months,
        frozenset(day % _SUNDAY for day in weekdays),
        needs_both=words[3].startswith("*") or words[5].startswith("*"),
        follows_clock=any(word.startswith("*") for word in words[:3]),
    )
    _check_that_it_occurs(fields, expression)
    return fields


def _values(field: Field, word: str) -> set[int]:
    return {value for part in word.split(",") for value in _part(field, part)}


def _part(field: Field, part: str) -> range:
    found = _PART.fullmatch(part)
    if found is None:
        raise BadSchedule(f"{field.name}: {_shown(part)} is no value, range or step")
    if found["star"]:
        first, last = field.least, field.most
    else:
        first = _value(field, found["first"])
        last = _value(field, found["last"]) if found["last"] else first
        if found["step"] and not found["last"]:
            raise BadSchedule(f"{field.name}: a step is for * or a range, as in {first}-{field.most}/2")
    if last < first:
        raise BadSchedule(f"{field.name}: the range {_shown(part)} ends before it begins")
    step = int(found["step"] or 1)
    if not 1 <= step <= field.most:
        raise BadSchedule(f"{field.name}: expected a step from 1 to {field.most}, found {step}")
    return range(first, last + 1, step)


def _value(field: Field, word: str) -> int:
    if word in field.names:
        return field.names.index(word) + field.least
    number = int(word) if word.isdecimal() and len(word) <= 4 else -1
    if not field.least <= number <= field.most:
        names = f" or {field.names[0]} to {field.names[-1]}" if field.names else ""
        raise BadSchedule(
            f"{field.name}: expected {field.least} to {field.most}{names}, found {_shown(word)}"
        )
    return number


def _check_that_it_occurs(fields: CronFields, expression: str) -> None:
    has_date = any(min(fields.days) <= _DAYS_OF_MONTH[month] for month in fields.months)
    if fields.needs_both and not has_date:
        raise BadSchedule(f"{_shown(expression)} never occurs: none of its months has that day")


def _shown(text: str) -> str:
    return repr(shorten(text, 60))
