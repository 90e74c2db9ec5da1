"""`taskqueue schedule`: what the scheduler knows, and what it is told."""

import time
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final

import click

from taskqueue.address import Source
from taskqueue.cli import options, tables
from taskqueue.config.checks import Refused, duration
from taskqueue.errors import BadSchedule
from taskqueue.scheduler.client import ask, ask_all
from taskqueue.scheduler.state import State
from taskqueue.schedules.definition import MISSED, SKIP, Definition, content_type_of

_COLUMNS: Final = ("schedule", "due", "worker type", "state", "next", "last fired", "fired")


class Time(click.ParamType):  # type: ignore[type-arg] # generic in newer versions only
    """A time as in the configuration: 90d, 12h, 30m, 15s or a number of seconds."""

    name = "time"

    def __init__(self, least: str = "0") -> None:
        """Take times of at least `least` seconds."""
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds; click reports any other value."""
        if isinstance(value, float):
            return value
        try:
            return duration(value, self._least)
        except Refused as refused:
            self.fail(f"expected {refused.expected}, found {refused.found}.", param, ctx)


_name: Final = click.argument("name")


@click.group(short_help="List, pause, run, add and remove schedules.")
def schedule() -> None:
    """Look at schedules and change them; they are kept on the broker.

    Schedules come from the sections [schedule NAME] of dispatchers' configurations, or from `add`.

    Exit status: 0 done; 1 refused, as for a schedule that does not exist; 2 wrong usage, as for a schedule
    to add that has faults; 69 no scheduler answers.
    """


# --- looking ---


@schedule.command("list")
@tables.format_option
@options.broker_options
def list_schedules(style: str, source: Source) -> None:
    """List all schedules."""
    found = list(ask_all(source.find()))
    if style == "json":
        tables.show_json([_described(each) for each in found])
    elif found:
        tables.show_table("Schedules", _COLUMNS, [_row(State.of_json(each)) for each in found])
    else:
        click.echo("There is no schedule.")


@schedule.command()
@_name
@tables.format_option
@options.broker_options
def show(name: str, style: str, source: Source) -> None:
    """Show everything about a schedule."""
    found = ask(source.find(), "show", name=name)["schedule"]
    if style == "json":
        tables.show_json(_described(found))
        return
    state = State.of_json(found)
    rows = [*zip(_COLUMNS, _row(state), strict=True), *_details(state)]
    tables.show_table("Schedule", ("field", "value"), rows)


@schedule.command("next")
@click.argument("name", required=False)
@options.number("-n", "--number", meaning="How many times of each schedule.", default=5, most=1000)
@tables.format_option
@options.broker_options
def next_times(name: str | None, number: int, style: str, source: Source) -> None:
    """Show when a schedule, or each of them, is due next."""
    amqp = source.find()
    found = [ask(amqp, "show", name=name)["schedule"]] if name else ask_all(amqp)
    states = [State.of_json(each) for each in found]
    times = {state.name: list(islice(_coming(state), number)) for state in states}
    if style == "json":
        tables.show_json(times)
    else:
        tables.show_table("Next times", ("schedule", "due"), [(n, at) for n in times for at in times[n]])


def _described(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schedule as JSON shows it."""
    state = State.of_json(found)
    plain = {name: value for name, value in found.items() if name not in ("kind", "writer", "definition")}
    return state.definition.as_json() | plain | {"next": list(islice(_coming(state), 3))}


def _row(state: State) -> tuple[object, ...]:
    definition = state.definition
    last = definition.shown(state.fired_at) if state.fired_at else ""
    coming = next(_coming(state), "")
    return (
        definition.name,
        definition.when,
        definition.worker_type,
        state.in_words(),
        coming,
        last,
        state.fired,
    )


def _coming(state: State) -> Iterator[str]:
    """Yield the next times, with their offsets."""
    return (state.definition.shown(at) for at in state.coming(time.time()))


