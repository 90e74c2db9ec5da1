"""Every exception that taskqueue raises deliberately, and the exit statuses of its processes."""

from collections.abc import Sequence
from enum import IntEnum
from numbers import Real
from typing import Any, Final

#: Maximum delay in seconds: ten years. A larger number is most likely in milliseconds by mistake.
LONGEST_DELAY: Final = 10 * 365.25 * 86400.0


class ExitStatus(IntEnum):
    """The exit status of a process of taskqueue; the numbers from 64 to 78 are those of sysexits.h.

    Children, parents, init scripts and unit files share this vocabulary.
    """

    OK = 0
    FAILED = 1  # the requested action failed: a workitem or an import failed, or a given name does not exist
    USAGE = 2  # the command line is wrong (click's number)
    STOPPED = 3  # a feed ended early because too many jobs had failed; it can be resumed
    UNSEEN = 4  # the record has no workitem of the given id
    PLUGIN = 65  # EX_DATAERR: a plugin, a feed or a document of a workflow cannot be used
    UNAVAILABLE = 69  # EX_UNAVAILABLE: the broker cannot be reached
    SOFTWARE = 70  # EX_SOFTWARE: a bug of ours; the log has the traceback
    PRIVILEGES = 71  # EX_OSERR: a process could not switch to its user
    LOCKED = 73  # EX_CANTCREAT: another instance holds the pid file, or a feed's state cannot be used
    SYSTEM = (
        74  # EX_IOERR: a system error: stdout cannot be written, a limit on files or processes is reached
    )
    TIMEOUT = 75  # EX_TEMPFAIL: no result within the given time
    CUT_OFF = 76  # EX_PROTOCOL: a worker's plugin closed the worker's connection to the consumer
    REFUSED = 77  # EX_NOPERM: the broker refused user, password or virtual host
    CONFIG = 78  # EX_CONFIG: the configuration has faults
    PAUSED = 130  # Ctrl-C ended a command (a shell's number for that); a feed can be resumed


class TaskqueueError(Exception):
    """The base of all errors of taskqueue; its text is one line for the user."""

    status = ExitStatus.SOFTWARE
    has_traceback = True  # whether a failure shows where it was raised

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle arguments and attributes, without `__init__`, to which Exception would pass the text.

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
    """The configuration has faults; all of them are listed, one on each line."""

    status = ExitStatus.CONFIG

    def __init__(self, faults: Sequence[object], warnings: Sequence[str] = ()) -> None:
        """Take the faults, each of which converts to one line of text, and warnings, which are no faults."""
        self.faults = tuple(faults)
        self.warnings = tuple(warnings)
        super().__init__("\n".join(str(fault) for fault in self.faults))


class AlreadyRunning(TaskqueueError):
    """Another process holds the lock that this one needs."""

    status = ExitStatus.LOCKED


class PluginError(TaskqueueError):
    """A plugin cannot be loaded, or does not fit its entry point."""

    status = ExitStatus.PLUGIN


class StoreFailed(TaskqueueError):
    """A store cannot keep or return a large result of a step of a workflow."""

    status = ExitStatus.FAILED


class PrivilegeError(TaskqueueError):
    """A process could not give up its privileges, and refuses to continue with them."""

    status = ExitStatus.PRIVILEGES


class LimitReached(TaskqueueError):
    """This process has reached a limit of the system, such as the number of open files."""

    status = ExitStatus.SYSTEM


class CgroupsUnavailable(TaskqueueError):
    """The host has no control groups for this pool; the message is the reason."""


class BrokerUnavailable(TaskqueueError):
    """The broker cannot be reached now; a later attempt may succeed."""

    status = ExitStatus.UNAVAILABLE


class ReplyLost(BrokerUnavailable):
    """The connection for a reply was lost; it is unknown whether the function ran."""


class BrokerRefused(TaskqueueError):
    """The broker answered and refused: the user, password, virtual host or protocol is wrong."""

    status = ExitStatus.REFUSED


