"""A consumer's reports to its supervisor; none is lost while the supervisor is too busy to read."""

import socket
from typing import Any

from taskqueue.broker.loop import EventLoop
from taskqueue.consumer import control


class Reports:
    """Sends messages in their order; what finds no room waits for it."""

    def __init__(self, loop: EventLoop, end: socket.socket) -> None:
        """Send through the consumer's end of the pair."""
        self._loop = loop
        self._end = end
        self._sender = control.Sender()

    def send(self, word: str, **content: Any) -> None:
        """Send a message, at once or as soon as there is room for it."""
        was_waiting = self._sender.is_waiting
        self._sender.send(self._end, word, **content)
        if not was_waiting:
            self._go_on()

    def _go_on(self) -> None:
        if self._sender.is_waiting:
            self._loop.call_later(control.AGAIN, self._send_again)

    def _send_again(self) -> None:
        self._sender.send_again(self._end)
        self._go_on()
