"""What the supervisor and a consumer say to each other: small JSON messages, some with open files.

They travel over a socket pair of the kind SOCK_SEQPACKET, which keeps messages apart and whole.
"""

import json
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

_LONGEST: Final = 160 * 1024  # bytes; a socket takes 208 KiB unless the machine is told otherwise
_MOST_FILES: Final = 4


@dataclass(frozen=True, slots=True)
class Message:
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

    A side that is gone is no error here: whoever waits for it notices. ValueError for a message too long.
    """
    data = json.dumps([word, content]).encode()
    if len(data) > _LONGEST:
        raise ValueError(f"a message {word!r} of {len(data)} bytes")
    try:
        socket.send_fds(end, [data], list(files))
    except ConnectionError:
        pass
    except OSError:  # no room for the message, or for as many open files on their way
        return False
    return True


def receive(end: socket.socket) -> Message | None:
    """Return the next message, or None if there is none now; EOFError where the other side is gone."""
    try:
        data, files, _, _ = socket.recv_fds(end, _LONGEST, _MOST_FILES)
    except BlockingIOError:
        return None
    except ConnectionError:
        data, files = b"", []
    if not data:
        for file in files:
            os.close(file)
        raise EOFError
    word, content = json.loads(data)
    return Message(word, content, tuple(files))