class ResultTimeout(TaskqueueError):
    """No result came within the given time; the workitem itself stays submitted."""

    status = ExitStatus.TIMEOUT


def checked_delay(delay: Any) -> float:
    """Return a delay in seconds; 0 for a negative one.

    Raises TypeError if it is not a number, and ValueError if it is more than ten years or NaN.
    """
    if isinstance(delay, bool) or not isinstance(delay, Real):
        raise TypeError(f"expected a delay in seconds, found {delay!r:.100}")
    if not delay <= LONGEST_DELAY:
        raise ValueError(f"expected a delay of at most {LONGEST_DELAY:.0f} seconds (10 years), found {delay}")
    return max(0.0, float(delay))


class Retry(TaskqueueError):
    """A handler raises this to run its workitem again later, after `retry_delay` or `delay` seconds."""

    def __init__(self, message: str = "", *, delay: float | None = None) -> None:
        """Give the reason as `message`; with a `delay` of None, the group's settings apply.

        Raises ValueError or TypeError for a delay that is not a number of seconds, or more than ten years.
        """
        super().__init__(message)
        self.delay = None if delay is None else checked_delay(delay)


class Reject(TaskqueueError):
    """A handler raises this to move its workitem to `taskqueue_rejected`, with the reason."""


class CommandFailed(TaskqueueError):
    """The program of a group with `command` has failed; the text is the end of its stderr, or the cause."""

    has_traceback = False  # it would show nothing of the program


class TaskTimeout(TaskqueueError):
    """Raised in a handler that has run for `timeout` seconds. If it continues, its worker is killed."""


class CallError(TaskqueueError):
    """A call has failed or has no result; the base class of these errors."""

    status = ExitStatus.FAILED
    code = -32000  # of JSON-RPC; -32000 to -32099 are for servers (JSON-RPC 2.0, section 5.1)


class TaskFailed(CallError):
    """The called function raised, or its worker died; `type`, `message` and `traceback` give the cause."""

    def __init__(self, type_: str, message: str, traceback: str = "") -> None:
        """Take the remote exception's type, message and traceback, which is shown below the local one."""
        super().__init__(f"{type_}: {message}" if message else type_)
        self.type, self.message, self.traceback = type_, message, traceback
        if traceback:
            self.add_note(traceback.rstrip())


class InvalidRequest(CallError):
    """The message is not a valid JSON-RPC request."""

    code = -32600


class UnknownTask(CallError):
    """No worker serves a task of that name."""

    code = -32601


class BadArguments(CallError):
    """The arguments do not fit the function's signature; it was not run."""

    code = -32602


class CallCancelled(CallError):
    """The call was cancelled: it was not begun, or its worker was stopped."""

    code = -32001


class DuplicateCall(CallError):
    """The call was not run: another one with its key is over, and its result is not known any more."""

    code = -32002


class CallTimeout(CallError):
    """The call has no result within the given time; it continues, and the result may come later."""

    status = ExitStatus.TIMEOUT


class WorkflowFailed(CallError):
    """A workflow has failed or was cancelled, so that it has no result."""


class UnknownCall(CallError):
    """No call of that id was submitted under the client's name, or its result was fetched or has expired."""


class NotKept(TaskqueueError):
    """No failed or rejected message has the given id, or several ids begin with it."""

    status = ExitStatus.FAILED


class NotRetried(TaskqueueError):
    """Some failed or rejected messages cannot be sent back to a queue; they stay where they are."""

    status = ExitStatus.FAILED


class TaskError(TaskqueueError):
    """A task or client is declared with invalid values.

    The name of a task or client is not allowed, two tasks have the same name, or a task's `timeout` or
    `retries` is out of range.
    """

    status = ExitStatus.PLUGIN


class BadSchedule(TaskqueueError):
    """A schedule's definition has a fault: its cron expression, its time zone or another value."""

    status = ExitStatus.CONFIG

    def __init__(self, message: str = "", *, option: str = "", fault: str = "") -> None:
        """Say what is wrong.

        Args:
            message: the whole line.
            option: the option that has the fault; "" if it is not one of them.
            fault: the part of `message` that is about this option.
        """
        super().__init__(message)
        self.option, self.fault = option, fault or message


