"""Credit to begin with a task, which can be taken back until the worker has used it.

Beside each task its number goes to the worker, on a socket pair whose receiving end the consumer holds, too.
The kernel gives each number to one of the two: to the worker, which then begins with that task, or to the
consumer, which may then give the task to somebody else.
"""

import contextlib
import socket
import struct
from collections.abc import Iterable, Iterator
from typing import Final

_NUMBER: Final = struct.Struct(">Q")
_MOST: Final = 8192  # bytes; more than a worker is ever sent ahead


class Credits:
    """The consumer's side."""

    def __init__(self, giving: int, using: int) -> None:
        """Take over the descriptors of both ends."""
        self._giving, self._using = socket.socket(fileno=giving), socket.socket(fileno=using)
        self._giving.setblocking(False)

    def give(self, numbers: Iterable[int]) -> None:
        """Let the worker begin with tasks, in this order; without effect on one that died."""
        try:  # noqa: SIM105 -- a context manager takes as long as the call
            self._giving.send(b"".join(map(_NUMBER.pack, numbers)))
        except OSError:
            pass

    def take_back(self) -> set[int]:
        """Return the numbers of tasks that the worker has not begun and will not begin.

        Raises ValueError where the worker took a part of a number: nobody knows what it has begun.
        """
        try:
            data = self._using.recv(_MOST, socket.MSG_DONTWAIT)
        except OSError:  # there are none
            return set()
        if len(data) % _NUMBER.size:
            raise ValueError("it took a part of a credit")
        return {number for (number,) in _NUMBER.iter_unpack(data)}

    def end(self) -> None:
        """Tell the worker that there will be no more."""
        with contextlib.suppress(OSError):
            self._giving.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Let go of both ends."""
        self._giving.close()
        self._using.close()


def granted(credit: socket.socket) -> Iterator[int]:
    """Yield the numbers of tasks as the worker may begin with them, until there will be no more."""
    while data := credit.recv(_NUMBER.size):
        yield _NUMBER.unpack(data)[0]
