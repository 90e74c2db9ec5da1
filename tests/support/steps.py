"""Tasks that are the steps of workflows in tests."""

import time
from pathlib import Path

from taskqueue import task


@task
def note(path: str, mark: str, text: str) -> str:
    """Write a line into a file; return the text."""
    with Path(path).open("a") as file:
        file.write(f"{mark} {text}\n")
    return text


@task
def numbers(count: int) -> list[int]:
    """Return the first numbers."""
    return list(range(count))


@task
def double(number: int) -> int:
    """Return twice a number."""
    return 2 * number


@task
def total(numbers: list[int]) -> int:
    """Return the sum."""
    return sum(numbers)


@task
def say(text: str) -> str:
    """Return a text."""
    return text


@task
def need(path: str) -> None:
    """Fail unless there is such a file."""
    Path(path).stat()


@task
def linger(seconds: float) -> None:
    """Take long."""
    time.sleep(seconds)
