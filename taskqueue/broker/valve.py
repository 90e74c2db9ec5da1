"""Stops reading from one connection for a while, so that the rest waits in TCP and not in our memory.

A prefetch counts messages, whatever their size; 500 of them may be 500 x 16 MiB.
"""

from collections.abc import Callable
from typing import Any

from pika.adapters.select_connection import IOLoop


class ReadValve:
    """The loop as one connection sees it: it watches the connection's socket, but reads only while open."""

    READ, WRITE, ERROR = IOLoop.READ, IOLoop.WRITE, IOLoop.ERROR

    def __init__(self, ioloop: IOLoop, on_error: Callable[[ValueError], None]) -> None:
        """Pass everything on to `ioloop`; reading is open.

        on_error -- takes a ValueError of pika's own, which would else end the loop
        """
        self.is_open = True
        self._on_error = on_error
        self._ioloop = ioloop
        self._events: dict[int, int] = {}  # what the connection wants to hear of, by file descriptor

    def __getattr__(self, name: str) -> Any:
        """Timers and callbacks are the loop's own."""
        return getattr(self._ioloop, name)

    def open(self) -> None:
        """Read again."""
        self._set(is_open=True)

    def close(self) -> None:
        """Read no more; what the broker sends waits in the socket."""
        self._set(is_open=False)

    def _set(self, *, is_open: bool) -> None:
        if self.is_open != is_open:
            self.is_open = is_open
            for descriptor, events in self._events.items():
                self._ioloop.update_handler(descriptor, self._admitted(events))

    def _admitted(self, events: int) -> int:
        return events if self.is_open else events & ~self.READ

    # --- what pika calls ---

    def add_handler(self, descriptor: int, handler: Callable[[int, int], None], events: int) -> None:
        """Watch a file descriptor."""

        def handle(ready: int, found: int) -> None:
            if not self.is_open and found & ~self.WRITE:
                self.open()  # an error or a hang-up: the connection must see it
            try:
                handler(ready, found)
            except ValueError as error:
                self._on_error(error)

        self._events[descriptor] = events
        self._ioloop.add_handler(descriptor, handle, self._admitted(events))

    def update_handler(self, descriptor: int, events: int) -> None:
        """Watch for other events."""
        self._events[descriptor] = events
        self._ioloop.update_handler(descriptor, self._admitted(events))

    def remove_handler(self, descriptor: int) -> None:
        """Watch no more."""
        del self._events[descriptor]
        self._ioloop.remove_handler(descriptor)
