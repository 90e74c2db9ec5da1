"""Log lines written to a file descriptor: each in one write(2), and a failure costs only the line."""

import contextlib
import errno
import logging
import os
import pwd
import stat
from pathlib import Path
from typing import Final

_KINDS: Final = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISBLK, "a block device"),
)


class LineWriter(logging.Handler):
    """Writes each record to a file descriptor, with nothing buffered.

    A buffer would keep what a full disk has refused, and fail with it again when it is closed. A line that
    cannot be written is lost; before the next one that can be, a line says how many were.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.descriptor = descriptor
        self._lost = 0  # lines that nobody has been told of yet
        self._why = ""
        self._is_torn = False  # whether the last line was written in part

    def succeed(self, old: "LineWriter") -> None:
        """Tell in its place of the lines that an older one has lost."""
        self._lost, self._why, self._is_torn = old._lost, old._why, old._is_torn  # noqa: SLF001 -- of its kind

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, and before it, if any were lost, one that says so."""
        try:
            if self._lost:
                self._write(self.format(self._loss()))
                self._lost = 0
            self._write(self.format(record))
        except OSError as error:
            self._lost += 1
            self._why = error.strerror or str(error)
        except Exception:  # noqa: BLE001 -- what is wrong with a line must not end its caller
            self.handleError(record)

    def _write(self, line: str) -> None:
        data = b"\n" * self._is_torn + f"{line}\n".encode(errors="backslashreplace")
        while data:
            data = data[os.write(self.descriptor, data) :]
            self._is_torn = bool(data)  # in case the rest fails

    def _loss(self) -> logging.LogRecord:
        return logging.makeLogRecord(
            {
                "name": __name__,
                "levelno": logging.WARNING,
                "levelname": "WARNING",
                "msg": "log lines lost that could not be written: %d (%s)",
                "args": (self._lost, self._why),
            }
        )


class LogFile(LineWriter):
    """A file that is opened again after logrotate moved it, and that only its owner and group read."""

    def __init__(self, path: str, owner: str | None) -> None:
        self._path, self._owner = path, owner
        super().__init__(_open(path, owner))

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, to the file that has the name now."""
        self._reopen_if_moved()
        super().emit(record)

    def close(self) -> None:
        """Close the file."""
        super().close()
        with contextlib.suppress(OSError):  # NFS tells only now what it could not write
            os.close(self.descriptor)

    def _reopen_if_moved(self) -> None:
        """Open the file again if another one, or none, has its name now.

        Where that is not allowed, the old one goes on being written: better there than nowhere.
        """
        with contextlib.suppress(OSError):
            if os.path.samestat(Path(self._path).stat(), os.fstat(self.descriptor)):
                return
        try:
            new = _open(self._path, self._owner)
        except OSError:
            return
        old, self.descriptor, self._is_torn = self.descriptor, new, False
        with contextlib.suppress(OSError):
            os.close(old)


def _open(path: str, owner: str | None) -> int:
    """Open a log file, or make it, and give it to `owner` if this is root.

    Others may be allowed to write into its directory. They must neither lead root to another file by a link
    nor keep it waiting by a FIFO. OSError with what was found where it is no file.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    if os.geteuid() == 0:
        flags |= os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o640)
    except FileExistsError:
        return _checked(path, flags)
    if owner is not None and os.geteuid() == 0:
        os.fchown(descriptor, pwd.getpwnam(owner).pw_uid, -1)
    return descriptor


def _checked(path: str, flags: int) -> int:
    """Open what exists, if it is a file or a device such as /dev/null."""
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ENXIO:  # open(2): a FIFO that nobody reads, or a socket
            raise OSError(errno.EINVAL, "expected a file, found a FIFO or a socket", path) from None
        raise
    mode = os.fstat(descriptor).st_mode
    if found := next((name for is_one, name in _KINDS if is_one(mode)), None):
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"expected a file, found {found}", path)
    os.set_blocking(descriptor, True)
    return descriptor
