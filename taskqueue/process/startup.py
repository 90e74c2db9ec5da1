"""A clean start, whoever started this process, and streams that may not be written to.

Blocked and ignored signals and closed files of a parent are inherited across fork(2) and execve(2).
"""

import contextlib
import io
import os
import signal
import sys
from typing import Final, TextIO

from taskqueue import texts

#: Left as they are: a shell ignores them for its background jobs, nohup(1) for a command that stays, and
#: Python itself ignores the last two, so that a write fails instead.
_LEFT: Final = {
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGPIPE,
    signal.SIGXFSZ,
}


def clean_signals() -> None:
    """Block no signal, and have those that a parent ignored act as they do by default.

    Where SIGCHLD is ignored, a child's exit status is lost (wait(2)); where SIGALRM is blocked, no time limit
    is kept.
    """
    for number in signal.valid_signals() - _LEFT:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def open_streams() -> None:
    """Open what is closed of the file descriptors 0 to 2; have stdout and stderr show any text.

    Otherwise the next file to be opened, such as the one with the broker's password, becomes a standard
    stream. Output to a closed stream is dropped; to read from a closed stdin is an error.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_WRONLY), True)  # the lowest free number is this one
    # Python has None for a stream that was closed.
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 -- open until the end
    sys.stdout = _showing_all(sys.stdout, 1)
    sys.stderr = _showing_all(sys.stderr, 2)


def _showing_all(stream: TextIO | None, descriptor: int) -> TextIO:
    """Return a stream that escapes what its encoding lacks: a result must not be lost for a character."""
    stream = stream or open(descriptor, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 -- open until the end
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return stream


def flush() -> None:
    """Write out what stdout and stderr still hold, as far as that is possible."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()


def show(line: str) -> None:
    """Write a line to stdout, if it takes that; on a terminal, control characters are shown escaped."""
    try:
        sys.stdout.write(f"{texts.lines(line) if sys.stdout.isatty() else line}\n")
        sys.stdout.flush()
    except OSError:
        give_up(sys.stdout)


def complain(text: str) -> None:
    """Write to stderr, if it takes that: its lack is no reason to end, or to end with another status.

    Control characters but line ends are shown escaped: messages name what others have sent.
    """
    try:
        sys.stderr.write(texts.lines(text))
        sys.stderr.flush()
    except OSError:
        give_up(sys.stderr)


def give_up(stream: TextIO) -> None:
    """Drop what a stream cannot write: else the interpreter tries it again at its end, and ends with 120."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()
