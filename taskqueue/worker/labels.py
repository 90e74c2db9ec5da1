"""Which task each piece of a worker's output belongs to: a label before the piece says it.

A worker may be several tasks ahead of what its consumer has heard. A label is a zero byte, the task's number,
a space, the number of bytes that follow, and a zero byte. Output that bypasses Python's streams has none.
"""

import io
import os
import re
import sys
from collections.abc import Iterator
from typing import Any, Final

_LABEL: Final = re.compile(rb"\0(\d{1,20}) (\d{1,4})\0")
_BEGINNING: Final = re.compile(rb"\0(\d{0,20}|\d{1,20} \d{0,4})\Z")
_LONGEST: Final = 27  # bytes of a label
_PIECE: Final = (
    4096 - _LONGEST
)  # bytes; so that a pipe takes label and piece in one piece (PIPE_BUF, pipe(7))

_current = 0  # the task of this process


def begin(number: int) -> None:
    """Have what this process writes from now on labelled as a task's; 0 is none."""
    global _current  # noqa: PLW0603 -- as the streams themselves
    _current = number


def install() -> None:
    """Have sys.stdout and sys.stderr label what is written to them, which goes to a pipe, line by line."""
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
        if self._where() != self._pipe:  # a plugin has it lead elsewhere, where labels are not understood
            return super().write(data)
        piece = bytes(data[:_PIECE])
        written = super().write(b"\0%d %d\0%b" % (_current, len(piece), piece))
        return written and len(piece)  # None: a plugin has made it non-blocking, and it is full


class LabelReader:
    """Takes the labels out of a worker's output."""

    def __init__(self) -> None:
        """Begin with nothing read."""
        self._number = 0
        self._left = 0  # bytes of its piece that are to come
        self._rest = b""  # what may be the beginning of a label

    def feed(self, data: bytes) -> Iterator[tuple[int | None, bytes]]:
        """Take bytes in; yield pieces with the numbers of their tasks, None for a piece without a label."""
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
