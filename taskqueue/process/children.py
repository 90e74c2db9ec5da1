"""Child processes: made, kept running, told apart when they die."""

import contextlib
import ctypes
import gc
import logging
import os
import resource
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from taskqueue.errors import ExitStatus
from taskqueue.process import startup

_STEADY: Final = 5.0  # seconds; a process that lived so long is started again at once
_FIRST_DELAY: Final = 0.25
_LONGEST_DELAY: Final = 60.0
_LONGEST_AFTER_WORK: Final = 1.0  # where it had begun to work: what it died of is most likely gone with it
_END_DELAY: Final = 0.01  # seconds between two looks at who is left
_KEPT_BACK: Final = (signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_PR_SET_NAME: Final = 15
_PR_SET_CHILD_SUBREAPER: Final = 36
_libc: Final = ctypes.CDLL(None, use_errno=True)

#: The children that `fork` made and `reap` has not collected; others are orphans that were adopted.
_ours: Final[set[int]] = set()


@dataclass(frozen=True, slots=True)
class Exit:
    """How a child process ended."""

    pid: int
    code: int  # the exit status, or the negative number of the signal that killed it
    peak_memory: int  # bytes

    @property
    def cause(self) -> str:
        """The end in words: "killed by SIGSEGV", "exit status 3"."""
        if self.code >= 0:
            return f"exit status {self.code}"
        try:
            return f"killed by {signal.Signals(-self.code).name}"
        except ValueError:
            return f"killed by signal {-self.code}"


def fork(run: Callable[[], int]) -> int:
    """Fork a child that runs `run` and exits with its result; return its pid.

    The child leads a session, and so a process group, of its own: it can be killed with all that it
    started, it cannot leave that group, and it has no terminal, into which a plugin could type as whoever
    sits there. It has no signal handlers of its parent's. A signal that its parent may send it is
    kept back until it can note that (`Signals`), or calls `let_signals_in`.

    Raises OSError where the machine, or our share of it, has no room for another process.
    """
    startup.flush()
    # Until the child has let go of its parent's handlers, a signal to it would be noted as the parent's.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _be_child(run, before)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    _ours.add(pid)
    return pid


def _be_child(run: Callable[[], int], mask: Iterable[int]) -> NoReturn:
    status: int = ExitStatus.SOFTWARE
    try:
        _ours.clear()
        os.setsid()
        _forget_signals()
        signal.pthread_sigmask(signal.SIG_SETMASK, {*mask, *_KEPT_BACK})
        gc.freeze()  # what the parent made stays shared: collecting would touch, and copy, its pages
        status = run()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else ExitStatus.SOFTWARE
    except BaseException:  # the child's last line: nothing may return into the parent's code
        logging.getLogger(__name__).critical("a bug of ours", exc_info=True)
    finally:
        with contextlib.suppress(Exception):
            startup.flush()
        os._exit(status)


def let_signals_in() -> None:
    """Have signals that were kept back since `fork` act as they do by default."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _KEPT_BACK)


def _forget_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if callable(signal.getsignal(number)) and number != signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def close_all_but(*kept: int) -> None:
    """Close every file descriptor beyond the standard streams, except those named."""
    # Those that are open, and not all that may be: that can be a thousand million (proc(5)).
    for descriptor in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if descriptor > 2 and descriptor not in kept:
            with contextlib.suppress(OSError):  # the one that the list was read by
                os.close(descriptor)


def open_files_allowed() -> tuple[int, int]:
    """Return how many open files this process may have for now, and how many it may allow itself."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)


def allow_open_files(number: int) -> None:
    """Let this process have so many open files; with more than 1,024, select(2) no longer works."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, open_files_allowed()[1]))


def die_with_parent(parent: int) -> None:
    """Have this process killed when its parent dies; call it after the last change of user.

    The kernel forgets the setting when the credentials change (prctl(2), PR_SET_PDEATHSIG).
    """
    if _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it died before the kernel was told
        os._exit(ExitStatus.OK)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends (prctl(2), PR_SET_CHILD_SUBREAPER)."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_orphans(timeout: float) -> int:
    """Kill every child that is left, and in turn what becomes an orphan by that; return how many there were.

    timeout -- seconds after which those that the kernel keeps, or that make others all the time, are left
    """
    deadline = time.monotonic() + timeout
    killed: set[int] = set()
    while (left := _children()) and time.monotonic() < deadline:
        killed.update(left)
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        reap()
        time.sleep(_END_DELAY)
    return len(killed)


def _children() -> list[int]:
    """Return this process's children, those that have ended and were not reaped included (proc(5))."""
    try:
        lists = [path.read_text() for path in Path("/proc/self/task").glob("*/children")]
    except OSError:
        return []  # a kernel without CONFIG_PROC_CHILDREN, or a machine without /proc
    return [int(pid) for pids in lists for pid in pids.split()]


def set_name(name: str) -> None:
    """Have `top` and `pstree` show this name for the process; the kernel takes 15 bytes of it."""
    _libc.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def set_title(title: str) -> None:
    """Have `ps` show a title instead of the words that the process was started with, no longer than those.

    It is written over them, which proc(5) calls arg_start to arg_end.
    """
    fields = Path("/proc/self/stat").read_bytes().rpartition(b") ")[2].split()  # from the third on
    start, end = int(fields[48 - 3]), int(fields[49 - 3])
    if end > start > 0:
        room = end - start
        ctypes.memmove(start, title.encode()[: room - 1].ljust(room, b"\0"), room)


def reap() -> list[Exit]:
    """Collect every child that has ended, without waiting, and kill what a child of ours left in its group.

    That is done while the kernel still keeps the child's id: afterwards it may be the group of somebody else.
    An adopted orphan's group is left alone: a daemon of a plugin's may be in it.
    """
    ended: list[Exit] = []
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return ended
        if found is None:
            return ended
        if found.si_pid in _ours:
            _ours.remove(found.si_pid)
            kill_rest(found.si_pid)
        ended.append(_exit(*os.wait4(found.si_pid, 0)))


def _exit(pid: int, status: int, usage: resource.struct_rusage) -> Exit:
    return Exit(pid, os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024)


def terminate(pid: int) -> None:
    """Ask a process, which may be gone, to end in order."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)


def reload(pid: int) -> None:
    """Ask a process, which may be gone, to read its configuration again."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGHUP)


def kill_group(pid: int) -> None:
    """Kill a child made by `fork` that was not reaped yet, and what it started and left in its group."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)  # it may not have come to lead its group yet
    kill_rest(pid)


def kill_rest(pid: int) -> None:
    """Kill what a child made by `fork`, which was not reaped yet, has in its group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


@dataclass(slots=True, eq=False)
class Slot:
    """The place of one process that shall run: whoever dies in it is followed by another.

    The first follower comes at once; those after it ever later, while each dies young: up to a minute
    where nobody came as far as to work, up to a second else.
    """

    name: str
    pid: int = 0  # 0: nobody is in it
    started: float = 0.0  # monotonic
    due: float = 0.0  # monotonic; not to be filled before
    deaths: int = 0  # in a row, each soon after the start
    is_retiring: bool = False  # whether who is in it said that another should follow
    is_dismissed: bool = False  # whether who is in it was killed for no fault of its own
    has_begun: bool = False  # whether who is in it came as far as to work

    def fill(self, pid: int) -> None:
        """Note who is in the slot now."""
        self.pid, self.started, self.has_begun = pid, time.monotonic(), False
        self.is_retiring = self.is_dismissed = False

    def vacate(self, *, expected: bool) -> float:
        """Note that the process is gone; return the seconds until the slot is filled again."""
        now = time.monotonic()
        if expected or now - self.started >= _STEADY:
            self.deaths = 0
        longest = _LONGEST_AFTER_WORK if self.has_begun else _LONGEST_DELAY
        delay = 0.0 if self.deaths == 0 else min(longest, _FIRST_DELAY * 2 ** min(self.deaths - 1, 16))
        self.deaths += 0 if expected else 1
        self.pid, self.due = 0, now + delay
        return delay

    @property
    def is_due(self) -> bool:
        """Whether a process should be started in it now."""
        return self.pid == 0 and time.monotonic() >= self.due
