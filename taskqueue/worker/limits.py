"""What a worker may use: time, processor, memory; and when it has been used enough."""

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from taskqueue.errors import TaskTimeout

if TYPE_CHECKING:
    from taskqueue.config import GroupSettings

_MIB: Final = 1024 * 1024
_PAGE: Final = resource.getpagesize()
_UNTIMED: Final = nullcontext()


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a group's workers; 0 is none."""

    timeout: float = 0.0  # seconds a workitem may run
    cpu_limit: int = 0  # seconds of processor time a workitem may use
    memory_limit: int = 0  # MiB of address space
    max_tasks: int = 0  # workitems after which a worker is replaced
    max_memory: int = 0  # MiB of resident memory above which it is
    nice: int = 0

    @classmethod
    def of(cls, group: "GroupSettings") -> "Limits":
        """Take the limits from a group's settings."""
        return cls(
            group.timeout,
            group.cpu_limit,
            group.memory_limit,
            group.max_tasks,
            group.max_memory,
            group.nice,
        )

    def impose(self) -> None:
        """Set what holds for the process's whole life."""
        os.nice(self.nice)
        if self.memory_limit:
            size = self.memory_limit * _MIB
            resource.setrlimit(resource.RLIMIT_AS, (size, size))

    def on_workitem(self) -> AbstractContextManager[None]:
        """Hold one workitem to its time; TaskTimeout is raised in it when that is up."""
        return self._timed() if self.cpu_limit or self.timeout else _UNTIMED

    @contextmanager
    def _timed(self) -> Iterator[None]:
        if self.cpu_limit:
            used = resource.getrusage(resource.RUSAGE_SELF)
            most = int(used.ru_utime + used.ru_stime) + self.cpu_limit + 1  # the kernel counts whole seconds
            hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
            soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
        if self.timeout:
            signal.signal(signal.SIGALRM, _time_is_up)
            signal.setitimer(signal.ITIMER_REAL, self.timeout)
        try:
            yield
        finally:
            if self.timeout:
                signal.setitimer(signal.ITIMER_REAL, 0)

    def are_reached(self, performed: int) -> bool:
        """Tell whether a worker that has performed so many workitems should be replaced."""
        if self.max_tasks and performed >= self.max_tasks:
            return True
        return bool(self.max_memory) and _resident_memory() > self.max_memory * _MIB


def _time_is_up(_number: int, _frame: object) -> NoReturn:
    raise TaskTimeout("its timeout has passed")


def _resident_memory() -> int:
    """Return this process's resident memory in bytes (proc(5), statm)."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE
