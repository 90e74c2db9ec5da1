"""A few tasks to play with: `python -m taskqueue.node` serves them."""

import time
from typing import Any

from taskqueue.rpc.task import task
from taskqueue.worker import progress

_STEP = 0.1  # seconds between two words about progress


@task
def add(a: Any, b: Any) -> Any:
    """Return the sum."""
    return a + b


@task
def subtract(a: Any, b: Any) -> Any:
    """Return the difference."""
    return a - b


@task
def echo(value: Any) -> Any:
    """Return what it gets."""
    return value


@task
def sleep(seconds: float) -> float:
    """Sleep, and tell of its progress meanwhile; return how long."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        progress(1 - left / seconds, f"{left:.1f} s left")
        time.sleep(min(_STEP, left))
    return seconds
