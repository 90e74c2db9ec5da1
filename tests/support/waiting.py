"""Waiting for a condition with a deadline, never for a fixed time."""

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")

FIRST_PAUSE, LONGEST_PAUSE = 0.005, 0.1  # seconds


def pauses() -> Iterator[float]:
    """Yield the seconds to sleep between two looks at something, forever.

    They grow: who looks too often takes the processor from those he waits for.
    """
    pause = FIRST_PAUSE
    while True:
        yield pause
        pause = min(pause * 1.25, LONGEST_PAUSE)


def wait_until(condition: Callable[[], T], timeout: float = 10, what: object = "") -> T:
    """Call `condition` until it is true and return its value; fail after `timeout` seconds.

    what: put into the failure; a callable is called for it then, so that it can show the last state.
    """
    deadline, pause = time.monotonic() + timeout, pauses()
    while not (value := condition()):
        if time.monotonic() > deadline:
            shown = what() if callable(what) else what
            raise AssertionError(f"waited {timeout} s in vain for {shown or condition}")
        time.sleep(next(pause))
    return value
