"""`taskqueue top`: the overview, worker types, what runs and dead letters, live."""

import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import click

from taskqueue import config
from taskqueue.address import Source
from taskqueue.cli import options, tables
from taskqueue.cli.screens.choice import Choice
from taskqueue.cli.screens.frame import frame
from taskqueue.cli.screens.letters import DeadLetters
from taskqueue.cli.screens.looking import Looking
from taskqueue.cli.screens.overview import Overview
from taskqueue.cli.screens.running import Running
from taskqueue.cli.screens.terminal import Terminal
from taskqueue.cli.screens.types import Types
from taskqueue.cli.screens.workflows import Ask, Workflows
from taskqueue.cli.status import PROCESS_COLUMNS, TYPE_COLUMNS, access_options, living, process_row, type_row
from taskqueue.monitor import flows
from taskqueue.monitor.client import Access, DirectReader, HttpReader, NoMonitor, Reader
from taskqueue.monitor.watching import PassingRecord
from taskqueue.monitor.web.rights import NoRight
from taskqueue.monitor.web.workflows import WorkflowRequest
from taskqueue.workflows.wire import LIST

_DELAY: Final = 1.0  # seconds between two looks
_FIRST_EVENTS: Final = 40.0  # seconds in which every daemon tells its state, if the broker is there


@click.command(short_help="Show what waits, runs and fails, live.")
@tables.format_option
@access_options
@options.broker_options
def top(*, style: str, access: Access, source: Source) -> None:
    """Show what waits, runs and fails, live, until q is pressed.

    Screens: o overview, t worker types, r what runs, d dead letters, w workflows. Enter shows details,
    / filters, and ? explains the keys.

    The record is read as `taskqueue status` reads it. Where no monitor runs, the events are received from the
    broker: earlier ones are unknown, and the first may take half a minute to come. Without a terminal, or
    with --format json, the command prints worker types and processes once, and ends.

    Exit status: 0 after q or Ctrl-C; 128 and the number of the signal that ended it.
    """
    with _reader(access, source) as (reader, note):
        status = 0
        if style == "json" or not Terminal.is_fit():
            _show_once(reader, note, style)
        else:
            status = _show_live(reader, note, _workflows(reader, source))
    if status:
        raise SystemExit(status)


@contextmanager
def _reader(access: Access, source: Source) -> Iterator[tuple[Reader, Callable[[], str]]]:
    """Yield what reads the record, and a function that returns what is to be said about it."""
    settings = config.load(source.path, (), as_root=False).monitor
    try:
        reader = access.reader(settings)
    except NoMonitor:
        if access.is_remote:
            raise
        with PassingRecord(source.find()) as record:
            since = time.strftime("%H:%M:%S")
            yield (
                DirectReader(record.directory),
                lambda: record.error or f"no monitor runs: events since {since} only",
            )
    else:
        yield reader, lambda: ""


def _workflows(reader: Reader, source: Source) -> Ask:
    """Return what asks for workflows that have not ended: the monitor, or else the flow processes."""
    if isinstance(reader, HttpReader):
        return reader.workflows
    return lambda limit: flows.newest(
        source.find(), frozenset(), WorkflowRequest(LIST, is_open=True, limit=limit)
    )[0]


def _overview(reader: Reader) -> tuple[list[Any], list[Any]]:
    types = reader.ask("types")["types"]
    try:
        return types, living(reader.ask("processes")["processes"])
    except NoRight:  # who sees only some tenants or types sees no processes
        return types, []


def _show_once(reader: Reader, note: Callable[[], str], style: str) -> None:
    until = time.monotonic() + _FIRST_EVENTS
    while not any(_overview(reader)) and note() and time.monotonic() < until:
        time.sleep(_DELAY)
    types, processes = _overview(reader)
    if style == "json":
        tables.show_json({"types": types, "processes": processes, "note": note()})
        return
    if note():
        click.echo(note(), err=True)
    tables.show_table("Worker types", TYPE_COLUMNS, [type_row(each) for each in types])
    tables.show_table("\nProcesses", PROCESS_COLUMNS, [process_row(each) for each in processes])


def _show_live(reader: Reader, note: Callable[[], str], running: Ask) -> int:
    """Show the screens until the user quits or a signal comes; return the exit status.

    running -- returns workflows that have not ended
    """
    choice = Choice((Overview(), Types(), Running(), DeadLetters(), Workflows(running)))
    logging.getLogger().addHandler(logging.NullHandler())  # no line of a log stands on the screen
    terminal = Terminal()
    looking = Looking(reader, choice.screen, terminal.wake)
    looking.begin()
    keys: list[str] = []  # those that mean rows of a screen that is not read yet wait
    with terminal:
        while not choice.is_over and terminal.ended_by is None:
            looking.check()
            said = note()
            about = looking.error or (f"{said}; {choice.screen.unknown}" if said else "")
            terminal.draw(frame(choice, looking.seen.get(choice.screen), about, *terminal.size))
            keys += terminal.keys(_DELAY)
            while keys and not (choice.needs_rows(keys[0]) and choice.screen not in looking.seen):
                if seen := looking.seen.get(choice.screen):
                    choice.take(seen.rows)
                choice.press(keys.pop(0))
            looking.want(choice.screen, choice.want)
    by = terminal.ended_by
    return 0 if by in (None, signal.SIGINT) else 128 + by
