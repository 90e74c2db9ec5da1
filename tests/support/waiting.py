"""Waiting for a condition with a deadline, never for a fixed time."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_DELAY = 0.02


def wait_until(condition: Callable[[], T], timeout: float = 10, what: object = "") -> T:
    """Call `condition` until it is true and return its value; fail after `timeout` seconds.

    what: put into the failure; a callable is called for it then, so that it can show the last state.
    """
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            shown = what() if callable(what) else what
            raise AssertionError(f"waited {timeout} s in vain for {shown or condition}")
        time.sleep(POLL_DELAY)
    return value