def _details(state: State) -> Iterator[tuple[str, object]]:
    definition = state.definition
    yield "defined by", ", ".join(state.sources) or "taskqueue schedule add"
    yield "body", definition.body
    yield "content type", definition.content_type
    yield "tenant", definition.tenant
    yield "tags", ", ".join(definition.tags)
    yield "jitter", f"{definition.jitter:g} s"
    yield "missed", definition.missed
    yield "overlap", "yes" if definition.overlap else "no"
    yield "left out because of no overlap", state.skipped


# --- changing ---


@schedule.command(short_help="Stop a schedule from firing.")
@_name
@options.broker_options
def pause(name: str, source: Source) -> None:
    """Stop a schedule from firing until it is resumed, also after restarts."""
    ask(source.find(), "pause", name=name)
    click.echo(f"{name} is paused.")


@schedule.command(short_help="Let a schedule fire again.")
@_name
@options.broker_options
def resume(name: str, source: Source) -> None:
    """Let a schedule fire again; ticks during the pause are left out.

    A schedule without overlap no longer waits for its workitem that is not over.
    """
    ask(source.find(), "resume", name=name)
    click.echo(f"{name} is active.")


@schedule.command("run-now")
@_name
@options.broker_options
def run_now(name: str, source: Source) -> None:
    """Submit the workitem of a schedule now; print its id. Its times do not change."""
    click.echo(ask(source.find(), "run-now", name=name)["workitem"])


@schedule.command()
@_name
@click.option(
    "--force", is_flag=True, help="Also one that a configuration defines, as of a host that is gone."
)
@options.broker_options
def remove(name: str, source: Source, *, force: bool) -> None:
    """Remove a schedule that was added by a command."""
    ask(source.find(), "remove", name=name, force=force)
    click.echo(f"{name} is removed.")


@schedule.command(short_help="Add a schedule; it is kept until it is removed.")
@_name
@click.argument("worker_type", metavar="TYPE")
@click.argument("body", default="null")
@click.option("--cron", metavar="EXPRESSION", help="Its times, as in crontab(5), or @daily.")
@click.option("--every", type=Time("1"), metavar="TIME", help="Instead of --cron: as 15s, 30m, 12h or 90d.")
@click.option("--offset", type=Time(), metavar="TIME", help="With --every: moves its times.")
@click.option("--timezone", metavar="ZONE", help="With --cron: as Europe/Berlin; by default this host's.")
@click.option("--content-type", metavar="T", help="The body's media type; by default JSON, if it is that.")
@click.option("--tenant", metavar="NAME", help="For whom the workitems are.")
@options.tag_option
@click.option("--jitter", type=Time(), metavar="TIME", help="Maximum random delay of each tick.")
@click.option(
    "--missed", type=click.Choice(MISSED), default=SKIP, help="Treatment of ticks that no scheduler fired."
)
@click.option("--no-overlap", is_flag=True, help="Fire nothing while the last workitem is not over.")
@options.broker_options
def add(name: str, worker_type: str, body: str, *, source: Source, no_overlap: bool, **values: Any) -> None:
    """Add the schedule NAME, which submits workitems with BODY for the workers of TYPE.

    It is kept on the broker until it is removed.
    """
    given = {option: value for option, value in values.items() if value is not None}
    for option, other in (("offset", "every"), ("timezone", "cron")):
        if option in given and other not in given:
            raise click.UsageError(f"--{option} is for --{other}.")
    given["content_type"] = given.get("content_type") or content_type_of(body)
    fields = {"name": name, "worker_type": worker_type, "body": body, "overlap": not no_overlap}
    try:
        definition = Definition.checked(fields | given | {"tags": list(given["tags"])})
    except BadSchedule as error:
        raise click.UsageError(f"{error}.") from None
    ask(source.find(), "add", definition=definition.as_json())
    coming = next(definition.next_times(time.time()), None)
    click.echo(
        f"{name} is due next at {definition.shown(coming)}." if coming else f"{name} is never due again."
    )
