"""The channels beside the frames: credits, which permit a task to start, and the labelled output.

For each task the consumer sends its number over a second socket pair, of which it also holds the receiving
end. The kernel gives each number to one reader: to the worker, which then begins that task, or to the
consumer, which may then give the task to another worker.

A worker may be several tasks ahead of the consumer's knowledge, so labels in its output name the task of each
piece. A label is a zero byte, the task's number, a space, the number of bytes that follow, and a zero byte.
Output that bypasses Python's streams has none.
"""

import contextlib
import io
import os
import re
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from typing import Any, Final

_NUMBER: Final = struct.Struct(">Q")
_MOST: Final = 8192  # bytes; more than is ever sent ahead to a worker


class Credits:
    """The consumer's side of a credit channel. It owns the descriptors of both ends."""

    def __init__(self, giving: int, using: int) -> None:
        self._giving, self._using = socket.socket(fileno=giving), socket.socket(fileno=using)
        self._giving.setblocking(False)

    def give(self, numbers: Iterable[int]) -> None:
        """Allow the worker to begin tasks, in this order; no effect if it is dead."""
        try:  # noqa: SIM105 -- a context manager takes as long as the call
            self._giving.send(b"".join(map(_NUMBER.pack, numbers)))
        except OSError:
            pass

    def take_back(self) -> set[int]:
        """Return the numbers of the tasks that the worker has not begun and cannot begin any more.

        Raises ValueError if the worker took a part of a number: it is then unknown which tasks it has begun.
        """
        try:
            data = self._using.recv(_MOST, socket.MSG_DONTWAIT)
        except OSError:  # no credit is left
            return set()
        if len(data) % _NUMBER.size:
            raise ValueError("it read a part of a credit")
        return {number for (number,) in _NUMBER.iter_unpack(data)}

    def is_unused(self, number: int) -> bool:
        """Tell whether the worker has not begun a task, and still can."""
        try:
            data = self._using.recv(_MOST, socket.MSG_DONTWAIT | socket.MSG_PEEK)
        except OSError:  # no credit is left
            return False
        whole = data[: len(data) // _NUMBER.size * _NUMBER.size]
        return any(number == each for (each,) in _NUMBER.iter_unpack(whole))

    def end(self) -> None:
        """Signal the end of credits to the worker."""
        with contextlib.suppress(OSError):
            self._giving.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close both ends."""
        self._giving.close()
        self._using.close()


def granted(credit: socket.socket) -> Iterator[int]:
    """Yield the numbers of tasks as the worker may begin them, until the end of credits."""
    while data := credit.recv(_NUMBER.size):
        yield _NUMBER.unpack(data)[0]


def granted_now(credit: socket.socket, most: int) -> list[int]:
    """Return the numbers of up to `most` tasks that the worker may begin, without waiting for one."""
    try:
        data = credit.recv(most * _NUMBER.size, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return []
    return [number for (number,) in _NUMBER.iter_unpack(data)]


_LABEL: Final = re.compile(rb"\0(\d{1,20}) (\d{1,4})\0")
_BEGINNING: Final = re.compile(rb"\0(\d{0,20}|\d{1,20} \d{0,4})\Z")
_LONGEST: Final = 27  # bytes of a label
_PIECE: Final = 4096 - _LONGEST  # bytes; a pipe takes label and piece atomically (PIPE_BUF, pipe(7))

_current = 0  # the number of the current task


def label_as(number: int) -> None:
    """Label this process's further output with a task's number; 0 is none."""
    global _current  # noqa: PLW0603 -- sys.stdout and sys.stderr are global, too
    _current = number


def label_output() -> None:
    """Make sys.stdout and sys.stderr, which are pipes, label their output line by line."""
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        writer = io.BufferedWriter(_Labelled(descriptor))
        setattr(sys, name, io.TextIOWrapper(writer, "utf-8", "backslashreplace", line_buffering=True))


class _Labelled(io.FileIO):
    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._pipe = self._where()

    def _where(self) -> tuple[int, int]:
        found = os.fstat(self.fileno())
        return found.st_dev, found.st_ino

    def write(self, data: Any) -> int:
        if self._where() != self._pipe:  # a plugin has redirected it; the reader there knows no labels
            return super().write(data)
        piece = bytes(data[:_PIECE])
        written = super().write(b"\0%d %d\0%b" % (_current, len(piece), piece))
        return written and len(piece)  # None: a plugin made the pipe non-blocking, and it is full


class LabelReader:
    """Removes the labels from a worker's output."""

    def __init__(self) -> None:
        self._number = 0
        self._left = 0  # missing bytes of its piece
        self._rest = b""  # possibly the beginning of a label

    def feed(self, data: bytes) -> Iterator[tuple[int | None, bytes]]:
        """Add bytes; yield pieces with the numbers of their tasks, None for a piece without a label."""
        data, self._rest = self._rest + data, b""
        position = 0
        while position < len(data):
            if self._left:
                piece = data[position : position + self._left]
                self._left -= len(piece)
                position += len(piece)
                yield self._number, piece
                continue
            label = _LABEL.search(data, position)
            beginning = label or _BEGINNING.search(data, max(position, len(data) - _LONGEST))
            end = beginning.start() if beginning else len(data)
            if end > position:
                yield None, data[position:end]
            if label is None:
                self._rest = data[end:]
                return
            self._number, self._left, position = int(label[1]), int(label[2]), label.end()
