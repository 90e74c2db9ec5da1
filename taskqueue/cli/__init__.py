"""The command `taskqueue`: one file a command, each thin."""

import builtins
import errno
import gc
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

import click

from taskqueue.errors import ExitStatus, TaskqueueError
from taskqueue.process import startup

#: Each command, and the module that defines it under this name.
_COMMANDS: Final = {
    "up": "local",
    "dispatcher": "daemons",
    "workerpool": "daemons",
    "monitor": "monitor",
    "flow": "daemons",
    "submit": "submit",
    "workflow": "workflow",
    "schedule": "schedule",
    "limit": "limit",
    "unique": "unique",
    "status": "status",
    "list": "status",
    "logs": "status",
    "cancel": "status",
    "top": "top",
    "ps": "pools",
    "pause": "pools",
    "resume": "pools",
    "drain": "pools",
    "undrain": "pools",
    "scale": "scaling",
    "roll": "scaling",
    "control": "pools",
    "run": "local",
    "feed": "feed",
    "work": "work",
    "failed": "deadletters",
    "rejected": "deadletters",
    "doctor": "doctor",
    "config": "config",
    "plugins": "config",
}


#: Errors of writing to standard output; errors of other files have a file name.
_OF_WRITING: Final = {errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}


class Commands(click.Group):
    """A group that imports a command on demand, so that the supervisor does not import AMQP."""

    def list_commands(self, _context: click.Context) -> list[str]:
        """Return the commands in the order of the help text."""
        return list(_COMMANDS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        """Import the module of a command and return the command."""
        module = _COMMANDS.get(name)
        if module is None:
            return None
        attribute = f"{name}_" if hasattr(builtins, name) else name
        gc.disable()  # what is imported stays: to look for garbage takes a tenth of the time
        try:
            command: click.Command = getattr(importlib.import_module(f"taskqueue.cli.{module}"), attribute)
        finally:
            gc.enable()
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="taskqueue")
def taskqueue() -> None:
    """A task queue on RabbitMQ: dispatchers, worker pools, plugins.

    \b
    Try it on this machine, with a broker of your own:
        taskqueue up                                    in one terminal
        taskqueue submit digest /etc/hostname --wait    in another

    The broker's address is taken from --amqp, else from the environment variable TASKQUEUE_AMQP, else
    from the configuration file, else a private broker that `taskqueue up` has started is used.
    """  # noqa: D301 -- that backspace is click's sign for lines to be left as they are


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command `taskqueue` and exit; see `run_command`.

    arguments -- None for those of this process
    """
    run_command(taskqueue, "taskqueue", sys.argv[1:] if arguments is None else arguments)


def run_command(command: click.Command, name: str, arguments: Sequence[str]) -> NoReturn:
    """Run a command with clean signals and streams, and exit with its status.

    Errors of the user or the system are printed, one line each.
    """
    startup.open_streams()
    # A process of ours that was started with this option has signals blocked (children.fork).
    if "--amqp-fd" not in arguments:
        startup.clean_signals()
    output = sys.stdout
    status, complaint = _perform(command, name, arguments)
    try:
        output.flush()
    except OSError as error:
        status, complaint = _refused(error)
        startup.give_up(output)
    startup.complain("".join(f"taskqueue: {line}\n" for line in complaint.splitlines()))
    sys.exit(status)


def _perform(command: click.Command, name: str, arguments: Sequence[str]) -> tuple[int, str]:
    """Run a command; return its status and the lines of its error, "" if there is none."""
    output = sys.stdout
    try:
        ended = command.main(list(arguments), prog_name=name, standalone_mode=False)
    except SystemExit as end:
        if sys.stdout is not output:  # click replaces it if a pipe is broken, and raises this
            return _refused(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)))
        return end.code if isinstance(end.code, int) else ExitStatus.OK, ""
    except click.ClickException as error:
        said = io.StringIO()
        error.show(said)
        startup.complain(said.getvalue())
        return error.exit_code, ""
    except click.Abort as abort:
        if isinstance(abort.__context__, KeyboardInterrupt):
            return ExitStatus.PAUSED, ""
        return ExitStatus.FAILED, "aborted"
    except TaskqueueError as error:
        return error.status, str(error)
    except OSError as error:
        return _refused(error)
    return ended if isinstance(ended, int) else ExitStatus.OK, ""


def _refused(error: OSError) -> tuple[int, str]:
    """Return the status and the text for an error of the system."""
    if isinstance(error, FileNotFoundError) and not error.filename:  # getcwd(2)
        return ExitStatus.SYSTEM, "the current directory is gone: change to one that exists"
    place = error.filename or ("standard output" if error.errno in _OF_WRITING else "")
    return ExitStatus.SYSTEM, f"{f'{place}: ' if place else ''}{error.strerror}"
