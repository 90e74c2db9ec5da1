"""`taskqueue ps`, `pause`, `resume`, `drain`, `undrain` and `control`: commands to the pools of all hosts."""

import getpass
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import cache
from typing import Any, Final

import click

from taskqueue import config as configuration
from taskqueue.address import Source
from taskqueue.cli import options, tables
from taskqueue.cli.schedule import Time
from taskqueue.control import key, verbs
from taskqueue.control.answers import Answers, Commanding
from taskqueue.control.client import Command, known_host
from taskqueue.control.directives import Directive, Directives
from taskqueue.control.local import LocalCommand
from taskqueue.errors import ConfigError, ExitStatus
from taskqueue.messages.results import HOST
from taskqueue.messages.routing import WORKER_TYPE
from taskqueue.texts import counted

_COLUMNS: Final = ("host", "group", "process", "pid", "state", "for")
_NO_KEY: Final = (
    "no control key: expected the file control.key beside the configuration file, or control_key in "
    "section [workerpool]; `taskqueue control key` makes one"
)


def command(source: Source, timeout: float) -> Commanding:
    """Return a command to all pools, signed by this host's key; without one, to this host's pool alone.

    Raises ConfigError without a key and a socket.
    """
    settings = configuration.load(source.path, (), as_root=False)
    place = key.find(source.path, settings.workerpool)
    if place is not None:
        return Command(source.find(), key.read(place), timeout=timeout)
    path = key.socket_of(source.path, settings.workerpool)
    if path is None:
        raise ConfigError([_NO_KEY])
    _say_local()
    return LocalCommand(path, timeout=max(timeout, verbs.PATIENCE_OF_CHANGE))


@cache
def _say_local() -> None:
    text = "No control key: this is about the pool of this host alone; pauses and drains end with it."
    click.echo(text, err=True)


def change(source: Source) -> Commanding:
    """Return a command that changes something; see `command`."""
    return command(source, verbs.PATIENCE_OF_CHANGE)


timeout_option: Final = click.option(
    "--timeout",
    type=options.Seconds(),
    default=verbs.PATIENCE,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the answers of hosts.",
)


@click.command(short_help="Show the hosts, groups and workers, and what each does.")
@timeout_option
@tables.format_option
@options.broker_options
def ps(timeout: float, style: str, source: Source) -> None:
    """Ask all worker pools what each of their workers does, and show rolls and standing commands.

    Pools without a control key take no commands and are not shown.

    Exit status: 0 done; 1 a host refuses; 69 no pool answers; 75 some hosts have not answered.
    """
    answers = command(source, timeout).ask()
    if style == "json":
        tables.show_json(answers.plain())
    else:
        tables.show_table("Processes", _COLUMNS, [row for each in answers.pools for row in _rows(each)])
        for line in (*_rolls(answers), *standing_lines(answers.standing)):
            click.echo(line)
    tell_silent(answers)


def _rows(pool: Mapping[str, Any]) -> Iterator[tuple[object, ...]]:
    for group in pool["groups"]:
        yield pool["host"], group["group"], "consumer", group["consumer"] or "", group["state"], ""
        for worker in group["workers"]:
            does, age = worker["does"], ""
            if "workitem" in worker:
                does = f"works on {worker['workitem']} of {worker['type']}"
                age = str(timedelta(seconds=max(0, round(time.time() - worker["since"]))))
            yield pool["host"], group["group"], worker["name"], worker["pid"] or "", does, age


def _rolls(answers: Answers) -> Iterator[str]:
    """Yield a line for each pool with a roll that is under way or has stopped."""
    for pool in answers.pools:
        roll = pool["roll"]
        if roll is None:
            continue
        done = f"{roll['done']} of {counted(roll['total'], 'worker')}"
        if roll["failure"]:
            yield f"{pool['host']}: the last roll has stopped after {done}: {roll['failure']}."
        elif roll["group"]:
            yield f"{pool['host']} rolls {roll['group']}: {done} replaced."


def standing_lines(standing: Directives) -> Iterator[str]:
    """Yield a line for each standing command."""
    now = time.time()
    for name, pause in standing.pauses.items():
        if not pause.is_over(now):
            yield f"{name} is paused{_until(pause.until)}, by {pause.by} since {_shown(pause.since)}."
    for name, drain in standing.drained.items():
        yield f"{name} is drained, by {drain.by} since {_shown(drain.since)}."
    for name, size in standing.sizes.items():
        host, _, group = name.rpartition("/")
        number, where = counted(size.workers, "worker"), f" on {host}" if host else ""
        yield f"{group} is kept at {number}{where}, by {size.by} since {_shown(size.since)}."


def _until(until: float | None) -> str:
    return "" if until is None else f" until {_shown(until)}"


