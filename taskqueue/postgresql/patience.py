"""Statements that are never answered, though the kernel of the other host is there.

A statement of psycopg has no time limit. So a thread looks once a second, and shuts down connections on which
one has run for too long; the statement then fails as one of a lost connection.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Final
from weakref import WeakSet

PATIENCE: Final = 30.0  # seconds; the recorder writes 5,000 events in half a second
_STEP: Final = 1.0

_lines: "WeakSet[Line]" = WeakSet()  # on which a statement runs
_lock: Final = threading.Lock()
_begun: Final = threading.Condition(_lock)
_threads: Final[list[threading.Thread]] = []  # at most one


class Line:
    """The socket of a connection, by a descriptor of its own."""

    def __init__(self, descriptor: int) -> None:
        """Duplicate the descriptor of a connected socket."""
        self._socket = socket.socket(fileno=socket.dup(descriptor))
        self._deadline = 0.0  # monotonic
        self.is_cut = False

    @contextlib.contextmanager
    def statement(self, limit: float) -> Iterator[None]:
        """Cut the line if the context takes longer than `limit` seconds."""
        self._deadline = time.monotonic() + limit
        with _lock:
            _lines.add(self)
            _begun.notify()
            if not _threads or not _threads[0].is_alive():  # a fork leaves threads behind
                _threads[:] = [threading.Thread(target=_watch, name="patience", daemon=True)]
                _threads[0].start()
        try:
            yield
        finally:
            with _lock:
                _lines.discard(self)

    def is_late(self) -> bool:
        """Whether the statement has run for too long."""
        return time.monotonic() > self._deadline

    def cut(self) -> None:
        """End the connection, without waiting; any thread may call this."""
        self.is_cut = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the descriptor."""
        self._socket.close()


def _watch() -> None:
    while True:
        with _lock:
            while not _lines:
                _begun.wait()
            for line in [line for line in _lines if line.is_late()]:
                line.cut()
        time.sleep(_STEP)
