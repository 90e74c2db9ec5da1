"""What other threads want done in a client's own thread."""

import os
from collections import deque
from collections.abc import Callable


class ActionQueue:
    """Takes actions from any thread; a loop that watches it is woken, and performs them in their order."""

    def __init__(self) -> None:
        """Begin empty."""
        self._actions: deque[Callable[[], None]] = deque()
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def __len__(self) -> int:
        """Return how many actions wait."""
        return len(self._actions)

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self._descriptor

    def put(self, action: Callable[[], None]) -> None:
        """Have something done; from any thread."""
        self._actions.append(action)
        os.eventfd_write(self._descriptor, 1)

    def take_in(self) -> None:
        """Do what is wanted; the loop calls this."""
        os.eventfd_read(self._descriptor)
        self.empty()

    def empty(self) -> None:
        """Do what is wanted now."""
        while True:
            try:
                action = self._actions.popleft()
            except IndexError:
                return
            action()

    def close(self) -> None:
        """Close it, once."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        """Close it when nobody can put anything into it any more."""
        self.close()
