"""Every exception that taskqueue raises on purpose, and the exit statuses of its processes."""

from collections.abc import Sequence
from enum import IntEnum


class ExitStatus(IntEnum):
    """How a process of taskqueue ends; the numbers from 64 on are those of sysexits.h.

    Children, parents, init scripts and unit files share this vocabulary.
    """

    OK = 0
    FAILED = 1  # the workitem that was waited for has failed, or an installed plugin cannot be imported
    USAGE = 2  # the command line is wrong (click's number)
    PLUGIN = 65  # EX_DATAERR: a worker could not load or set up its plugin
    UNAVAILABLE = 69  # EX_UNAVAILABLE: the broker cannot be reached
    SOFTWARE = 70  # EX_SOFTWARE: a bug of ours; the log has the traceback
    PRIVILEGES = 71  # EX_OSERR: a process could not become the user it must run as
    LOCKED = 73  # EX_CANTCREAT: another instance holds the pid file
    TIMEOUT = 75  # EX_TEMPFAIL: no result within the time that was given
    REFUSED = 77  # EX_NOPERM: the broker refused user, password or virtual host
    CONFIG = 78  # EX_CONFIG: the configuration has faults


class TaskqueueError(Exception):
    """The base of all errors of taskqueue; its text is one line for the user."""

    status = ExitStatus.SOFTWARE


class ConfigError(TaskqueueError):
    """The configuration has faults; all of them are listed, one a line."""

    status = ExitStatus.CONFIG

    def __init__(self, faults: Sequence[object], warnings: Sequence[str] = ()) -> None:
        """Take the faults, each of which prints itself as one line, and what is odd but no fault."""
        self.faults = tuple(faults)
        self.warnings = tuple(warnings)
        super().__init__("\n".join(str(fault) for fault in self.faults))


class AlreadyRunning(TaskqueueError):
    """Another process holds the lock that this one needs."""

    status = ExitStatus.LOCKED


class PluginError(TaskqueueError):
    """A plugin cannot be loaded, or is not what its entry point promises."""

    status = ExitStatus.PLUGIN


class PrivilegeError(TaskqueueError):
    """A process could not give up its privileges, and refuses to go on with them."""

    status = ExitStatus.PRIVILEGES


class BrokerUnavailable(TaskqueueError):
    """The broker cannot be reached now; trying again later may help."""

    status = ExitStatus.UNAVAILABLE


class BrokerRefused(TaskqueueError):
    """The broker answered and refused: user, password, virtual host or protocol are wrong."""

    status = ExitStatus.REFUSED


class ResultTimeout(TaskqueueError):
    """No result came within the time that was given; the workitem itself stays submitted."""

    status = ExitStatus.TIMEOUT


class Unroutable(TaskqueueError):
    """A message names no worker type that a workitem could be routed by."""


class WorkitemUnreadable(TaskqueueError):
    """A workitem's body is not what its content type says."""


class ResultUnwritable(TaskqueueError):
    """A handler returned a value that cannot be sent as a result."""
