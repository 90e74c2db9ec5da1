"""Checks of the options of a limit, and of its use by a group."""

import re
from typing import Final

from taskqueue.config.checks import refuse
from taskqueue.limits.definition import LONGEST_PERIOD, MOST_STARTS, NAME, LimitUse

_RATE: Final = re.compile(r"([1-9][0-9]{0,5}) +per +([0-9]{0,5}(?:\.[0-9]{1,3})?) *([smhd])")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}  # seconds
_SHORTEST: Final = 0.001  # seconds
#: A use without its limit's name: the header, visible ASCII without the comma, which ends it.
_BY: Final = re.compile(r"[!-+\--~]{1,100}")


def rate(value: str) -> tuple[int, float]:
    """Take a number of starts per a period of seconds, as in "40 per 1s"."""
    written = _RATE.fullmatch(value.lower())
    number = int(written[1]) if written else 0
    period = float(written[2] or 1) * _UNITS[written[3]] if written else 0.0
    if not 1 <= number <= MOST_STARTS or not _SHORTEST <= period <= LONGEST_PERIOD:
        refuse(f"a number from 1 to {MOST_STARTS} and a period of at most a day, such as 40 per 1s", value)
    return number, period


def limits(value: str) -> tuple[LimitUse, ...]:
    """Take names of limits, each for all or by a header, separated by commas; "" is none."""
    uses = [_use(item.split()) for item in value.split(",")] if value else []
    found = tuple(use for use in uses if use is not None)
    names = {use.limit for use in found}
    if len(found) < len(uses) or len(names) < len(found) or len(found) > 8:
        refuse("up to 8 limits, each once, such as shopify-api, mail by tenant", value)
    return found


def _use(words: list[str]) -> LimitUse | None:
    match words:
        case [name] if NAME.match(name):
            return LimitUse(name)
        case [name, "by", header] if NAME.match(name) and _BY.fullmatch(header):
            return LimitUse(name, header)
    return None
