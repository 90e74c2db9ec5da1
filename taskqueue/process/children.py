"""Child processes: how they are forked, reaped, killed and started again."""

import contextlib
import ctypes
import errno
import gc
import logging
import os
import pickle
import resource
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from taskqueue.errors import ExitStatus, TaskqueueError
from taskqueue.process import startup

if TYPE_CHECKING:
    from taskqueue.process.cgroups import Cgroup

T = TypeVar("T")

_STEADY: Final = 5.0  # seconds; the successor of a process that lived longer starts at once
_FIRST_DELAY: Final = 0.25
_LONGEST_DELAY: Final = 60.0
_LONGEST_AFTER_WORK: Final = 1.0  # seconds, for a process that had begun to work
_END_DELAY: Final = 0.01  # seconds between two checks for remaining children
_BLOCKED: Final = (signal.SIGTERM, signal.SIGHUP)  # in a child until it can handle them
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_PR_GET_PDEATHSIG: Final = 2
_PR_SET_NAME: Final = 15
_PR_SET_CHILD_SUBREAPER: Final = 36
_libc: Final = ctypes.CDLL(None, use_errno=True)

#: The children that `fork` made and `reap` has not collected; other children are adopted orphans.
_ours: Final[set[int]] = set()


@dataclass(frozen=True, slots=True)
class Exit:
    """The end of a child process."""

    pid: int
    code: int  # the exit status, or the negative number of the signal that killed it
    peak_memory: int  # bytes
    reason: str = ""  # why it was killed, if the kernel says so

    @property
    def cause(self) -> str:
        """The cause of the end, as "killed by SIGSEGV" or "exit status 3"."""
        return f"{self._how}: {self.reason}" if self.reason else self._how

    @property
    def _how(self) -> str:
        if self.code == ExitStatus.CUT_OFF:
            return f"its plugin closed the connection to the consumer (exit status {self.code})"
        if self.code >= 0:
            return f"exit status {self.code}"
        try:
            return f"killed by {signal.Signals(-self.code).name}"
        except ValueError:
            return f"killed by signal {-self.code}"


def fork(run: Callable[[], int]) -> int:
    """Fork a child that runs `run` and exits with its result; return its pid.

    The child leads a session and a process group: it can be killed together with the processes that it
    started, it cannot leave the group, and it has no terminal, into which a plugin could type as the
    terminal's user. It has none of its parent's signal handlers. SIGTERM and SIGHUP are blocked until it
    enters a `Signals` or calls `let_signals_in`.

    Raises OSError if the system allows no more processes.
    """
    startup.flush()
    # The child still has its parent's handlers, which would record its signals as the parent's.
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
        signal.pthread_sigmask(signal.SIG_SETMASK, {*mask, *_BLOCKED})
        gc.freeze()  # a collection would write to, and so copy, the parent's pages
        status = run()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else ExitStatus.SOFTWARE
    except BaseException:  # the last line of the child, which must not return into the parent's code
        logging.getLogger(__name__).critical("internal error", exc_info=True)
    finally:
        with contextlib.suppress(Exception):
            startup.flush()
        os._exit(status)


def ask(find: Callable[[], T]) -> T:
    """Run a function in a child process; return what it returns, or raise the TaskqueueError that it raises.

    What the function reads, imports and changes does not affect this process. Raises OSError if the system
    allows no more processes, and its subclass ChildProcessError if the child ends without an answer. The
    child must not change its user: another user could answer with any code (pickle).
    """
    reader, writer = os.pipe()

    def answer() -> int:
        found: object
        try:
            found = find()
        except TaskqueueError as error:
            found = error
        with os.fdopen(writer, "wb") as pipe:
            pickle.dump(found, pipe)
        return ExitStatus.OK

    answers: list[Any] = []
    with os.fdopen(reader, "rb") as pipe:
        try:
            pid = fork(answer)
        finally:
            os.close(writer)
        with contextlib.suppress(EOFError):
            answers.append(pickle.load(pipe))  # noqa: S301 -- our own child wrote it
    end = _exit(*os.wait4(pid, 0))
    _ours.discard(pid)
    if not answers:
        raise ChildProcessError(errno.ECHILD, end.cause)
    if isinstance(answers[0], TaskqueueError):
        raise answers[0]
    return answers[0]  # type: ignore[no-any-return]


def let_signals_in() -> None:
    """Unblock the signals that are blocked since `fork`; their default action applies."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _BLOCKED)


def _forget_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if callable(signal.getsignal(number)) and number != signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def close_all_but(*kept: int) -> None:
    """Close all file descriptors except the standard streams and `kept`."""
    # Only open ones are listed (proc(5)); the limit may be a thousand million.
    for descriptor in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if descriptor > 2 and descriptor not in kept:
            with contextlib.suppress(OSError):  # the one of the listing itself
                os.close(descriptor)


def allow_open_files(number: int) -> None:
    """Limit the open files of this process; select(2) does not work above 1,024."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def die_with_parent(parent: int) -> None:
    """Make the kernel kill this process when its parent dies; call this after the last change of user.

    The kernel forgets the setting when the credentials change (prctl(2), PR_SET_PDEATHSIG).
    """
    if _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it died before the call
        os._exit(ExitStatus.OK)


@contextlib.contextmanager
def keeping_death_with_parent() -> Iterator[None]:
    """Let the code inside change the effective ids: this process still dies with its parent afterwards."""
    parent, number = os.getppid(), ctypes.c_int()
    _libc.prctl(_PR_GET_PDEATHSIG, ctypes.byref(number), 0, 0, 0)
    try:
        yield
    finally:
        if number.value:
            die_with_parent(parent)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends (prctl(2), PR_SET_CHILD_SUBREAPER)."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_orphans(timeout: float) -> int:
    """Kill all remaining children, and the orphans that this makes; return their number.

    timeout -- seconds after which the rest is left: the kernel may hold a process, or one may fork forever
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


def descendants() -> list[int]:
    """Return the children of this process, their children and so on, including zombies."""
    found = _children()
    for pid in found:  # which grows meanwhile
        found += _children(pid)
    return found


def _children(pid: int | str = "self") -> list[int]:
    """Return the children of a process, including zombies (proc(5))."""
    try:
        lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []  # a kernel without CONFIG_PROC_CHILDREN, or a machine without /proc
    return [int(pid) for pids in lists for pid in pids.split()]


def set_name(name: str) -> None:
    """Set the name of this process in `top` and `pstree`; the kernel truncates it to 15 bytes."""
    _libc.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def set_title(title: str) -> None:
    """Set the title of this process in `ps`, truncated to the length of its command line.

    The title replaces the command line in memory, from arg_start to arg_end (proc(5)).
    """
    fields = Path("/proc/self/stat").read_bytes().rpartition(b") ")[2].split()  # without the first two
    start, end = int(fields[48 - 3]), int(fields[49 - 3])
    if end > start > 0:
        room = end - start
        ctypes.memmove(start, title.encode()[: room - 1].ljust(room, b"\0"), room)


def reap() -> list[Exit]:
    """Collect all ended children without waiting, and kill the groups of those that `fork` made.

    A group is killed before its child is reaped, since afterwards the id may belong to another group. The
    group of an adopted orphan is not killed: it may contain a daemon that a plugin started.
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


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process; ignore that it may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def kill_group(pid: int) -> None:
    """Kill an unreaped child made by `fork`, and the processes in its group."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)  # it may not lead its group yet
    kill_rest(pid)


def kill_rest(pid: int) -> None:
    """Kill the processes in the group of an unreaped child made by `fork`."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


@dataclass(slots=True, eq=False)
class Slot:
    """One process that must run: when it ends, a successor is started.

    The first successor starts at once. While each process ends within 5 seconds, the delay doubles from 0.25
    seconds: up to a minute, or up to a second if the process had begun to work.
    """

    name: str
    pid: int = 0  # 0: none
    started: float = 0.0  # monotonic
    due: float = 0.0  # monotonic; no start before this time
    deaths: int = 0  # consecutive ones, each soon after the start
    is_retiring: bool = False  # whether the process has asked to be replaced
    is_dismissed: bool = False  # whether it was killed without a fault
    fault: str = ""  # the fault for which it was killed
    has_begun: bool = False  # whether it has begun to work
    cgroup: "Cgroup | None" = None  # the control group of the process, if it has one of its own

    def fill(self, pid: int) -> None:
        """Record a started process."""
        self.pid, self.started, self.has_begun = pid, time.monotonic(), False
        self.is_retiring, self.is_dismissed, self.fault = False, False, ""

    def vacate(self, *, expected: bool) -> float:
        """Record the end of the process; return the seconds until its successor may start."""
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
        """Whether a process is missing and may start now."""
        return self.pid == 0 and time.monotonic() >= self.due
