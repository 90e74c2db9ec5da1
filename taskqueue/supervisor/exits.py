"""The time in which a worker must end."""

from typing import Final

_EXIT_TIMEOUT: Final = 5.0  # seconds from the end of its socket in which a worker must end

#: Seconds between two checks, while there are such workers.
CHECK_DELAY: Final = 1.0


class ExitTimeouts:
    """Finds workers that do not end in time after they have closed their socket.

    Only time between our own checks counts: when hundreds of processes end at once, or a host was suspended,
    a worker is reaped long after its end.
    """

    def __init__(self) -> None:
        self._checked = 0.0  # monotonic
        self._waited: dict[int, float] = {}  # seconds, by pid

    def __len__(self) -> int:
        return len(self._waited)

    def begin(self, pid: int, now: float) -> None:
        """Wait for the end of a worker from `now` (monotonic) on."""
        if not self._waited:
            self._checked = now
        self._waited.setdefault(pid, 0.0)

    def end(self, pid: int) -> None:
        """Record that a worker has ended, or will be killed."""
        self._waited.pop(pid, None)

    def overdue(self, now: float) -> list[int]:
        """Return the workers that have not ended in time, each of them once."""
        step, self._checked = min(now - self._checked, CHECK_DELAY), now
        self._waited = {pid: waited + step for pid, waited in self._waited.items()}
        late = [pid for pid, waited in self._waited.items() if waited > _EXIT_TIMEOUT]
        for pid in late:
            self.end(pid)
        return late
