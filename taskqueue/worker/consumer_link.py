"""A worker's end of the line to its consumer, and the progress that is told over it."""

import contextlib
import math
import socket
import threading
import time
from collections.abc import Callable
from typing import Final

from taskqueue.messages.names import NOTIFY
from taskqueue.texts import shorten
from taskqueue.worker import frames, labels

_PROGRESS_DELAY: Final = 0.1  # seconds; who tells of progress more often is heard so often
_NOTIFY: Final = NOTIFY.encode()


class ConsumerLink:
    """This process's end of the socket pair to its consumer; the handler's threads may use it, too."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._lock = threading.Lock()
        self._number: int | None = None  # of the task whose caller listens
        self._told = 0.0  # monotonic

    def send(self, frame: bytes) -> None:
        """Send a frame to the consumer."""
        with self._lock:
            self._link.sendall(frame)

    def begin(self, task: frames.TaskFrame) -> None:
        """Send progress for this task from now on, if its caller asked for it, and label its output."""
        asked = _NOTIFY in task.properties  # what the header says exactly, the consumer looks at
        self._number, self._told = task.number if asked else None, 0.0
        labels.begin(task.number)

    def tell(self, fraction: float, text: str) -> None:
        """Send progress of the current task, at most every _PROGRESS_DELAY seconds."""
        now, number = time.monotonic(), self._number
        if number is not None and now - self._told >= _PROGRESS_DELAY:
            self._told = now
            with contextlib.suppress(ConnectionError):  # the consumer is dead, and we are next
                self.send(frames.ProgressFrame(number, fraction, shorten(str(text), 1000)).encode())


#: Receiver of progress in this process: in a worker, the line to its consumer.
listeners: list[Callable[[float, str], None]] = []


def progress(fraction: float, text: str = "") -> None:
    """Tell the caller of the task that runs here how far it is: 0 is nothing, 1 is all.

    Without effect where nobody listens, and in a function that was simply called. What comes more than ten
    times a second is left out. Raises ValueError for NaN; other numbers are cut to the range from 0 to 1.
    """
    part = min(max(float(fraction), 0.0), 1.0)
    if math.isnan(part):
        raise ValueError(f"expected progress from 0 to 1, found {fraction}")
    for tell in listeners:
        tell(part, text)
