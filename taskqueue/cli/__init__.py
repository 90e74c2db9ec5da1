"""The command `taskqueue`: one file a command, each thin."""

import errno
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
    "up": "up",
    "dispatcher": "dispatcher",
    "workerpool": "workerpool",
    "submit": "submit",
    "run": "run",
    "feed": "feed",
    "work": "work",
    "failed": "deadletters",
    "rejected": "deadletters",
    "config": "config",
    "plugins": "plugins",
}


#: Why a write fails; files of ours that fail so have a name.
_OF_WRITING: Final = {errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}


class Commands(click.Group):
    """A group that imports a command when it is asked for: the supervisor has no use for AMQP."""

    def list_commands(self, _context: click.Context) -> list[str]:
        """Return the commands in the order a newcomer meets them."""
        return list(_COMMANDS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        """Import the command's module and return what has its name there."""
        module = _COMMANDS.get(name)
        if module is None:
            return None
        command: click.Command = getattr(importlib.import_module(f"taskqueue.cli.{module}"), name)
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

    arguments -- None for those that this process was started with
    """
    run_command(taskqueue, "taskqueue", sys.argv[1:] if arguments is None else arguments)


def run_command(command: click.Command, name: str, arguments: Sequence[str]) -> NoReturn:
    """Run a command from a clean start, and exit with its status.

    Errors that the user can mend, and what the system refuses, are printed in a line each.
    """
    startup.open_streams()
    # Our own processes that start another with this option keep back signals for it to note (processes.fork).
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
    """Return a command's status, and what is to be said of it: lines, or nothing."""
    output = sys.stdout
    try:
        ended = command.main(list(arguments), prog_name=name, standalone_mode=False)
    except SystemExit as end:
        if sys.stdout is not output:  # so does click where a pipe is broken, and raises this
            return _refused(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)))
        return end.code if isinstance(end.code, int) else ExitStatus.OK, ""
    except click.ClickException as error:
        said = io.StringIO()
        error.show(said)
        startup.complain(said.getvalue())
        return error.exit_code, ""
    except click.Abort:
        return ExitStatus.FAILED, "aborted"
    except TaskqueueError as error:
        return error.status, str(error)
    except OSError as error:
        return _refused(error)
    return ended if isinstance(ended, int) else ExitStatus.OK, ""


def _refused(error: OSError) -> tuple[int, str]:
    """Return the status for what the system refused, and what that was."""
    if isinstance(error, FileNotFoundError) and not error.filename:  # getcwd(2)
        return ExitStatus.SYSTEM, "the current directory is gone: change to one that exists"
    place = error.filename or ("standard output" if error.errno in _OF_WRITING else "")
    return ExitStatus.SYSTEM, f"{f'{place}: ' if place else ''}{error.strerror}"
