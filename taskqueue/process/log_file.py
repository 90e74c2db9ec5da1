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

    A buffer would keep a line that a full disk refused, and fail again when it is closed. A line that cannot
    be written is lost; the next successful write begins with the number of lost lines.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.descriptor = descriptor
        self._lost = 0  # number of lost lines, not reported yet
        self._why = ""
        self._is_torn = False  # whether the last line was written in part

    def succeed(self, old: "LineWriter") -> None:
        """Take over the report of the lines that an older writer has lost."""
        self._lost, self._why, self._is_torn = old._lost, old._why, old._is_torn  # noqa: SLF001 -- of its kind

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, and before it the number of lost lines, if there are any."""
        try:
            if self._lost:
                self._write(self.format(self._loss()))
                self._lost = 0
            self._write(self.format(record))
        except OSError as error:
            self._lost += 1
            self._why = error.strerror or str(error)
        except Exception:  # noqa: BLE001 -- a faulty log call must not end its caller
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
                "msg": "%d log lines could not be written and are lost (%s)",
                "args": (self._lost, self._why),
            }
        )


class LogFile(LineWriter):
    """A log file, readable for its owner and group, that is opened again after logrotate has renamed it."""

    def __init__(self, path: str, owner: str | None) -> None:
        self._path, self._owner = path, owner
        super().__init__(_open(path, owner))

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line to the file that now has the name."""
        self._reopen_if_moved()
        super().emit(record)

    def close(self) -> None:
        """Close the file."""
        super().close()
        with contextlib.suppress(OSError):  # NFS reports failed writes at the end
            os.close(self.descriptor)

    def _reopen_if_moved(self) -> None:
        """Open the file again if its name now belongs to another file, or to none.

        If that fails, the old file is still written.
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

    Other users may be allowed to write into its directory: root follows no link there, and does not wait for
    a FIFO. Raises OSError, with the kind that was found, if it is neither a file nor a character device.
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
        if error.errno == errno.ENXIO:  # open(2): a FIFO without a reader, or a socket
            raise OSError(errno.EINVAL, "expected a file, found a FIFO or a socket", path) from None
        raise
    mode = os.fstat(descriptor).st_mode
    if found := next((name for is_one, name in _KINDS if is_one(mode)), None):
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"expected a file, found {found}", path)
    os.set_blocking(descriptor, True)
    return descriptor
