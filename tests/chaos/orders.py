"""Commands of administrators to the pools, given on the command line while faults go on."""

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from support.processes import Daemon

#: Statuses of a command that reaches nobody, or not everybody, while a fault is under way.
WHILE_FAULTS = (0, 1, 69, 75)
#: Statuses of a standing command that is kept, also for those that have not answered.
KEPT = (0, 75)
#: The status of a command that all pools have obeyed.
OBEYED = (0,)


@dataclass(frozen=True, slots=True)
class Step:
    """One command of an order.

    Args:
        words: of the command line.
        enough: the statuses after which it is not given again.
        delay: seconds before it.
    """

    words: tuple[str, ...]
    enough: tuple[int, ...]
    delay: float = 0.0


class Order:
    """Gives one command after the other, each until it is obeyed."""

    def __init__(
        self, steps: Iterable[Step], start: Callable[[tuple[str, ...]], Daemon], done: Callable[[], None]
    ) -> None:
        """Give nothing yet; `keep` goes on.

        start -- starts a command
        done -- is called at the end
        """
        self._steps, self._start, self._done = deque(steps), start, done
        self._running: Daemon | None = None
        self._due = time.monotonic() + self._steps[0].delay

    def keep(self) -> bool:
        """Go on with what is due; tell whether all is done. Fail if a command fails that should not."""
        if self._running is None and time.monotonic() >= self._due:
            self._running = self._start(self._steps[0].words)
        elif self._running is not None and (status := self._running.status) is not None:
            step, told = self._steps[0], self._running.output()
            assert status in WHILE_FAULTS, f"{step.words} ended with {status}:\n{told}"
            assert "Traceback" not in told, f"{step.words}:\n{told}"
            self._running = None
            if status in step.enough:
                self._steps.popleft()
                self._due = time.monotonic() + (self._steps[0].delay if self._steps else 0.0)
        if not self._steps:
            self._done()
        return not self._steps
