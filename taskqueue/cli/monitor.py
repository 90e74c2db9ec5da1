"""`taskqueue monitor`: the daemon that records what becomes of workitems, a probe of it, and its repair."""

import sys
from pathlib import Path
from typing import Final

import click

from taskqueue import config
from taskqueue.address import Source
from taskqueue.cli import daemons, monitor_users, options
from taskqueue.errors import ConfigError
from taskqueue.monitor.check import check as probe
from taskqueue.monitor.daemon import MonitorDaemon
from taskqueue.monitor.place import database_url, own_directory
from taskqueue.monitor.rebuild import move_aside

_IN_POSTGRESQL: Final = (
    "the record is in PostgreSQL: stop every monitor, rename or drop the schema taskqueue of its database, "
    "and start them again"
)


@click.group(invoke_without_command=True, short_help="Record what becomes of workitems.")
@daemons.daemon_options
@click.option("--check", is_flag=True, help="Print whether a monitor records, for Nagios and its like.")
@click.option("--directory", type=click.Path(path_type=Path), hidden=True)
@click.option("--own-token", "own_token", type=click.Path(path_type=Path), hidden=True)
@click.pass_context
def monitor(
    context: click.Context,
    source: Source,
    pidfile: str | None,
    *,
    stay: bool,
    check: bool,
    directory: Path | None,
    own_token: Path | None,
) -> None:
    """Record what becomes of every workitem, from the events of all dispatchers and workers.

    SIGTERM ends it; SIGHUP reads the configuration again. Events of the meantime wait in the broker.

    Exit status of --check: 0 OK, 1 warning, 2 critical.
    """
    if context.invoked_subcommand is not None:
        return
    if check:
        finding = probe(directory or _directory(source.path))
        click.echo(str(finding))
        sys.exit(finding.status)
    words = options.as_words(
        config=source.path, pidfile=pidfile, foreground=stay, directory=directory, own_token=own_token
    )
    arguments = ["monitor", *words]
    options.hide_address(source, arguments)
    daemon = MonitorDaemon(source, directory, own_token)
    options.need_address(source, arguments, is_configured=daemon.plan.has_broker)
    daemons.run(daemon, daemon.plan.logging, source, stay=stay, pidfile=pidfile)


@monitor.command(short_help="Record anew from the beginning of the stream.")
@options.config_option
def rebuild(path: str | None) -> None:
    """Move the record aside, so that the monitor records anew from the stream's beginning.

    The monitor must not run. Events older than the stream are only in the record that was moved.
    """
    settings = config.load(path, (), as_root=False).monitor
    if database_url(settings) is not None:
        raise ConfigError([_IN_POSTGRESQL])
    directory = own_directory(settings)
    place = move_aside(directory)
    if place is None:
        click.echo(f"There is no record in {directory}.")
    else:
        click.echo(f"The record is in {place}. The monitor records anew when it is started.")


monitor.add_command(monitor_users.user)
monitor.add_command(monitor_users.token)


def _directory(path: str | None) -> Path:
    return own_directory(config.load(path, (), as_root=False).monitor)
