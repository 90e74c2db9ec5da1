"""Checks of values in messages about limits; a wrong one raises TypeError, ValueError or OverflowError."""

import math
from typing import Any, Final

from taskqueue.limits.definition import Key

_LONGEST: Final = 300  # characters of a text
_MOST_KEYS: Final = 16  # of one workitem
_HIGHEST: Final = 2**53


def text_of(value: Any) -> str:
    """Return a short text."""
    if not isinstance(value, str) or len(value) > _LONGEST:
        raise ValueError("expected a short text")
    return value


def count_of(value: Any) -> int:
    """Return a count."""
    if type(value) is not int or not 0 <= value <= _HIGHEST:
        raise ValueError("expected a count")
    return value


def time_of(value: Any) -> float:
    """Return a time in seconds."""
    seconds = float(value)
    if not math.isfinite(seconds):
        raise ValueError("expected a time")
    return seconds


def age_of(value: Any) -> float | None:
    """Return a number of seconds, or None."""
    if value is None:
        return None
    seconds = time_of(value)
    if seconds < 0:
        raise ValueError("expected a number of seconds")
    return seconds


def keys_of(value: Any) -> tuple[Key, ...]:
    """Return the keys of a workitem."""
    keys = tuple(Key(*map(text_of, each)) for each in value)
    if not 0 < len(keys) <= _MOST_KEYS or len(set(keys)) < len(keys):
        raise ValueError("expected keys")
    return keys
