"""A running program that reads lines from its descriptor 3 and writes lines to its descriptor 4."""

import contextlib
import fcntl
import os
import select
import struct
import termios
from collections.abc import Mapping, Sequence
from typing import Final

from taskqueue.errors import TaskqueueError
from taskqueue.process import programs
from taskqueue.process.usage import processor_time

_CHUNK: Final = 65_536  # bytes read at a time
_CLOSING: Final = 1.0  # seconds that an ending process may take after its files are closed


class BrokenLine(TaskqueueError):
    """The program broke the protocol; the text continues a sentence that begins with its name."""


class Ended(TaskqueueError):
    """The program ended before its answer.

    Args:
        code: its exit status, or the negative number of the signal that killed it.
        is_unread: whether it had read nothing of what was written last.
    """

    def __init__(self, code: int, *, is_unread: bool) -> None:
        super().__init__(code)
        self.code, self.is_unread = code, is_unread


class LineProgram:
    """A child of this process, and this process's ends of the pipes to it."""

    def __init__(self, command: Sequence[bytes], environment: Mapping[bytes, bytes], longest: int) -> None:
        """Start the program. Raises OSError if that fails.

        longest -- the maximum length of a line that it writes, in bytes
        """
        self._longest = longest
        self._rest = bytearray()  # of what it wrote, after the last line that was taken
        self._searched = 0  # bytes of it in which no line ends
        self._unsent = bytearray()
        self._written = 0  # bytes that the pipe has taken since the last call of `write`
        self._status: int | None = None
        theirs, self._input = os.pipe()
        self._output, their_output = os.pipe()
        try:
            self.pid = programs.start(programs.Program(command, environment, {3: theirs, 4: their_output}))
            self._end = os.pidfd_open(self.pid)
        except BaseException:
            os.close(self._input)
            os.close(self._output)
            raise
        finally:
            os.close(theirs)
            os.close(their_output)
        os.set_blocking(self._input, False)
        os.set_blocking(self._output, False)
        self._poll = select.poll()
        self._poll.register(self._output, select.POLLIN)
        self._poll.register(self._end, select.POLLIN)

    def is_waiting(self) -> bool:
        """Tell whether it runs and has written nothing since its last answer."""
        return not self._rest and not self._poll.poll(0)

    def status(self) -> int | None:
        """Return its exit status, or the negative number of a signal; None while it runs."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status

    def idle_end(self) -> int | None:
        """Return the status of a program that ended between two workitems; None if it wrote something."""
        if not self._rest and not self._read():
            self._ends_within(_CLOSING)
        return self.status()

    def write(self, data: bytes) -> None:
        """Write lines; `next_line` goes on with what the pipe does not take at once."""
        self._written = 0
        self._unsent += data
        with contextlib.suppress(BrokenPipeError):  # `next_line` meets it again
            self._send()
        if self._unsent:
            self._poll.register(self._input, select.POLLOUT)

    def next_line(self) -> bytes:
        """Wait for the next line that the program writes.

        Raises BrokenLine if it writes too long a line or closes its files, and Ended if it ends.
        """
        while (line := self._take_line()) is None:
            ready = {file for file, _ in self._poll.poll()}
            if self._output in ready:
                if not self._read():
                    self._await_end()
                    raise BrokenLine("closed descriptor 4")
            elif self._end in ready:
                raise self._ended()
            if self._input in ready:
                self._send_more()
        return line

    def _send_more(self) -> None:
        try:
            self._send()
        except BrokenPipeError:
            self._await_end()
            raise BrokenLine("closed descriptor 3") from None
        if not self._unsent:
            self._poll.unregister(self._input)

    def _send(self) -> None:
        try:
            sent = os.write(self._input, self._unsent)
        except BlockingIOError:
            return
        self._written += sent
        del self._unsent[:sent]

    def _read(self) -> bool:
        """Take what the program has written; return False at the end."""
        try:
            data = os.read(self._output, _CHUNK)
        except BlockingIOError:  # a process that it has left holds the pipe
            return True
        self._rest += data
        return bool(data)

    def _take_line(self) -> bytes | None:
        """Take a complete line. Raises BrokenLine for a line that is too long, even before its end."""
        end = self._rest.find(b"\n", self._searched)
        self._searched = len(self._rest) if end < 0 else 0
        self._check_length(len(self._rest) if end < 0 else end)
        if end < 0:
            return None
        line = bytes(self._rest[:end])
        del self._rest[: end + 1]
        return line

    def _check_length(self, length: int) -> None:
        if length > self._longest:
            raise BrokenLine(f"wrote a line of more than {self._longest} bytes (max_result)")

    def _await_end(self) -> None:
        """Raise Ended if it ends now: the files of an ending process are closed before it has ended."""
        if self._ends_within(_CLOSING):
            raise self._ended()

    def _ends_within(self, timeout: float) -> bool:
        poll = select.poll()
        poll.register(self._end, select.POLLIN)
        return bool(poll.poll(timeout * 1000))

    def _ended(self) -> "Ended":
        (unread,) = struct.unpack("i", fcntl.ioctl(self._input, termios.FIONREAD, bytes(4)))
        os.waitid(os.P_PIDFD, self._end, os.WEXITED | os.WNOWAIT)
        return Ended(self.status() or 0, is_unread=unread == self._written)

    def used_cpu(self) -> int:
        """Return the whole seconds of processor time that the process has used."""
        return int(processor_time(self.pid))

    def finish(self, timeout: float) -> None:
        """End its input, and wait for its end, at most `timeout` seconds."""
        os.close(self._input)
        self._input = -1
        self._ends_within(timeout)

    def close(self) -> None:
        """Close this process's files."""
        for file in (self._input, self._output, self._end):
            if file >= 0:
                os.close(file)
