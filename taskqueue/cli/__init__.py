"""The command `taskqueue`: one file a command, each thin."""

import importlib
import sys
from collections.abc import Sequence
from typing import Final

import click

from taskqueue.errors import TaskqueueError

#: Each command, and the module that defines it under this name.
_COMMANDS: Final = {
    "up": "up",
    "dispatcher": "dispatcher",
    "workerpool": "workerpool",
    "submit": "submit",
    "run": "run",
    "feed": "feed",
    "work": "work",
    "failed": "kept",
    "rejected": "kept",
    "config": "config",
    "plugins": "plugins",
}


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


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; errors that the user can mend are printed in a line each, without a traceback.

    arguments -- None for those that this process was started with
    """
    try:
        taskqueue(arguments, prog_name="taskqueue")
    except TaskqueueError as error:
        sys.stderr.writelines(f"taskqueue: {line}\n" for line in str(error).splitlines())
        sys.exit(error.status)
