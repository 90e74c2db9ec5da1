"""`taskqueue doctor`: what is wrong with this host and the broker, or will be, and what to do."""

import logging
import sys

import click

from taskqueue.address import Source
from taskqueue.cli import options, tables
from taskqueue.cli.status import access_options
from taskqueue.doctor.examination import examine
from taskqueue.doctor.finding import Level, Report
from taskqueue.monitor.client import Access
from taskqueue.process.logs import escape
from taskqueue.texts import counted


@click.command(short_help="Find what is wrong with this host and the broker, or will be.")
@tables.format_option
@access_options
@options.broker_options
def doctor(style: str, access: Access, source: Source) -> None:
    """Look at this host and the broker; say what is wrong or will be, the gravest first, and what to do.

    Nothing is changed. Root sees most; on the broker's host, also policies and settings of RabbitMQ. It takes
    some seconds, in which it waits for events of other hosts.

    Exit status: 0 if nothing is wrong, or there is only advice; 1 with warnings; 2 with errors.
    """
    logging.getLogger("taskqueue.broker").setLevel(logging.CRITICAL)  # what matters becomes a finding
    report = examine(source, access)
    if style == "json":
        tables.show_json(report.as_json())
    else:
        _show(report)
    sys.exit(report.status)


def _show(report: Report) -> None:
    for each in report.findings:
        click.echo(f"{each.level.name.lower()}: {escape(each.text)}\n    {escape(each.advice)}")
    for unseen in report.unseen:
        click.echo(f"not looked at: {escape(unseen.what)} ({escape(unseen.why)})")
    counts = [sum(each.level is level for each in report.findings) for level in (Level.ERROR, Level.WARNING)]
    click.echo(f"{counted(counts[0], 'error')}, {counted(counts[1], 'warning')}")
