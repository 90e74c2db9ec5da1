"""Daemons: pid file, readiness, detaching, the service manager, signals."""

import contextlib
import errno
import fcntl
import os
import resource
import select
import signal
import socket
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from taskqueue.errors import AlreadyRunning, ConfigError, ExitStatus, TaskqueueError
from taskqueue.process import startup

DAEMON_UMASK = 0o027
_LINE = "TASKQUEUE_NOTIFY"  # variable: the socket to our own supervisor, as descriptor and inode
_ONCE = frozenset((signal.SIGHUP, signal.SIGCHLD))
_OPEN_FILES = 65_536  # limit for a daemon in the background
_REPORT_LIMIT = 65536  # bytes of a report to the process that started the daemon


class PidFile:
    """A locked pid file, and a status file beside it: ``with PidFile(path): ...``.

    The process holds a record lock (fcntl(2)) on the pid file. The kernel releases the lock when the process
    ends, even by SIGKILL, and forked children do not inherit it, so a stale file blocks no start. Only the
    owner may read the file: any process that can open it could lock it, and so block a start.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._status = self._path.with_suffix(".status")
        self._descriptor = -1

    def __enter__(self) -> Self:
        """Lock the pid file and write the id of this process into it.

        Raises:
            AlreadyRunning: another process holds the lock.
            ConfigError: the file cannot be created or written, or is no regular file.
        """
        try:
            self._descriptor = _open_locked(self._path)
            self._status.unlink(missing_ok=True)  # left by a killed process
            os.fchmod(self._descriptor, 0o600)  # it may exist with another mode
            os.truncate(self._descriptor, 0)
            os.write(self._descriptor, b"%d\n" % os.getpid())
        except OSError as error:
            raise ConfigError([f"pid file {self._path}: {error.strerror}"]) from None
        return self

    def __exit__(self, *exception: object) -> None:
        self._status.unlink(missing_ok=True)
        # Removed before it is unlocked: `_open_locked` of another process finds that its file is gone.
        with contextlib.suppress(OSError):  # the directory may be removed, or not writable any more
            self._path.unlink()
        os.close(self._descriptor)

    def tell(self, status: str) -> None:
        """Write the status of the process into the status file, which all users may read."""
        new = self._status.with_suffix(".new")
        with contextlib.suppress(OSError):  # a full disk is no reason to stop
            new.unlink(missing_ok=True)
            # Other users may write into the directory; their links and FIFOs are not opened.
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(f"{status}\n")
                os.fchmod(descriptor, 0o644)  # independent of the umask
            new.rename(self._status)


def _open_locked(path: Path) -> int:
    """Open a pid file and lock it, but not one that is removed meanwhile."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NOCTTY | os.O_NONBLOCK
    while True:
        descriptor = os.open(path, flags, 0o600)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "expected a file, found something else")
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_file(descriptor, path):
                return descriptor
        except (BlockingIOError, PermissionError):  # POSIX allows either
            holder = os.read(descriptor, 20).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise AlreadyRunning(f"already running: process {holder or 'unknown'} holds {path}") from None
        os.close(descriptor)


def _is_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


class Readiness:
    """Reports to the process that started this one that it is ready, or why it cannot start.

    As a context manager it holds the pid file; an exception that leaves it before `ready` counts as `failed`.
    `detach` and `foreground` make one.
    """

    def __init__(self, pidfile: str | None = None, report: int | None = None) -> None:
        self._pidfile = PidFile(pidfile) if pidfile else None
        self._report = report
        self._failure: tuple[int, str] | None = None

    def __enter__(self) -> Self:
        """Take the pid file.

        Raises:
            AlreadyRunning: another process holds the pid file.
            ConfigError: the pid file cannot be written.
        """
        try:
            if self._pidfile is not None:
                self._pidfile.__enter__()
        except TaskqueueError as error:
            self._tell(error.status, str(error))
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.failed(*_explain(error))
        if self._pidfile is not None:
            self._pidfile.__exit__(kind, error, trace)
        if self._failure is not None:
            self._tell(*self._failure)

    def ready(self) -> None:
        """Report to the service manager and to the waiting parent that this process is ready."""
        notify("READY=1")
        self._tell(ExitStatus.OK, "")

    def tell(self, status: str) -> None:
        """Report the status of this process to the service manager and in the status file."""
        notify(f"STATUS={status}")
        if self._pidfile is not None:
            self._pidfile.tell(status)

    def failed(self, status: int, message: str) -> None:
        """Record the first failure before `ready`; it is reported at the end.

        The process that gets the report may start another daemon at once, which must not find this one.
        """
        self._failure = self._failure or (status, message)

    def _tell(self, status: int, message: str) -> None:
        if self._report is None:
            return
        descriptor, self._report = self._report, None
        report = f"{status} {message}".encode(errors="backslashreplace")[: _REPORT_LIMIT - 1] + b"\0"
        with contextlib.suppress(BrokenPipeError):  # the parent was killed while it waited
            os.write(descriptor, report)
        os.close(descriptor)


def _explain(error: BaseException) -> tuple[int, str]:
    match error:
        case TaskqueueError():
            return error.status, str(error)
        case SystemExit(code=int(code)):
            return code, f"ended with status {code} before it was ready"
        case _:
            return ExitStatus.SOFTWARE, f"{type(error).__name__}: {error}"


def foreground(pidfile: str | None = None) -> Readiness:
    """Stay in the foreground; only the service manager, if there is one, gets reports."""
    return Readiness(pidfile)


