"""Sequence numbers: they order workitems by time, over all files of the record."""

from collections.abc import Callable
from typing import Final

#: Bits of a number below its time, which is in microseconds: a counter for equal times, and the kind.
_BITS: Final = 11
_STEP: Final = 8  # the lowest three bits are the kind: numbers of different files are never equal
_LATEST: Final = 2.0**52 - 1  # microseconds: in the year 2112
_MOST_KEPT: Final = 10_000


def first_at(time: float) -> int:
    """Return the lowest number of a time in seconds since 1970; earlier times are taken as 1970."""
    return int(min(max(time * 1e6, 0.0), _LATEST)) << _BITS


def time_of(number: int) -> float:
    """Return the time of a number in seconds since 1970."""
    return (number >> _BITS) / 1e6


class Sequence:
    """Numbers for the workitems of one file."""

    def __init__(self, kind: int, newest: int, is_taken: Callable[[int], bool]) -> None:
        """Give out numbers of a kind (0 to 7).

        newest -- the highest number of the file, 0 if it has none
        is_taken -- tells whether the file has a number
        """
        self._kind = kind
        self._newest = newest
        self._is_taken = is_taken
        self._given: set[int] = set()  # not yet in the file
        self._following: dict[int, int] = {}  # where to look for a free number, by the first one of a time

    def take(self, time: float) -> int:
        """Return a number for a workitem of this time that no other one has."""
        first = number = first_at(time) | self._kind
        if number <= self._newest:
            number = self._following.get(first, first)
            while number in self._given or self._is_taken(number):
                number += _STEP
            self._following[first] = number + _STEP
        self._newest = max(self._newest, number)
        self._given.add(number)
        return number

    def settle(self) -> None:
        """Take note that the file has all numbers that were given out."""
        self._given.clear()
        if len(self._following) > _MOST_KEPT:
            self._following.clear()
