"""The monitor's own processes, which emit no events: the recorder tells of itself and of its relatives."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from taskqueue.broker.events import own_version
from taskqueue.messages.events import ENDED
from taskqueue.messages.relatives import Other
from taskqueue.process import relatives

RECORDER: Final = "recorder"
WEB: Final = "web process"
#: The name of the web process in the system's list of processes.
WEB_NAME: Final = "web"
_TICKS: Final = os.sysconf("SC_CLK_TCK")  # a second
_STARTED: Final = 19  # place of the field after the command's name (proc(5), stat)


class OwnProcesses:
    """Recorder, web process and supervisor of this monitor."""

    def __init__(self) -> None:
        """Note when the recorder was started."""
        self._version = own_version()
        self._started = time.time()
        self._web: dict[int, float] = {}  # when web processes were started, by pid

    def told(self, state: str) -> Iterator[Other]:
        """Yield the states of all; that of the recorder in words."""
        yield self._measured(RECORDER, os.getpid(), self._started, state)
        running = {pid: self._web.get(pid) or started for pid, started in _web_processes()}
        for pid in self._web.keys() - running:
            yield self._measured(WEB, pid, self._web[pid], ENDED)
        self._web = running
        for pid, started in running.items():
            yield self._measured(WEB, pid, started, "serves")
        yield from relatives.supervisor(self._version)

    def ended(self) -> Iterator[Other]:
        """Yield that recorder and web process end: the supervisor stops or replaces them together."""
        for each in self.told(ENDED):
            if each.kind != relatives.SUPERVISOR:
                yield each._replace(state=ENDED)
        yield from relatives.supervisor(self._version, is_last=True)

    def _measured(self, kind: str, pid: int, started: float, state: str) -> Other:
        told = Other(time.time(), kind, "", pid, started, state, version=self._version)
        return relatives.measured(told)


def _web_processes() -> Iterator[tuple[int, float]]:
    """Yield pids of the supervisor's web processes, and when they were started in seconds since 1970."""
    parent = os.getppid()
    with contextlib.suppress(OSError):  # the kernel may not tell children, or one has just ended
        for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            if Path(f"/proc/{pid}/comm").read_text() == f"tq:{WEB_NAME}\n":
                fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
                booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
                yield int(pid), booted + int(fields[_STARTED]) / _TICKS