def _shown(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def tell_silent(answers: Answers) -> None:
    """Say which hosts have not answered or obeyed; exit with a status if there are any."""
    for line in answers.complaints:
        click.echo(line, err=True)
    if answers.silent:
        raise SystemExit(ExitStatus.TIMEOUT)
    if answers.errors or answers.faults:
        raise SystemExit(ExitStatus.FAILED)


# --- standing commands ---


def giver() -> str:
    """Return who gives a command: this process's user and host."""
    try:
        return f"{getpass.getuser()}@{HOST}"
    except (OSError, KeyError):  # a user without a name
        return f"unknown@{HOST}"


def _tell(answers: Answers, obeyed: str) -> None:
    for line in sorted({f"{each['host']}: {obeyed}" for each in answers.pools}):
        click.echo(line)
    if not answers.pools and not answers.errors:
        click.echo("The command is kept; no pool runs that could obey it now.")
    tell_silent(answers)


def worker_type_of(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """Return a worker type or group, "" for none; click reports any other value."""
    if value and not WORKER_TYPE.match(value):
        raise click.BadParameter(f"expected a worker type, found {value!r:.102}.")
    return value


type_argument: Final = click.argument("worker_type", metavar="TYPE", callback=worker_type_of)


@click.command(short_help="Have all hosts take no workitems of a type.")
@type_argument
@click.option("--for", "period", type=Time("1"), metavar="TIME", help="For a time, as 30m, 2h or 7d.")
@options.broker_options
def pause(worker_type: str, period: float | None, source: Source) -> None:
    """Have the pools of all hosts take no workitems of TYPE until `taskqueue resume`.

    Workitems stay in their queue; running ones go on. The pause outlives restarts of pools and broker, and
    hosts that start later obey it.

    Exit status: 0 all hosts obey; 1 a host refuses; 69 the broker cannot keep the command; 75 some hosts have
    not answered. They obey once they run.
    """
    now = time.time()
    directive = Directive(giver(), now, None if period is None else now + period)
    words = f"{worker_type} is paused{_until(directive.until)}."
    _tell(verbs.pause(change(source), worker_type, directive), words)


@click.command(short_help="Have all hosts take workitems of a paused type again.")
@type_argument
@options.broker_options
def resume(worker_type: str, source: Source) -> None:
    """Have the pools of all hosts take workitems of TYPE again.

    Exit status: as of `taskqueue pause`; 1 also if the type is not paused.
    """
    _tell(verbs.resume(change(source), worker_type), f"{worker_type} is resumed.")


@click.command(short_help="Have a host take no workitems.")
@click.argument("host")
@options.broker_options
def drain(host: str, source: Source) -> None:
    """Have the pools of HOST take nothing new, finish what runs, and stay, until `taskqueue undrain`.

    The command outlives restarts of the host.

    Exit status: 0 all hosts obey; 1 no pool has run on HOST, or it refuses; 69 the broker cannot keep the
    command; 75 some hosts have not answered.
    """
    directive = Directive(giver(), time.time())
    _change_host(source, host, directive, "is drained")


@click.command(short_help="Have a drained host take workitems again.")
@click.argument("host")
@options.broker_options
def undrain(host: str, source: Source) -> None:
    """Have the pools of HOST take workitems again.

    Exit status: as of `taskqueue drain`.
    """
    _change_host(source, host, None, "takes workitems")


def _change_host(source: Source, host: str, directive: Directive | None, obeyed: str) -> None:
    answers = verbs.set_drain(change(source), host, directive)
    if not answers.errors:
        click.echo(f"{host} {obeyed}." if answers.pools else f"The command is kept until {host} runs.")
    tell_silent(answers)


@click.group(short_help="Make a control key, and forget hosts.")
def control() -> None:
    """Prepare hosts for the commands ps, pause, resume, scale, roll, drain and undrain."""


@control.command("key", short_help="Make a control key.")
@options.config_option
def make_key(path: str | None) -> None:
    """Make the control key, with which administrators sign commands to the pools.

    All hosts of an installation need the same file. The pools of a host read it when they are reloaded.

    Exit status: 0 done; 78 the file exists already, or cannot be made.
    """
    settings = configuration.load(path, (), as_root=False)
    place = key.place_of(path, settings.workerpool)
    if place is None:
        raise ConfigError(
            ["no place for a control key: expected a configuration file, XDG_STATE_HOME or HOME"]
        )
    key.make(place, settings.workerpool.user)
    click.echo(f"{place} is the control key: copy it to all hosts and reload their pools.")


@control.command(short_help="Forget a host that is gone for good.")
@click.argument("host")
@options.broker_options
def forget(host: str, source: Source) -> None:
    """Expect no answers of HOST any more, until a pool runs there again.

    Exit status: 0 done; 1 no pool has run on HOST, or a host refuses; 75 some hosts have not answered.
    """
    seen: list[bool] = []

    def without_host(found: Any) -> Any:
        if not seen:
            known_host(host, found.hosts)
            seen.append(True)
        return found.without_host(host)

    answers = change(source).change(without_host)
    click.echo(f"{host} is forgotten.")
    tell_silent(answers)
