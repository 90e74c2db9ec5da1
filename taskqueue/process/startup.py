"""The state in which a process starts: signals, standard streams, a directory for data.

Blocked and ignored signals and closed files of a parent are inherited across fork(2) and execve(2).
"""

import contextlib
import io
import os
import signal
import sys
from pathlib import Path
from typing import Final, TextIO

from taskqueue import texts
from taskqueue.errors import ConfigError

#: The state of root's `taskqueue up`.
ROOTS_UP: Final = Path("/var/lib/taskqueue/up")

#: Left unchanged: a shell ignores these for its background jobs, nohup(1) for its command, and Python
#: ignores the last two, so that a write fails instead.
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
    """Unblock all signals, and restore the default action of those that the parent ignored.

    If SIGCHLD is ignored, the exit status of a child is lost (wait(2)); if SIGALRM is blocked, timeouts do
    not work.
    """
    for number in signal.valid_signals() - _LEFT:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def open_streams() -> None:
    """Open those of the file descriptors 0 to 2 that are closed; let stdout and stderr take any text.

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
    """Return a stream that escapes characters missing in its encoding, so that no result is lost."""
    stream = stream or open(descriptor, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 -- open until the end
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return stream


def flush() -> None:
    """Flush stdout and stderr; ignore errors."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()


def show(line: str) -> None:
    """Write a line to stdout; ignore errors. On a terminal, control characters are escaped."""
    try:
        sys.stdout.write(f"{texts.lines(line) if sys.stdout.isatty() else line}\n")
        sys.stdout.flush()
    except OSError:
        give_up(sys.stdout)


def complain(text: str) -> None:
    """Write to stderr; ignore errors.

    Control characters except line ends are escaped, because messages quote input of others.
    """
    try:
        sys.stderr.write(texts.lines(text))
        sys.stderr.flush()
    except OSError:
        give_up(sys.stderr)


def give_up(stream: TextIO) -> None:
    """Drop the output that a stream cannot write: else Python retries at exit, and exits with status 120."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()


def state_home(purpose: str) -> Path:
    """Return the directory for the state of a user's programs (XDG base directory specification).

    Raises ConfigError, with the `purpose`, if the user has no home directory.
    """
    base = Path(os.environ.get("XDG_STATE_HOME", ""))
    if base.is_absolute():
        return base
    try:
        return Path.home() / ".local" / "state"
    except RuntimeError:  # as in a container
        found = f"neither, and user id {os.geteuid()} has no home"
        words = f"no place for {purpose}: expected XDG_STATE_HOME or HOME, found {found}"
        raise ConfigError([words]) from None


def state_of_up(purpose: str, name: str = "") -> Path:
    """Return the directory for some state of `taskqueue up`, in the user's home under this name.

    Root's is one for all, outside of root's home, which the users of the daemons cannot enter. Raises as
    `state_home` does.
    """
    if os.geteuid() == 0 and not os.environ.get("XDG_STATE_HOME"):
        return ROOTS_UP
    return state_home(purpose) / "taskqueue" / name