def detach(pidfile: str | None = None, keep_fds: Sequence[int] = ()) -> Readiness:
    """Become a daemon: own session, directory "/", umask 027, standard streams on /dev/null.

    Returns in the daemon only. The calling process waits until the daemon is ready and exits with status 0,
    or prints the report of the daemon and exits with its status.

    Args:
        pidfile: path of the pid file, or None for none; taken when the result is entered.
        keep_fds: file descriptors that stay open; all others are closed.
    """
    pidfile = str(Path(pidfile).absolute()) if pidfile else None  # the current directory changes
    reader, writer = os.pipe()
    startup.flush()  # else both processes write the buffered text
    if os.fork():
        os.close(writer)
        _leave_with(reader)
    os.close(reader)
    _become_daemon([writer, *keep_fds])
    return Readiness(pidfile, writer)


def _become_daemon(keep_fds: list[int]) -> None:
    _bound_open_files()
    # Imported after the limit: python-daemon 2.3 takes memory for each file that may be open.
    from daemon import DaemonContext  # noqa: PLC0415

    DaemonContext(
        detach_process=True,  # else it stays in the foreground as a child of process 1, as in containers
        files_preserve=keep_fds,
        signal_map={},  # `Signals` handles them
        umask=DAEMON_UMASK,
    ).open()


def _bound_open_files() -> None:
    """Lower the limit on open files to that of the systemd units.

    In containers it may be a thousand million, and python-daemon 2.3 makes a set of as many numbers.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard > _OPEN_FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, _OPEN_FILES), _OPEN_FILES))


def _leave_with(reader: int) -> NoReturn:
    """Wait for the report of the daemon and exit with its status; files of the caller are not closed."""
    report = b""
    # A child of the daemon may hold the pipe open, so a NUL marks the end of the report.
    while not report.endswith(b"\0") and (data := os.read(reader, _REPORT_LIMIT)):
        report += data
    if report.endswith(b"\0"):
        status, _, message = report[:-1].decode().partition(" ")
    else:
        status, message = str(int(ExitStatus.SOFTWARE)), "the daemon died before it was ready, see its log"
    if message:
        startup.complain(message + "\n")
    os._exit(int(status))


def notify_through(descriptor: int) -> None:
    """Make `notify`, here and in programs executed by this process, write to our supervisor's socket."""
    os.set_inheritable(descriptor, True)
    os.environ[_LINE] = f"{descriptor}:{os.fstat(descriptor).st_ino}"
    os.environ.pop("NOTIFY_SOCKET", None)


def _told_through() -> int | None:
    """Return the socket to our supervisor; None if it is closed or replaced by another file."""
    descriptor, _, inode = os.environ.get(_LINE, "").partition(":")
    with contextlib.suppress(OSError, ValueError):
        if os.fstat(int(descriptor)).st_ino == int(inode):
            return int(descriptor)
    return None


def notify(state: str) -> None:
    """Notify the service manager, as sd_notify(3) does, or our own supervisor.

    Without one, or on errors, nothing happens.

    Args:
        state: "READY=1", "STOPPING=1", "STATUS=text" and the like, several joined with newlines.
    """
    line = _told_through()
    if line is not None:
        with contextlib.suppress(OSError):
            os.write(line, state.encode())
        return
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # the abstract namespace
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.sendto(state.encode(), socket.MSG_DONTWAIT, address)


def watchdog_delay() -> float | None:
    """Return the seconds between two calls of ``notify("WATCHDOG=1")``; None if there is no watchdog.

    It is half of the watchdog's timeout, as sd_watchdog_enabled(3) advises.
    """
    allowed = os.environ.get("WATCHDOG_USEC", "")
    meant = os.environ.get("WATCHDOG_PID") in (None, str(os.getpid()))  # children inherit both
    return int(allowed) / 2_000_000 if meant and allowed.isdecimal() and int(allowed) else None


class Signals:
    """Records signals for a loop, which acts on them; the handlers do nothing.

    A process has one active object at most, in its main thread::

        with Signals((signal.SIGTERM, signal.SIGCHLD)) as signals:
            for number in signals.wait(timeout=1.0): ...

    A loop with its own poll(2) watches `fileno` and calls `pending`.
    """

    def __init__(self, wanted: Iterable[signal.Signals]) -> None:
        self._wanted = tuple(wanted)
        self._reader = self._writer = -1
        self._old_wakeup = -1
        self._old_handlers: dict[signal.Signals, Callable[..., object] | int | None] = {}

    def __enter__(self) -> Self:
        """Begin to record the wanted signals."""
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # The interpreter's own C handler writes the signal's number there; it can neither block nor raise.
        self._old_wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._old_handlers = {number: signal.signal(number, _noted) for number in self._wanted}
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._wanted)  # blocked since children.fork
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        signal.set_wakeup_fd(self._old_wakeup)
        os.close(self._reader)
        os.close(self._writer)

    def fileno(self) -> int:
        """Return a file descriptor that is readable while a signal is pending."""
        return self._reader

    def pending(self) -> list[signal.Signals]:
        """Return the signals since the last call, in order, without waiting.

        SIGHUP and SIGCHLD occur once at most: one reload serves a hundred requests.
        """
        noted: list[signal.Signals] = []
        once: set[int] = set()
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._reader, 4096):
                for number in data:  # also those of other handlers; most real-time signals have no name
                    if number in self._wanted and number not in once:
                        noted.append(signal.Signals(number))
                        once |= {number} & _ONCE
        return noted

    def wait(self, timeout: float | None = None) -> list[signal.Signals]:
        """Wait for signals and return them; [] after `timeout` seconds."""
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        poll.poll(None if timeout is None else timeout * 1000)
        return self.pending()


def _noted(_number: int, _frame: object) -> None:
    """Do nothing: the C handler has written the number into the pipe, which requires a Python handler."""
