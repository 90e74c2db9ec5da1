"""Durations, sizes and counts in words, for pages and for a terminal."""

from typing import Final

_UNITS: Final = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))
NONE: Final = "\N{EN DASH}"


def duration(seconds: float | None) -> str:
    """Return a duration in its two largest units, as 3 min 12 s; below a second, in three digits."""
    if seconds is None:
        return NONE
    if seconds < 1.0:
        return f"{seconds:.3g} s" if seconds >= 0.001 else "0 s"
    if seconds < 10.0:
        return f"{seconds:.1f} s"
    place = next(number for number, (size, _) in enumerate(_UNITS) if seconds >= size)
    size, unit = _UNITS[place]
    parts = [f"{int(seconds // size)} {unit}"]
    if place + 1 < len(_UNITS):
        smaller, its_unit = _UNITS[place + 1]
        rest = int(seconds % size // smaller)
        parts += [f"{rest} {its_unit}"] if rest else []
    return " ".join(parts)


def size(number: int | None) -> str:
    """Return a number of bytes."""
    if number is None:
        return NONE
    value = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000.0:
            return f"{value:.3g} {unit}" if unit != "B" else f"{number} B"
        value /= 1000.0
    return f"{value:.3g} TB"


def number(value: int | None) -> str:
    """Return a count, its thousands separated."""
    return NONE if value is None else f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