class BadWorkflow(TaskqueueError):
    """A workflow's document has faults; all of them are listed, one on each line."""

    status = ExitStatus.PLUGIN

    def __init__(self, faults: Sequence[str] = ()) -> None:
        """Take the faults, each a line of text."""
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))


class BadFlowMessage(TaskqueueError):
    """A message about a workflow cannot be read."""


class NoFlow(TaskqueueError):
    """No flow process answers: none runs, or the broker has an alarm."""

    status = ExitStatus.UNAVAILABLE


class FlowRefused(TaskqueueError):
    """The flow process refuses a command, as for a workflow that does not exist."""

    status = ExitStatus.FAILED


class FlowUnavailable(TaskqueueError):
    """The database of workflows cannot be read or written now; a later attempt may succeed."""

    status = ExitStatus.SYSTEM


class UnfitForDatabase(TaskqueueError):
    """A database refuses values, and would refuse them again."""

    status = ExitStatus.SOFTWARE


class FlowDamaged(TaskqueueError):
    """The database of workflows is damaged, or a later release has written it."""

    status = ExitStatus.SYSTEM


class BadClaim(TaskqueueError):
    """A message in the log of claims is none, or a key cannot be one."""

    status = ExitStatus.FAILED


class NoKeeper(TaskqueueError):
    """No keeper answers: no dispatcher runs, or the broker has an alarm."""

    status = ExitStatus.UNAVAILABLE


class KeyRefused(TaskqueueError):
    """The keeper refuses a command, as for a key that nobody has."""

    status = ExitStatus.FAILED


class NoScheduler(TaskqueueError):
    """No scheduler answers: no dispatcher runs, or the broker has an alarm."""

    status = ExitStatus.UNAVAILABLE


class ScheduleRefused(TaskqueueError):
    """The scheduler refuses a command, as for a schedule that does not exist."""

    status = ExitStatus.FAILED


class BadLimitMessage(TaskqueueError):
    """A message to the gate, of it or in its log cannot be read."""


class NoGate(TaskqueueError):
    """No gate answers: no dispatcher with a section [limit NAME] runs, or the broker has an alarm."""

    status = ExitStatus.UNAVAILABLE


class NoPool(TaskqueueError):
    """No worker pool takes commands: none runs with a control key, or none with this one."""

    status = ExitStatus.UNAVAILABLE


class NoRegister(TaskqueueError):
    """Standing commands cannot be written: the broker has no streams, or takes no messages now."""

    status = ExitStatus.UNAVAILABLE


class CommandRefused(TaskqueueError):
    """A command to pools cannot be carried out, as for a host that no register knows."""

    status = ExitStatus.FAILED


class TargetError(TaskqueueError):
    """The code of a feed cannot be loaded, or its definitions cannot be used."""

    status = ExitStatus.PLUGIN


class StateError(TaskqueueError):
    """A feed's state file is damaged, belongs to another feed, or cannot be written."""

    status = ExitStatus.LOCKED


class RecordUnavailable(TaskqueueError):
    """The monitor's record cannot be read or written now; a later attempt may succeed."""

    status = ExitStatus.SYSTEM


class RecordRefused(RecordUnavailable):
    """The database of the monitor's record refuses the user, the password or the database's name."""

    status = ExitStatus.REFUSED


class RecordDamaged(TaskqueueError):
    """The monitor's record is damaged, or a later release has written it."""

    status = ExitStatus.SYSTEM


class JobUnwritable(TaskqueueError):
    """A job cannot be sent in the chosen form."""

    status = ExitStatus.PLUGIN


class Unroutable(TaskqueueError):
    """A message names no worker type by which it can be routed."""


class WorkitemUnreadable(TaskqueueError):
    """A workitem's body does not match its content type."""


class ResultUnwritable(TaskqueueError):
    """A handler returned a value that cannot be sent as a result."""
