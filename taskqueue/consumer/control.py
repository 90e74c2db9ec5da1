"""Messages between the supervisor and a consumer: small JSON objects, some with open files.

They travel over a socket pair of type SOCK_SEQPACKET, which preserves message boundaries.
"""

import json
import math
import os
import socket
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from taskqueue.texts import shorten

if TYPE_CHECKING:
    from taskqueue.broker.loop import EventLoop  # at run time it would bring pika into the supervisor

_LONGEST: Final = 160 * 1024  # bytes; by default a socket's send buffer has 208 KiB


_LONGEST_TEXT: Final = 4096  # characters of a text in a message


_MOST_FILES: Final = 4


#: Seconds until messages that found no room in the socket are sent again.
RESEND_DELAY: Final = 0.1


@dataclass(frozen=True, slots=True)
class ControlMessage:
    """One message and its files; the receiver owns the files."""

    word: str
    content: dict[str, Any]
    files: tuple[int, ...]


def pair() -> tuple[socket.socket, socket.socket]:
    """Return the supervisor's and the consumer's end, both non-blocking."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
    return ends


def send(end: socket.socket, word: str, files: Sequence[int] = (), **content: Any) -> bool:
    """Send a message; return False if the socket has no room, because the other side has not read.

    If the other side is gone, the message is dropped without an error: the owner of the process notices its
    end. The middle of a long text is left out. Raises ValueError for a message that is too long.
    """
    texts = {key: shorten(part, _LONGEST_TEXT) for key, part in content.items() if isinstance(part, str)}
    data = json.dumps([word, content | texts]).encode()
    if len(data) > _LONGEST:
        raise ValueError(f"control message {word!r} has {len(data)} bytes; at most {_LONGEST} are allowed")
    try:
        socket.send_fds(end, [data], list(files))
    except ConnectionError:
        pass
    except OSError:  # no room for the message, or too many open files in transit
        return False
    return True


class Sender:
    """Sends messages in order; a message that finds no room waits, with copies of its open files.

    A socket has room for some hundred messages. As many workers may start or die while the other side is too
    busy to read.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[str, list[int], dict[str, Any]]] = deque()

    @property
    def is_waiting(self) -> bool:
        """Whether a message waits for room in the socket."""
        return bool(self._waiting)

    def send(self, end: socket.socket, word: str, files: Sequence[int] = (), **content: Any) -> None:
        """Send a message now or, if there is no room, by `send_again`; the caller may close the files."""
        if self._waiting or not send(end, word, files, **content):
            self._waiting.append((word, [os.dup(file) for file in files], content))

    def send_again(self, end: socket.socket) -> None:
        """Send waiting messages while there is room."""
        while self._waiting:
            word, files, content = self._waiting[0]
            if not send(end, word, files, **content):
                return
            self._drop()

    def clear(self) -> None:
        """Drop all waiting messages."""
        while self._waiting:
            self._drop()

    def _drop(self) -> None:
        for file in self._waiting.popleft()[1]:
            os.close(file)


def receive(end: socket.socket) -> ControlMessage | None:
    """Return the next message, or None if there is none now.

    Raises EOFError if the other side is gone, and ValueError for a malformed message.
    """
    try:
        data, files, flags, _ = socket.recv_fds(end, _LONGEST, _MOST_FILES)
    except BlockingIOError:
        return None
    except ConnectionError:
        data, files, flags = b"", [], 0
    if not data:
        for file in files:
            os.close(file)
        raise EOFError
    if flags & socket.MSG_TRUNC:
        raise ValueError(f"control message has more than {_LONGEST} bytes")
    match _decode(data):
        case [str(word), dict(content)]:
            return ControlMessage(word, content, tuple(files))
    raise ValueError("control message is not a word with its content")


def _decode(data: bytes) -> Any:
    """Decode JSON of a process that may be hostile; ValueError if it is none, or a number is not finite."""
    try:
        return json.loads(data, parse_constant=_finite, parse_float=_finite)
    except RecursionError:
        raise ValueError("control message is nested too deeply") from None


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"control message has the number {text}")
    return number


class Reports:
    """Sends a consumer's messages to its supervisor in order; a message that finds no room waits."""

    def __init__(self, loop: "EventLoop", end: socket.socket) -> None:
        self._loop = loop
        self._end = end
        self._sender = Sender()

    def send(self, word: str, **content: Any) -> None:
        """Send a message as soon as there is room for it."""
        was_waiting = self._sender.is_waiting
        self._sender.send(self._end, word, **content)
        if not was_waiting:
            self._schedule_resend()

    def _schedule_resend(self) -> None:
        if self._sender.is_waiting:
            self._loop.call_later(RESEND_DELAY, self._send_again)

    def _send_again(self) -> None:
        self._sender.send_again(self._end)
        self._schedule_resend()
