"""`taskqueue scale` and `roll`: the numbers of workers on all hosts, and their replacement."""

import time
from collections.abc import Mapping
from typing import Any, Final

import click

from taskqueue.address import Source
from taskqueue.cli import options
from taskqueue.cli.pools import change, giver, tell_silent, worker_type_of
from taskqueue.control import verbs
from taskqueue.control.answers import Answers
from taskqueue.control.directives import MOST_WORKERS, Size
from taskqueue.errors import ExitStatus, NoPool
from taskqueue.texts import counted

_OF_CONFIG: Final = -1  # workers, as the configuration says
_LOOK_DELAY: Final = 0.5  # seconds between two looks at a roll
_MOST_MISSED: Final = 5  # looks without an answer of a host, after which it is given up


class Workers(click.ParamType):  # type: ignore[type-arg] # generic in newer versions only
    """A number of workers; "config" for that of the configuration, which is -1."""

    name = "workers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number; click reports any other value."""
        if value == "config":
            return _OF_CONFIG
        return int(options.WholeNumber(0, MOST_WORKERS).convert(value, param, ctx))


@click.command(short_help="Give a group another number of workers.")
@click.argument("group", metavar="TYPE|GROUP", callback=worker_type_of)
@click.argument("workers", metavar="N|config", type=Workers())
@click.option("--host", metavar="HOST", help="Only on this host.")
@click.option("--keep", is_flag=True, help="Also after reloads and restarts, until another --keep.")
@options.broker_options
def scale(group: str, workers: int, host: str | None, source: Source, *, keep: bool) -> None:
    """Give a group N workers on all hosts that have it, until the pool's next reload or restart.

    The group's workers finish their work and end; others take their place. With the word config instead of N,
    the group has as many workers as the configuration says. With --keep, a number stays in force, and wins
    over the configuration, until `taskqueue scale GROUP config --keep`.

    Exit status: 0 done; 1 a host refuses; 69 no pool answers, or the broker cannot keep the command; 75 some
    hosts have not answered.
    """
    number = None if workers == _OF_CONFIG else workers
    if keep:
        size = None if number is None else Size(number, giver(), time.time())
        answers = verbs.keep_size(change(source), group, size, host or "")
    else:
        answers = verbs.scale(change(source), group, number, host or "")
    shown = answers.with_group(group)
    for name, found in shown:
        click.echo(f"{name}: {group} has {counted(found, 'worker')}.")
    if not shown and keep:
        click.echo("The command is kept; no pool that has such a group runs now.")
    tell_silent(answers)


# --- replacement ---


@click.command(short_help="Replace workers one after the other.")
@click.argument("group", metavar="[TYPE|GROUP]", required=False, default="", callback=worker_type_of)
@click.option("--host", metavar="HOST", help="Only on this host.")
@options.broker_options
def roll(group: str, host: str | None, source: Source) -> None:
    """Replace all workers, or those of a group or type, one after the other on each host.

    A worker finishes its workitem; the next one is replaced once the successor is ready. The roll of a host
    stops at a new worker that ends before it is ready, or is not ready after 60 seconds; the old workers work
    on. Ctrl-C ends the command; the roll goes on.

    Exit status: 0 all workers are replaced; 1 a host refuses, or its roll has stopped; 69 no pool answers;
    75 some hosts have not answered.
    """
    asked = change(source)
    answers = verbs.roll(asked, group, host or "")
    shown = _Progress(asked.id)
    shown.take(answers)
    while shown.hosts - shown.over:
        time.sleep(_LOOK_DELAY)
        try:
            shown.take(change(source).ask())
        except NoPool:
            shown.take(Answers())
    for name in sorted(shown.lost):
        click.echo(f"{name} does not answer any more.", err=True)
    if shown.lost:
        raise SystemExit(ExitStatus.TIMEOUT)
    if shown.has_failed:
        raise SystemExit(ExitStatus.FAILED)
    tell_silent(answers)


class _Progress:
    """Shows how far the rolls of hosts are that a command has begun."""

    def __init__(self, name: str) -> None:
        self.hosts: set[str] = set()  # with a roll of the command
        self.over: set[str] = set()  # of those, where it is over
        self.lost: set[str] = set()  # of those, which do not answer any more
        self.has_failed = False
        self._name = name
        self._shown: dict[str, str] = {}
        self._missed: dict[str, int] = {}

    def take(self, answers: Answers) -> None:
        """Show what has changed."""
        heard = set()
        for host, found in answers.rolling(self._name):
            heard.add(host)
            self._show(host, found)
        for host in self.hosts - self.over:
            self._missed[host] = 0 if host in heard else self._missed.get(host, 0) + 1
            if self._missed[host] >= _MOST_MISSED:
                self.lost.add(host)
                self.over.add(host)

    def _show(self, host: str, found: Mapping[str, Any]) -> None:
        self.hosts.add(host)
        text = f"{host}: {found['done']} of {counted(found['total'], 'worker')} replaced"
        if self._shown.get(host) != text:
            self._shown[host] = text
            click.echo(text)
        if found["failure"] and host not in self.over:
            self.has_failed = True
            click.echo(f"{host}: the roll has stopped: {found['failure']}", err=True)
        if found["failure"] or found["done"] == found["total"]:
            self.over.add(host)
