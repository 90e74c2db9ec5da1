"""`taskqueue up`."""

import os
import sys
from functools import partial

import click

from taskqueue import config
from taskqueue.address import of_private_broker
from taskqueue.cli import options
from taskqueue.cli.own_broker import Household
from taskqueue.config import AmqpSettings
from taskqueue.private_broker.node import PrivateBroker
from taskqueue.process import logs, startup
from taskqueue.process.daemon import foreground
from taskqueue.process.supervisor_loop import Child


class House(Household):
    """What `taskqueue up` keeps running: a dispatcher, a worker pool and, if it is ours, the broker."""

    def __init__(self, path: str | None, amqp: AmqpSettings, broker: PrivateBroker | None) -> None:
        """Prepare to run the daemons of a configuration against a broker."""
        settings = config.load(path, (), as_root=os.geteuid() == 0)
        stop_timeout = max(settings.workerpool.stop_timeout, settings.dispatcher.stop_timeout) + 5.0
        super().__init__("up", stop_timeout, amqp, broker)
        self._path = path

    def begin(self) -> None:
        """Start both daemons."""
        self.members += [Child(name, partial(self._execute, name)) for name in ("dispatcher", "workerpool")]

    def _execute(self, name: str) -> int:
        arguments = options.daemon_arguments(name, self._path, foreground=True, pidfile=None)
        command = [*options.own_command(), *arguments, "--amqp-fd", str(self.descriptor)]
        os.execve(sys.executable, command, options.environment())  # noqa: S606 -- no shell is wanted


@click.command(short_help="Run everything on this machine, broker included.")
@options.config_option
@options.amqp_option
@click.option("--amqp-fd", type=int, hidden=True)
def up(path: str | None, amqp: str | None, amqp_fd: int | None) -> None:
    """Run everything on this machine, in the foreground: broker, dispatcher and worker pool.

    The broker is a RabbitMQ node of your own, on a loopback port, unless one is configured. Its data is
    kept under $XDG_STATE_HOME/taskqueue. Ctrl-C ends everything.
    """
    arguments = ["up", *(["--config", path] if path else [])]
    descriptor = options.hide_address(amqp, amqp_fd, arguments)
    settings = config.load(path, (), as_root=False)
    logs.set_up(settings.logging, "up")
    address = options.stored(descriptor) if descriptor is not None else settings.amqp
    if address is not None:
        sys.exit(House(path, address, None).run(foreground()))
    with PrivateBroker() as broker:
        startup.complain(
            f"a private broker runs on 127.0.0.1:{broker.port}; "
            f"its address with password is in {broker.address_file}\n"
        )
        status = House(path, of_private_broker(broker.url), broker).run(foreground())
    sys.exit(status)
