"""A worker's stdout and stderr, copied to the daemon's log line by line."""

import contextlib
import math
import os
import time
from collections.abc import Callable
from typing import Final

from taskqueue.worker.labels import LabelReader

_CHUNK: Final = 65_536  # bytes read at a time
_LONGEST_LINE: Final = 4096  # bytes; longer ones are cut up
_BURST: Final = 2.0  # seconds' worth of lines that may come at once
TELL_DELAY: Final = 1.0  # seconds between two lines that tell how many were dropped


class OutputPump:
    """Reads the pipe that a worker's stdout and stderr lead to, and passes lines on at a bounded rate.

    Beyond the rate lines are counted and dropped: a plugin that floods its output must neither fill
    the log nor wait for it.
    """

    def __init__(self, descriptor: int, rate: int, write: Callable[[str, int | None], None]) -> None:
        """Read from `descriptor`, which is ours from now on; pass `rate` lines a second to `write`.

        write -- takes a line, and the number of the task that it belongs to: 0 for none, None if nobody says
        """
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._rate = rate
        self._write = write
        self._labels = LabelReader()
        self._number: int | None = None  # the task that what comes now belongs to
        self._rest = b""
        self._credit = rate * _BURST
        self._credited = time.monotonic()
        self.dropped = 0  # lines that nobody has been told of yet
        self._told = -math.inf  # monotonic; when the log was told of some

    def fileno(self) -> int:
        """Return the pipe's file descriptor, to be watched."""
        return self._descriptor

    def pump(self) -> bool:
        """Pass on what can be read now, at most one chunk; tell whether more may come."""
        return self._read() != b""

    def drain(self, chunks: int = 2) -> None:
        """Pass on what a worker wrote until now: a pipe holds one chunk, unless a plugin has enlarged it."""
        for _ in range(chunks):
            if not self._read():
                return

    def tell_dropped(self) -> None:
        """Write how many lines were dropped, if any were."""
        if self.dropped:
            lines = "1 line" if self.dropped == 1 else f"{self.dropped} lines"
            self._write(f"({lines} dropped: more than {self._rate} a second)", None)
            self.dropped, self._told = 0, time.monotonic()

    def close(self) -> None:
        """Pass on what is left, and close the pipe."""
        self.drain(16)
        if self._rest:
            self._pass_on(self._rest)
        self.tell_dropped()
        with contextlib.suppress(OSError):
            os.close(self._descriptor)

    def _read(self) -> bytes | None:
        """Pass on a chunk and return it; None if there is none now, b"" if there never will be."""
        try:
            data = os.read(self._descriptor, _CHUNK)
        except BlockingIOError:
            return None
        for number, piece in self._labels.feed(data):
            self._number = number
            self._take(piece)
        return data

    def _take(self, piece: bytes) -> None:
        self._earn()
        *lines, self._rest = (self._rest + piece).split(b"\n", int(self._credit) + 1)
        for line in lines:
            self._pass_on(line)
        if end := self._rest.rfind(b"\n") + 1:  # nobody looks at each of a million empty lines
            self.dropped += self._rest.count(b"\n")
            self._rest = self._rest[end:]
        while len(self._rest) > _LONGEST_LINE:
            self._pass_on(self._rest[:_LONGEST_LINE])
            self._rest = self._rest[_LONGEST_LINE:]

    def _pass_on(self, line: bytes) -> None:
        for start in range(0, max(len(line), 1), _LONGEST_LINE):
            self._write_or_drop(line[start : start + _LONGEST_LINE])

    def _earn(self) -> None:
        now = time.monotonic()
        self._credit = min(self._rate * _BURST, self._credit + (now - self._credited) * self._rate)
        self._credited = now

    def _write_or_drop(self, line: bytes) -> None:
        if self._credit < 1:
            self.dropped += 1
            return
        self._credit -= 1
        if self._credited - self._told >= TELL_DELAY:
            self.tell_dropped()
        self._write(line.decode("utf-8", "replace"), self._number)
