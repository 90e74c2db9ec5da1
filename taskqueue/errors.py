"""Every exception that taskqueue raises on purpose, and the exit statuses of its processes."""

from collections.abc import Sequence
from enum import IntEnum
from numbers import Real
from typing import Any, Final

#: Seconds: ten years. Nothing waits longer; most numbers beyond are milliseconds by mistake.
LONGEST_DELAY: Final = 10 * 365.25 * 86400.0


class ExitStatus(IntEnum):
    """How a process of taskqueue ends; the numbers from 64 on are those of sysexits.h.

    Children, parents, init scripts and unit files share this vocabulary.
    """

    OK = 0
    FAILED = 1  # what was asked for failed: a workitem, an import, or the name of something that is not there
    USAGE = 2  # the command line is wrong (click's number)
    STOPPED = 3  # a feed ended early because too many jobs had failed; it can go on
    PLUGIN = 65  # EX_DATAERR: a worker could not load or set up its plugin
    UNAVAILABLE = 69  # EX_UNAVAILABLE: the broker cannot be reached
    SOFTWARE = 70  # EX_SOFTWARE: a bug of ours; the log has the traceback
    PRIVILEGES = 71  # EX_OSERR: a process could not become the user it must run as
    LOCKED = 73  # EX_CANTCREAT: another instance holds the pid file, or a feed's state cannot be used
    SYSTEM = (
        74  # EX_IOERR: the system refused: stdout cannot be written, a limit on files or processes is reached
    )
    TIMEOUT = 75  # EX_TEMPFAIL: no result within the time that was given
    REFUSED = 77  # EX_NOPERM: the broker refused user, password or virtual host
    CONFIG = 78  # EX_CONFIG: the configuration has faults
    PAUSED = 130  # a feed was asked to end before it was through (a shell's number for Ctrl-C); it can go on


class TaskqueueError(Exception):
    """The base of all errors of taskqueue; its text is one line for the user."""

    status = ExitStatus.SOFTWARE

    def __reduce__(self) -> tuple[Any, ...]:
        """Have it pickled as it is: Exception's own way gives `__init__` the text instead of its arguments.

        A pool of processes (multiprocessing) waits for ever for an exception that cannot be unpickled.
        """
        return _made_again, (type(self), self.args, self.__dict__)


def _made_again(
    kind: type[TaskqueueError], args: tuple[Any, ...], attributes: dict[str, Any]
) -> TaskqueueError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


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


class LimitReached(TaskqueueError):
    """The system allows this process too little of something, such as open files."""

    status = ExitStatus.SYSTEM


class BrokerUnavailable(TaskqueueError):
    """The broker cannot be reached now; trying again later may help."""

    status = ExitStatus.UNAVAILABLE


class ReplyLost(BrokerUnavailable):
    """The connection that a reply was to come by was lost; whether the function ran is not known."""


class BrokerRefused(TaskqueueError):
    """The broker answered and refused: user, password, virtual host or protocol are wrong."""

    status = ExitStatus.REFUSED


class ResultTimeout(TaskqueueError):
    """No result came within the time that was given; the workitem itself stays submitted."""

    status = ExitStatus.TIMEOUT


def checked_delay(delay: Any) -> float:
    """Return a delay in seconds; what is negative is no delay.

    Raises TypeError for what is no number, and ValueError for more than ten years, NaN included.
    """
    if isinstance(delay, bool) or not isinstance(delay, Real):
        raise TypeError(f"expected a delay in seconds, found {delay!r:.100}")
    if not delay <= LONGEST_DELAY:
        raise ValueError(f"expected a delay of at most {LONGEST_DELAY:.0f} seconds (10 years), found {delay}")
    return max(0.0, float(delay))


class Retry(TaskqueueError):
    """A handler raises this to have its workitem run again later; in `retry_delay` or in `delay` seconds."""

    def __init__(self, message: str = "", *, delay: float | None = None) -> None:
        """Say why in `message`; `delay` of None leaves it to the group's settings.

        Raises ValueError or TypeError for a delay that is no number of seconds, or longer than ten years.
        """
        super().__init__(message)
        self.delay = None if delay is None else checked_delay(delay)


class Reject(TaskqueueError):
    """A handler raises this to have its workitem put aside, with the reason, in `taskqueue_rejected`."""


class TaskTimeout(TaskqueueError):
    """A workitem has run for `timeout` seconds; raised in its handler, whose worker is soon killed."""


class CallError(TaskqueueError):
    """A call has no value; every reason for that is one of these."""

    status = ExitStatus.FAILED
    code = -32000  # of JSON-RPC; this one is free for servers to use


class TaskFailed(CallError):
    """The function that was called raised, or its worker died; `type`, `message`, `traceback` say of what."""

    def __init__(self, type_: str, message: str, traceback: str = "") -> None:
        """Take the remote exception's type, message and traceback; the last is shown below our own."""
        super().__init__(f"{type_}: {message}" if message else type_)
        self.type, self.message, self.traceback = type_, message, traceback
        if traceback:
            self.add_note(traceback.rstrip())


class InvalidRequest(CallError):
    """The message is no JSON-RPC request."""

    code = -32600


class UnknownTask(CallError):
    """Nobody serves a function of that name."""

    code = -32601


class BadArguments(CallError):
    """The arguments do not fit the function's signature; it was not run."""

    code = -32602


class CallCancelled(CallError):
    """The call was cancelled: it was not begun, or its worker was stopped."""

    code = -32001


class CallTimeout(CallError):
    """The call has no result within the time that was given; it goes on, and the result may come later."""

    status = ExitStatus.TIMEOUT


class UnknownCall(CallError):
    """No call of that id was submitted under the client's name, or its result was fetched or has expired."""


class NotKept(TaskqueueError):
    """No failed or rejected message has the id that was given, or several have ids that begin so."""

    status = ExitStatus.FAILED


class TaskError(TaskqueueError):
    """A function cannot be a task: its name cannot be one, or is another's."""

    status = ExitStatus.PLUGIN


class TargetError(TaskqueueError):
    """The code that a feed is about cannot be loaded, or what it defines cannot be used."""

    status = ExitStatus.PLUGIN


class StateError(TaskqueueError):
    """A feed's state file is damaged, is another feed's, or cannot be written."""

    status = ExitStatus.LOCKED


class JobUnwritable(TaskqueueError):
    """A job cannot be sent in the form that was chosen."""

    status = ExitStatus.PLUGIN


class Unroutable(TaskqueueError):
    """A message names no worker type that a workitem could be routed by."""


class WorkitemUnreadable(TaskqueueError):
    """A workitem's body is not what its content type says."""


class ResultUnwritable(TaskqueueError):
    """A handler returned a value that cannot be sent as a result."""
