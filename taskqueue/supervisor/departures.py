"""Workers that have closed their socket: each should be about to end."""

from typing import Final

_PATIENCE: Final = 5.0  # seconds that a worker may live on after it closed its socket

#: Seconds from one look for who lives on to the next, while there is anybody to look for.
LOOK_DELAY: Final = 1.0


class Departures:
    """Tells which workers live on after they have closed their socket.

    Only time counts in which we looked ourselves: where hundreds of processes end at once, or a host was
    frozen, we come to bury a worker long after it has ended.
    """

    def __init__(self) -> None:
        """Wait for nobody's end."""
        self._looked = 0.0  # monotonic
        self._waited: dict[int, float] = {}  # seconds, by pid

    def __len__(self) -> int:
        return len(self._waited)

    def begin(self, pid: int, now: float) -> None:
        """Wait for the end of a worker from `now` on, on the monotonic clock."""
        if not self._waited:
            self._looked = now
        self._waited.setdefault(pid, 0.0)

    def end(self, pid: int) -> None:
        """Note that a worker has ended, or will be killed."""
        self._waited.pop(pid, None)

    def overdue(self, now: float) -> list[int]:
        """Look after those who are waited for; return who lives on for too long, once."""
        step, self._looked = min(now - self._looked, LOOK_DELAY), now
        self._waited = {pid: waited + step for pid, waited in self._waited.items()}
        late = [pid for pid, waited in self._waited.items() if waited > _PATIENCE]
        for pid in late:
            self.end(pid)
        return late
