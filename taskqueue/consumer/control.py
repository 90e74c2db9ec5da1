"""Messages between the supervisor and a consumer: small JSON objects, some with open files.

They travel over a socket pair of the kind SOCK_SEQPACKET, which keeps messages apart and whole.
"""

import json
import os
import socket
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from taskqueue.texts import shorten

if TYPE_CHECKING:
    from taskqueue.broker.loop import EventLoop  # at run time it would bring pika into the supervisor

_LONGEST: Final = 160 * 1024  # bytes; a socket takes 208 KiB unless the machine is told otherwise


_LONGEST_TEXT: Final = 4096  # characters of what is said in words


_MOST_FILES: Final = 4


#: Seconds until what found no room is sent again.
AGAIN: Final = 0.1


@dataclass(frozen=True, slots=True)
class ControlMessage:
    """One message and the files that came with it; the receiver owns them."""

    word: str
    content: dict[str, Any]
    files: tuple[int, ...]


def pair() -> tuple[socket.socket, socket.socket]:
    """Return the supervisor's and the consumer's end; neither ever waits."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
    return ends


def send(end: socket.socket, word: str, files: Sequence[int] = (), **content: Any) -> bool:
    """Send a message; return False if the other side has not read for so long that there is no room.

    A side that is gone is no error here: whoever waits for it notices. Of a long text the middle is left out.
    ValueError for a message too long.
    """
    texts = {key: shorten(part, _LONGEST_TEXT) for key, part in content.items() if isinstance(part, str)}
    data = json.dumps([word, content | texts]).encode()
    if len(data) > _LONGEST:
        raise ValueError(f"a message {word!r} of {len(data)} bytes")
    try:
        socket.send_fds(end, [data], list(files))
    except ConnectionError:
        pass
    except OSError:  # no room for the message, or for as many open files on their way
        return False
    return True


class Sender:
    """Sends messages in their order; what finds no room waits, with copies of its open files.

    A socket has room for some hundred messages: as many workers may start, or die, in a moment in which the
    other side has no time to read.
    """

    def __init__(self) -> None:
        """Begin with nothing that waits."""
        self._waiting: deque[tuple[str, list[int], dict[str, Any]]] = deque()

    @property
    def is_waiting(self) -> bool:
        """Whether some message has found no room yet."""
        return bool(self._waiting)

    def send(self, end: socket.socket, word: str, files: Sequence[int] = (), **content: Any) -> None:
        """Send a message now or, where there is no room, by `send_again`; the files may be closed then."""
        if self._waiting or not send(end, word, files, **content):
            self._waiting.append((word, [os.dup(file) for file in files], content))

    def send_again(self, end: socket.socket) -> None:
        """Send what waits, as far as there is room for it."""
        while self._waiting:
            word, files, content = self._waiting[0]
            if not send(end, word, files, **content):
                return
            self._drop()

    def clear(self) -> None:
        """Forget what waits."""
        while self._waiting:
            self._drop()

    def _drop(self) -> None:
        for file in self._waiting.popleft()[1]:
            os.close(file)


def receive(end: socket.socket) -> ControlMessage | None:
    """Return the next message, or None if there is none now.

    Raises EOFError where the other side is gone, and ValueError for a message that is none of ours.
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
        raise ValueError(f"a message of more than {_LONGEST} bytes")
    match json.loads(data):
        case [str(word), dict(content)]:
            return ControlMessage(word, content, tuple(files))
    raise ValueError("no word with its content")


class Reports:
    """Sends messages in their order; what finds no room waits for it."""

    def __init__(self, loop: "EventLoop", end: socket.socket) -> None:
        """Send through the consumer's end of the pair."""
        self._loop = loop
        self._end = end
        self._sender = Sender()

    def send(self, word: str, **content: Any) -> None:
        """Send a message, at once or as soon as there is room for it."""
        was_waiting = self._sender.is_waiting
        self._sender.send(self._end, word, **content)
        if not was_waiting:
            self._go_on()

    def _go_on(self) -> None:
        if self._sender.is_waiting:
            self._loop.call_later(AGAIN, self._send_again)

    def _send_again(self) -> None:
        self._sender.send_again(self._end)
        self._go_on()
