"""Programs that run as children: started without a shell, with few files, and dead with their parent."""

import contextlib
import errno
import fcntl
import functools
import os
import resource
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, NoReturn

from taskqueue.process import children

_FIRST_FREE: Final = 10  # descriptors from here on are none that a program gets
_MOST_FILES: Final = 2**31 - 1
_IGNORED_BY_PYTHON: Final = (signal.SIGPIPE, signal.SIGXFSZ)
_NOT_STARTED: Final = 127  # an exit status as a shell's
_LAUNCHERS: Final = ("/usr/bin/setpriv", "/usr/bin/prlimit")  # of util-linux, which every Debian has
_NOT_EXECUTED: Final = (126, 127)  # exit statuses of launchers that cannot execute a program
_SCRIPT: Final = b"#!"
_END_DELAY: Final = 0.01  # seconds between two checks for remaining processes
_KILL_TIMEOUT: Final = 5.0  # seconds that the kernel may take to end killed processes


@dataclass(frozen=True, slots=True)
class Program:
    """A program to be started.

    Args:
        arguments: its absolute path, and its arguments.
        environment: its whole environment.
        files: the descriptors of this process that it gets, by their numbers there.
        cpu_limit: seconds of processor time after which the kernel kills it; 0 for no limit.
    """

    arguments: Sequence[bytes]
    environment: Mapping[bytes, bytes]
    files: Mapping[int, int]
    cpu_limit: int = 0


def start(program: Program) -> int:
    """Start a program as a child of this process; return its process id.

    The program dies with this process. It has no files but the standard streams and those that it gets.

    Raises OSError if the program cannot be started.
    """
    reader, writer = os.pipe()  # takes the error number of a start that fails
    try:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _become(program, parent, writer)
        os.close(writer)
        writer = -1
        failure = os.read(reader, 16)
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)
    if failure:
        os.waitpid(pid, 0)
        raise OSError(int(failure), os.strerror(int(failure)))
    return pid


def spawn(program: Program) -> int:
    """Start a program as `start` does, but without a copy of this process: that takes a third of the time.

    setpriv(1) has the program die with this process, and prlimit(1) limits its processor time. (Should this
    process end before setpriv has begun, the end of its group is that of the program.) They would pass a file
    of an unknown format to a shell, which is why `start` starts that.

    Raises OSError if the program cannot be started. If that turns out later, `was_executed` tells.
    """
    if not _has_known_format(program.arguments[0]):
        return start(program)
    launcher, limiter = _LAUNCHERS
    command: list[str | bytes] = [launcher, "--pdeathsig", "KILL", "--"]
    if program.cpu_limit:
        command += [limiter, f"--cpu={_cpu_limits(0, program.cpu_limit)[0]}:", "--"]
    files = [(os.POSIX_SPAWN_DUP2, ours, theirs) for theirs, ours in program.files.items()]
    return os.posix_spawn(
        launcher,
        [*command, *program.arguments],
        program.environment,
        file_actions=files,
        setsigdef=_IGNORED_BY_PYTHON,
    )


def _has_known_format(path: bytes) -> bool:
    try:
        return _format(path) in (_SCRIPT, _own_format()) and os.access(path, os.X_OK)
    except OSError:
        return False


def _format(path: bytes) -> bytes:
    """Return the format of a script or a program: of that, its kind and its processor (elf(5))."""
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 -- in half the time
        head = file.read(20)
    return _SCRIPT if head.startswith(_SCRIPT) else head[:7] + head[18:]


@functools.cache
def _own_format() -> bytes:
    return _format(b"/proc/self/exe")


def prepare_to_spawn() -> None:
    """Keep this process's open files from programs, except the standard streams.

    Raises FileNotFoundError, with its text, if a launcher is missing.
    """
    for launcher in _LAUNCHERS:
        if not Path(launcher).exists():
            raise FileNotFoundError(f"{launcher} does not exist; the package util-linux contains it")
    for file in Path("/proc/self/fd").iterdir():
        if int(file.name) > 2:
            with contextlib.suppress(OSError):  # the one of the listing itself
                os.set_inheritable(int(file.name), False)


def was_executed(pid: int) -> bool:
    """Tell whether a spawned process was executed; it has ended, but is not reaped."""
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    if ended is None or ended.si_code != os.CLD_EXITED or ended.si_status not in _NOT_EXECUTED:
        return True
    name = Path(f"/proc/{pid}/comm").read_text(errors="replace").rstrip("\n")
    return name not in {Path(launcher).name for launcher in _LAUNCHERS}


def _become(program: Program, parent: int, failed: int) -> NoReturn:
    try:
        failed = _moved(failed)
        children.die_with_parent(parent)
        moved = {theirs: _moved(ours) for theirs, ours in program.files.items()}
        for theirs, ours in moved.items():
            os.dup2(ours, theirs)
        _close_all_but(0, 1, 2, *moved, failed)
        for number in _IGNORED_BY_PYTHON:
            signal.signal(number, signal.SIG_DFL)
        if program.cpu_limit:
            limit_cpu(0, program.cpu_limit)
        arguments = list(program.arguments)
        os.execve(arguments[0], arguments, program.environment)  # noqa: S606 -- without a shell on purpose
    except BaseException as error:  # noqa: BLE001 -- nothing may return into the parent's code
        os.write(failed, b"%d" % (getattr(error, "errno", None) or errno.EINVAL))
    finally:
        os._exit(_NOT_STARTED)


def _moved(file: int) -> int:
    """Return another number of a file, in the way of none that the program gets."""
    return fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE)


def _close_all_but(*kept: int) -> None:
    """Close all other files; Python closes a range of them by one call of the system (close_range(2))."""
    for low, high in pairwise(sorted({*kept, _MOST_FILES})):
        if low + 1 < high:  # Python 3.11 closes everything for the empty range (0, 0)
            os.closerange(low + 1, high)


def limit_cpu(pid: int, seconds: int) -> None:
    """Allow a process of this user (0 is this one) so many seconds of processor time (RLIMIT_CPU)."""
    resource.prlimit(pid, resource.RLIMIT_CPU, _cpu_limits(pid, seconds))


def _cpu_limits(pid: int, seconds: int) -> tuple[int, int]:
    """Return the soft and the hard limit of a process that may use so many seconds of processor time."""
    hard = resource.prlimit(pid, resource.RLIMIT_CPU)[1]
    return (seconds if hard == resource.RLIM_INFINITY else min(seconds, hard)), hard


def terminate(timeout: float) -> bool:
    """End all descendants of this process, by SIGTERM and then by SIGKILL; return whether they have ended.

    This process must adopt orphans, so that no descendant escapes.

    timeout -- seconds from SIGTERM to SIGKILL
    """
    for pid in children.descendants():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + timeout
    while has_children() and time.monotonic() < deadline:
        time.sleep(_END_DELAY)
        children.reap()
    return end_all()


def end_all() -> bool:
    """Kill all descendants of this process; return whether they have ended."""
    if has_children():
        children.end_orphans(_KILL_TIMEOUT)
    return not has_children()


def has_children() -> bool:
    """Tell whether this process has children, running or not yet reaped."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def die_as(status: int) -> NoReturn:
    """End this process as a program ended: by the signal that killed it, or with its exit status.

    status -- the exit status, or the negative number of the signal
    """
    if status < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the core would be this process's
        if -status not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status if status >= 0 else _NOT_STARTED)
