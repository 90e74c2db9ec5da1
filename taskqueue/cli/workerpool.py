"""`taskqueue workerpool`."""

from functools import partial

import click

from taskqueue.cli import daemons, options
from taskqueue.process import startup
from taskqueue.supervisor.supervisor import Supervisor, read_plan


@click.command(short_help="Run the plugins that are installed on this host.")
@options.daemon_options
def workerpool(
    path: str | None, amqp: str | None, amqp_fd: int | None, pidfile: str | None, *, foreground: bool
) -> None:
    """Run the plugins that are installed on this host, in worker processes of their own.

    SIGTERM lets running workitems finish, for stop_timeout seconds, and ends; a second one ends at once.
    SIGHUP reads the configuration again, finds new plugins, and restarts only the groups that changed.
    """
    arguments = options.daemon_arguments("workerpool", path, foreground=foreground, pidfile=pidfile)
    descriptor = options.hide_address(amqp, amqp_fd, arguments)
    supervisor = Supervisor(partial(read_plan, path), descriptor, options.reader(descriptor, path))
    if descriptor is None and not supervisor.plan.has_broker:
        options.begin_anew(arguments, options.private_address())
    if pid := daemons.already_running("workerpool", path, pidfile):
        words = "both take work now, each with as many workers as are configured"
        startup.complain(
            f"taskqueue: warning: process {pid} is a worker pool on the same configuration: {words}\n"
        )
    daemons.run(
        supervisor,
        supervisor.plan.logging,
        stay=foreground,
        pidfile=pidfile,
        amqp_fd=descriptor,
    )
