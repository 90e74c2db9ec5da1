"""The command `taskqueue`: one file a command, each thin."""

import sys

import click

from taskqueue.cli.config import config
from taskqueue.cli.dispatcher import dispatcher
from taskqueue.cli.plugins import plugins
from taskqueue.cli.submit import submit
from taskqueue.cli.up import up
from taskqueue.cli.workerpool import workerpool
from taskqueue.errors import TaskqueueError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="taskqueue")
def taskqueue() -> None:
    r"""A task queue on RabbitMQ: dispatchers, worker pools, plugins.

    \b
    Try it on this machine, with a broker of your own:
        taskqueue up                            in one terminal
        taskqueue submit digest /etc/hostname --wait    in another

    The broker's address is taken from --amqp, else from the environment variable TASKQUEUE_AMQP, else
    from the configuration file, else a private broker that `taskqueue up` has started is used.
    """


for command in (up, dispatcher, workerpool, submit, config, plugins):
    taskqueue.add_command(command)


def main() -> None:
    """Run the command; errors that the user can mend are printed in a line each, without a traceback."""
    try:
        taskqueue(prog_name="taskqueue")
    except TaskqueueError as error:
        sys.stderr.write(f"taskqueue: {error}\n".replace("\n", "\ntaskqueue: ").removesuffix("taskqueue: "))
        sys.exit(error.status)
