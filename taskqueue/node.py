"""A few tasks to play with (`python -m taskqueue.node`), and `Node`, which serves a script's own."""

import sys
import time
from pathlib import Path
from typing import Any

from taskqueue.calls.task import task
from taskqueue.errors import TargetError
from taskqueue.feed import target
from taskqueue.worker.base import progress

_STEP = 0.1  # seconds between two words about progress


class Node:
    """Serves the tasks of the script that starts it, as `taskqueue work SCRIPT` does.

    ZeroTask's nodes were started so: `Node().start()` at the end of a script with tasks.
    """

    def __init__(self, amqp: str | None = None, workers: int | None = None) -> None:
        """Keep what `taskqueue work` is told.

        Args:
            amqp: the broker's URL; by default it is found as `taskqueue work` finds it.
            workers: how many processes serve; by default one a CPU.
        """
        self._options = [
            *(["--amqp", amqp] if amqp else []),
            *(["--workers", str(workers)] if workers else []),
        ]

    def start(self) -> None:
        """Serve until SIGTERM or Ctrl-C, and exit; without effect where a worker imports the script.

        Raises TargetError where Python runs no script.
        """
        if target.is_loading:
            return
        script = getattr(sys.modules["__main__"], "__file__", None)
        if script is None:
            raise TargetError(
                "Node().start() serves the tasks of a script, and Python was started without one"
            )
        from taskqueue.cli import main  # noqa: PLC0415 -- without the command line, which tasks do not need

        main(["work", *self._options, "--", str(Path(script).absolute())])


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


if __name__ == "__main__":  # `python -m taskqueue.node` is `taskqueue work taskqueue.node`
    from taskqueue.cli import main

    main(["work", "taskqueue.node", *sys.argv[1:]])
