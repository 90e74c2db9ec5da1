"""`taskqueue dispatcher`."""

import click

from taskqueue.cli import daemons, options
from taskqueue.dispatcher.daemon import DispatcherDaemon


@click.command(short_help="Route workitems to the queues of their worker types.")
@options.daemon_options
def dispatcher(
    path: str | None, amqp: str | None, amqp_fd: int | None, pidfile: str | None, *, foreground: bool
) -> None:
    """Route workitems from the queue `taskqueue` to the queues of their worker types.

    SIGTERM finishes what is under way and ends; SIGHUP reads the configuration again.
    """
    arguments = options.daemon_arguments("dispatcher", path, foreground=foreground, pidfile=pidfile)
    descriptor = options.hide_address(amqp, amqp_fd, arguments)
    daemon = DispatcherDaemon(path, options.reader(descriptor, path))
    if descriptor is None and daemon.settings.amqp is None:
        options.begin_anew(arguments, options.private_address())
    daemons.run(daemon, daemon.settings.logging, stay=foreground, pidfile=pidfile, amqp_fd=descriptor)
