"""The limits of a worker (time, processor, memory), and the process state restored after each workitem."""

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final, NoReturn

from taskqueue.errors import TaskTimeout
from taskqueue.process.usage import resident_memory
from taskqueue.worker.channels import label_output

if TYPE_CHECKING:
    from taskqueue.config import GroupSettings

_MIB: Final = 1024 * 1024
_MANY: Final = 1_000_000
_UNTIMED: Final = nullcontext()


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a group's workers; 0 is none."""

    timeout: float = 0.0  # seconds that a workitem may run
    cpu_limit: int = 0  # seconds of processor time of a workitem
    memory_limit: int = 0  # MiB of address space
    memory_max: int = 0  # bytes of data, where no control group counts memory
    max_tasks: int = 0  # workitems after which a worker is replaced
    max_memory: int = 0  # MiB of resident memory above which a worker is replaced
    nice: int = 0

    @classmethod
    def of(cls, group: "GroupSettings") -> "Limits":
        """Return the limits in a group's settings."""
        return cls(**{field.name: getattr(group, field.name) for field in fields(cls)})

    def impose(self) -> None:
        """Set the limits that hold for the process's whole life."""
        os.nice(self.nice)
        if self.memory_limit:
            size = self.memory_limit * _MIB
            resource.setrlimit(resource.RLIMIT_AS, (size, size))
        if self.memory_max:
            resource.setrlimit(resource.RLIMIT_DATA, (self.memory_max, self.memory_max))

    def on_workitem(self) -> AbstractContextManager[None]:
        """Return a context that limits a workitem: processor time, and TaskTimeout after its timeout."""
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
            signal.signal(signal.SIGALRM, self._raise_timeout)
            signal.setitimer(signal.ITIMER_REAL, self.timeout)
        try:
            yield
        except TaskTimeout as error:
            error.args = error.args or (self._passed,)
            raise
        finally:
            if self.timeout:
                signal.setitimer(signal.ITIMER_REAL, 0)

    def _raise_timeout(self, _number: int, _frame: object) -> NoReturn:
        raise TaskTimeout(self._passed)

    @property
    def _passed(self) -> str:
        return f"its timeout of {self.timeout:g} s has passed"

    def left(self, performed: int) -> int:
        """Return how many workitems a worker may perform after `performed` ones; a large number for any."""
        return max(0, self.max_tasks - performed) if self.max_tasks else _MANY

    def are_reached(self, performed: int) -> bool:
        """Tell whether a worker that has performed `performed` workitems is to be replaced."""
        if self.max_tasks and performed >= self.max_tasks:
            return True
        return bool(self.max_memory) and resident_memory() > self.max_memory * _MIB


_WHERE: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class Surroundings:
    """The initial working directory, umask, environment and standard streams of the process.

    They are restored after each workitem, whatever its outcome, in about a microsecond.
    """

    def __init__(self) -> None:
        self._directory = os.open(".", _WHERE)
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        # os.environ itself decodes each entry on access.
        self._now: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined] # noqa: SLF001
        self._environment = dict(self._now)
        self._stdout, self._stderr = sys.stdout, sys.stderr

    def restore(self) -> None:
        """Restore the initial state."""
        os.umask(self._umask)
        try:  # noqa: SIM105 -- a context manager takes as long as the call
            os.fchdir(self._directory)
        except OSError:  # a plugin has closed it, or this user may not enter it
            pass
        if self._now != self._environment:
            self._restore_environment()
        if sys.stdout is not self._stdout or sys.stderr is not self._stderr:
            sys.stdout, sys.stderr = self._stdout, self._stderr

    def _restore_environment(self) -> None:
        for name in os.environb.keys() - self._environment.keys():
            del os.environb[name]
        os.environb.update(self._environment)

    def reopen_streams(self) -> None:
        """Replace standard streams that were closed."""
        if _is_closed(self._stdout) or _is_closed(self._stderr):
            with contextlib.suppress(OSError):  # their descriptors are closed, too
                label_output()
                self._stdout, self._stderr = sys.stdout, sys.stderr


def _is_closed(stream: Any) -> bool:
    return getattr(stream, "closed", False) is True
