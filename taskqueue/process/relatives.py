"""The relatives of a process that emit no events: the supervisor that forked it, and those that have ended.

A supervisor has no connection to the broker. It notes here what its children tell of it; they inherit that.
"""

import mmap
import os
import pwd
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from taskqueue.messages.events import ENDED
from taskqueue.messages.relatives import Gone, Other
from taskqueue.process.usage import resident_memory

SUPERVISOR: Final = "supervisor"
_MOST_ENDED: Final = 100
_TICKS: Final = os.sysconf("SC_CLK_TCK")  # a second
_UTIME: Final = 11  # place of the field after the command's name (proc(5), stat); stime follows it


@dataclass(frozen=True, slots=True)
class _Supervisor:
    """The supervisor of this process's children."""

    daemon: str
    pid: int
    started: float  # seconds since 1970
    stops: mmap.mmap  # shared with the children; its byte is 1 once the supervisor stops

    def state(self, *, is_last: bool) -> str:
        """Return its state in words; is_last -- whether this is the last that a child tells of it."""
        if not self.stops[0]:
            return "keeps its processes running"
        return ENDED if is_last else "waits for the end of its processes"


_supervisors: Final[list[_Supervisor]] = []  # this process's ancestors among them, the nearest one last
_ended: Final[deque[tuple[float, int]]] = deque(maxlen=_MOST_ENDED)  # when a process ended, and its pid


def supervise(daemon: str) -> None:
    """Note that this process is a supervisor from now on."""
    _supervisors.append(_Supervisor(daemon, os.getpid(), time.time(), mmap.mmap(-1, 1)))


def forget() -> None:
    """Give up the memory that supervisors share with their children: this process will run a plugin."""
    while _supervisors:
        _supervisors.pop().stops.close()


def note_stop() -> None:
    """Note that this supervisor stops: its children will end, and it with the last of them."""
    _supervisors[-1].stops[0] = 1


def note_end(pid: int) -> None:
    """Note the end of a child."""
    _ended.append((time.time(), pid))


def ended() -> Iterator[Gone]:
    """Yield the earlier children of this process's supervisor that have ended, as far as it knew."""
    for at, pid in _ended:
        yield Gone(at, pid)


def supervisor(version: str, *, is_last: bool = False) -> Iterator[Other]:
    """Yield the state of this process's supervisor, unless it has none or is gone.

    version -- of taskqueue
    is_last -- whether this process ends
    """
    for each in _supervisors:
        if each.pid == os.getppid():
            told = Other(time.time(), SUPERVISOR, each.daemon, each.pid, each.started, "", version=version)
            told = told._replace(state=each.state(is_last=is_last))
            yield measured(told)


def measured(told: Other) -> Other:
    """Return the state of a process of this host with its memory, processor time and user, if known."""
    pid = told.pid
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123 -- read every few seconds
            fields = stat.read().rpartition(b")")[2].split()
        rss, uid = resident_memory(pid), Path(f"/proc/{pid}").stat().st_uid
    except OSError:  # it is gone, or hidden (proc(5), hidepid)
        return told
    cpu = (int(fields[_UTIME]) + int(fields[_UTIME + 1])) / _TICKS
    return told._replace(rss=rss, cpu=cpu, user=user_name(uid))


def user_name(uid: int) -> str:
    """Return the name of a Unix user, or its number if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
