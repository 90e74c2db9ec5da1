"""Workers of groups with `command`: what they share, and the plugin that the pool runs for such a group."""

import json
import os
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from taskqueue.errors import PluginError, TaskqueueError
from taskqueue.plugins import OwnPlugin
from taskqueue.process import children
from taskqueue.worker.base import BaseWorker

if TYPE_CHECKING:
    from taskqueue.config import GroupSettings

_FACTORIES: Final = {
    "exec": "taskqueue.worker.executing:ExecWorker.of_options",
    "stream": "taskqueue.worker.streaming:StreamWorker.of_options",
}
_INHERITED: Final = ("PATH", "LANG", "HOME")


class CommandOptions(NamedTuple):
    """The options of a group that its command's workers need."""

    command: tuple[str, ...]
    result_type: str
    max_result: int  # bytes
    timeout_grace: float  # seconds
    cpu_limit: int  # seconds of processor time of a workitem; 0 is no limit
    max_memory: int  # MiB of resident memory


def plugin_of(group: "GroupSettings") -> OwnPlugin | None:
    """Return the plugin that runs a group's command; None if the group has none."""
    if group.command is None:
        return None
    options = CommandOptions(*(getattr(group, name) for name in CommandOptions._fields))
    argument = json.dumps(options)
    return OwnPlugin(
        group.worker_type, _FACTORIES[group.mode], group.command[0], "", argument, has_tasks=False
    )


class CommandWorker(BaseWorker):
    """Performs workitems by a program."""

    def __init__(self, options: CommandOptions) -> None:
        self.options = options
        self.program = options.command[0]

    @classmethod
    def of_options(cls, written: str) -> Self:
        """Return a worker with the options that `plugin_of` has written."""
        command, *others = json.loads(written)
        return cls(CommandOptions(tuple(command), *others))

    def setup(self) -> None:
        """Check the program, and become the parent of all its descendants. Raises PluginError."""
        if not os.path.exists(self.program):  # noqa: PTH110 -- of a user who may not look there, too
            raise PluginError(f"the command's program {self.program} does not exist")
        if not os.path.isfile(self.program) or not os.access(self.program, os.X_OK):  # noqa: PTH113
            raise PluginError(f"{self.program} is not a program that this user can execute")
        children.adopt_orphans()

    def environment(self, **variables: str) -> dict[bytes, bytes]:
        """Return the whole environment of the program: some inherited variables, and TASKQUEUE_*."""
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        named = {f"TASKQUEUE_{name.upper()}": value for name, value in variables.items()}
        return {name.encode(): _usable(value) for name, value in (inherited | named).items()}

    def kill_delay(self) -> float:
        """Return the seconds from SIGTERM to SIGKILL after a timeout.

        It is shorter than `timeout_grace`, after which the consumer has this process killed.
        """
        return max(self.options.timeout_grace - 1.0, self.options.timeout_grace / 2)


def _usable(value: str) -> bytes:
    return value.replace("\0", "").encode("utf-8", "surrogateescape")


def untraced(error: TaskqueueError) -> TaskqueueError:
    """Return an error whose failure has no traceback: it would show nothing of the program."""
    error.has_traceback = False
    return error


def described(status: int) -> str:
    """Return a program's end in words, as "exit status 3" or "killed by SIGSEGV"."""
    return children.Exit(0, status, 0).cause
