"""A consumer's reports to its supervisor; none is lost while the supervisor is too busy to read."""

import socket
from collections import deque
from typing import Any, Final

from taskqueue.broker.loop import EventLoop
from taskqueue.pool import control

_AGAIN: Final = 0.2  # seconds until what found no room is sent again


class Reports:
    """Sends messages in their order; what finds no room waits for it."""

    def __init__(self, loop: EventLoop, end: socket.socket) -> None:
        """Send through the consumer's end of the pair."""
        self._loop = loop
        self._end = end
        self._waiting: deque[tuple[str, dict[str, Any]]] = deque()

    def send(self, word: str, **content: Any) -> None:
        """Send a message, at once or as soon as there is room for it."""
        if self._waiting or not control.send(self._end, word, **content):
            if not self._waiting:
                self._loop.call_later(_AGAIN, self._send_again)
            self._waiting.append((word, content))

    def _send_again(self) -> None:
        while self._waiting:
            word, content = self._waiting[0]
            if not control.send(self._end, word, **content):
                self._loop.call_later(_AGAIN, self._send_again)
                return
            self._waiting.popleft()
