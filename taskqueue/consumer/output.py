"""A worker's stdout and stderr, copied to the daemon's log line by line."""

import contextlib
import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from taskqueue.broker.loop import EventLoop
from taskqueue.worker.channels import LabelReader

_CHUNK: Final = 65_536  # bytes read at a time
_LONGEST_LINE: Final = 4096  # bytes; longer ones are cut up
_BURST: Final = 2.0  # burst size, in seconds' worth of lines
_REPORT_DELAY: Final = 1.0  # seconds between two reports of dropped lines
_MOST_HELD: Final = 20  # lines of the current task beyond the rate


class OutputPump:
    """Reads the pipe of a worker's stdout and stderr, and passes lines on at a bounded rate.

    Lines beyond the rate are counted and dropped: a plugin that floods its output must neither fill the log
    nor block on it. The last ones of the current task are held, and passed on once the rate allows it, or at
    the end of the output: those of a task that hangs or kills its worker say why, whatever came before them.
    """

    def __init__(self, descriptor: int, rate: int, write: Callable[[str, int | None], None]) -> None:
        """Take over `descriptor` and read from it; pass at most `rate` lines a second to `write`.

        write -- takes a line and the number of its task: 0 for no task, None if the task is unknown
        """
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._rate = rate
        self._write = write
        self._labels = LabelReader()
        self._number: int | None = None  # the task of the output being read
        self._rest = b""
        self._tokens = rate * _BURST
        self._refilled = time.monotonic()
        self._held: deque[bytes] = deque(maxlen=_MOST_HELD if rate else 0)  # of the current task
        self.dropped = 0  # lines whose loss has not been reported yet
        self._loser: int | None = None  # the task that they are of; 0: of several
        self._reported = -math.inf  # monotonic; when dropped lines were last reported

    def fileno(self) -> int:
        """Return the pipe's file descriptor, for the event loop."""
        return self._descriptor

    def pump(self) -> bool:
        """Pass on at most one chunk; return whether more may come."""
        return self._read() != b""

    def drain(self, chunks: int = 2) -> None:
        """Pass on the output so far: a pipe holds one chunk, unless a plugin has enlarged it."""
        for _ in range(chunks):
            if not self._read():
                return

    @property
    def is_behind(self) -> bool:
        """Whether lines wait, to be reported or to be passed on."""
        return bool(self.dropped or self._held)

    def catch_up(self) -> None:
        """Report the number of dropped lines, if any, and pass on held ones as far as the rate allows it."""
        self._report_dropped()
        self._refill()
        self._release()

    def _report_dropped(self) -> None:
        if self.dropped:
            lines = "1 line" if self.dropped == 1 else f"{self.dropped} lines"
            self._write(f"({lines} dropped: more than {self._rate} a second)", self._loser)
            self.dropped, self._reported = 0, time.monotonic()

    def close(self) -> None:
        """Pass on the remaining output, and close the pipe."""
        self.drain(16)
        if self._rest:
            self._pass_on(self._rest)
        self._report_dropped()
        self._tokens = max(self._tokens, len(self._held))  # once in the life of a worker
        self._release()
        with contextlib.suppress(OSError):
            os.close(self._descriptor)

    def _read(self) -> bytes | None:
        """Pass on a chunk and return it; None if there is none now, b"" at the end of the output."""
        try:
            data = os.read(self._descriptor, _CHUNK)
        except BlockingIOError:
            return None
        for number, piece in self._labels.feed(data):
            if number != self._number:
                self._begin(number)
            self._take(piece)
        return data

    def _begin(self, number: int | None) -> None:
        """Drop what is held of a task that is over."""
        self._lose(len(self._held))
        self._held.clear()
        self._number = number

    def _take(self, piece: bytes) -> None:
        self._refill()
        *lines, self._rest = (self._rest + piece).split(b"\n", int(self._tokens) + 1)
        for line in lines:
            self._pass_on(line)
        if end := self._rest.rfind(b"\n") + 1:  # without a look at each of a million empty lines
            self._drop(self._rest[:end])
            self._rest = self._rest[end:]
        while len(self._rest) > _LONGEST_LINE:
            self._pass_on(self._rest[:_LONGEST_LINE])
            self._rest = self._rest[_LONGEST_LINE:]

    def _pass_on(self, line: bytes) -> None:
        for start in range(0, max(len(line), 1), _LONGEST_LINE):
            self._write_or_drop(line[start : start + _LONGEST_LINE])

    def _refill(self) -> None:
        now = time.monotonic()
        self._tokens = min(self._rate * _BURST, self._tokens + (now - self._refilled) * self._rate)
        self._refilled = now

    def _write_or_drop(self, line: bytes) -> None:
        if self._tokens >= 1 and self._refilled - self._reported >= _REPORT_DELAY:
            self._report_dropped()
        self._release()
        if self._tokens >= 1:
            self._pass(line)
        else:
            self._drop(line + b"\n")

    def _release(self) -> None:
        while self._held and self._tokens >= 1:
            self._pass(self._held.popleft())

    def _pass(self, line: bytes) -> None:
        self._tokens -= 1
        self._write(line.decode("utf-8", "replace"), self._number)

    def _drop(self, lines: bytes) -> None:
        """Drop whole lines; hold the last ones of a task."""
        most = self._held.maxlen if self._number else 0
        last = lines[:-1].rsplit(b"\n", most)[-most:] if most else []
        self._lose(lines.count(b"\n") - len(last) + max(0, len(self._held) + len(last) - (most or 0)))
        self._held.extend(line[:_LONGEST_LINE] for line in last)

    def _lose(self, number: int) -> None:
        if number:
            self._loser = self._number if not self.dropped or self._loser == self._number else 0
            self.dropped += number


class WorkerOutput:
    """Passes a worker's output on while the loop runs."""

    def __init__(
        self, loop: EventLoop, descriptor: int, rate: int, write: Callable[[str, int | None], None]
    ) -> None:
        self._loop = loop
        self._pump = OutputPump(descriptor, rate, write)
        self._is_open = True
        self._is_reporting = False
        loop.watch(self._pump, self._readable)

    def drain(self) -> None:
        """Pass on the output so far."""
        if self._is_open:
            self._pump.drain()
            self._catch_up_later()

    def close(self) -> None:
        """Pass on the remaining output, and close the pipe."""
        if self._is_open:
            self._is_open = False
            self._loop.unwatch(self._pump)
            self._pump.close()

    def _readable(self) -> None:
        if not self._is_open:
            return
        if self._pump.pump():
            self._catch_up_later()
        else:
            self.close()

    def _catch_up_later(self) -> None:
        """Schedule a report of dropped lines, in case no further line triggers one."""
        if self._pump.is_behind and not self._is_reporting:
            self._is_reporting = True
            self._loop.call_later(_REPORT_DELAY, self._catch_up)

    def _catch_up(self) -> None:
        self._is_reporting = False
        if self._is_open:
            self._pump.catch_up()
            self._catch_up_later()


def level_of(line: str) -> tuple[int, str]:
    """Return the level and text of a line that a worker's logging wrote; INFO and the line for all others."""
    name, mark, text = line.partition(": ")
    level = logging.getLevelNamesMapping().get(name) if mark else None
    return (level, text) if level else (logging.INFO, line)
