"""`taskqueue failed` and `taskqueue rejected`."""

import base64
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

import click

from taskqueue import deadletters, texts
from taskqueue.address import Source
from taskqueue.amqp.tables import MalformedProperties
from taskqueue.broker.topology import FAILED_QUEUE, REJECTED_QUEUE
from taskqueue.cli import options, tables
from taskqueue.config import AmqpSettings
from taskqueue.deadletters import DeadLetter
from taskqueue.deadletters.message import Wanted
from taskqueue.errors import NotKept
from taskqueue.process.logs import escape
from taskqueue.texts import shorten

_REASON_WIDTH: Final = 80  # characters of a reason in a table


@dataclass(frozen=True, slots=True)
class Place:
    """The failed or the rejected messages."""

    name: str
    queue: str


@dataclass(frozen=True, slots=True)
class Filter:
    """Selects messages."""

    worker_type: str | None  # None: any
    error: str | None  # part of the reason, in lower or upper case

    def __bool__(self) -> bool:
        return bool(self.worker_type or self.error)

    def __call__(self, each: DeadLetter) -> bool:
        """Return whether a message is selected."""
        is_type = self.worker_type is None or each.worker_type == self.worker_type
        return is_type and (self.error or "").casefold() in each.reason.casefold()


_filters: Final = options.gathered(
    "wanted",
    Filter,
    click.option("--type", "worker_type", metavar="T", help="Only messages of worker type T."),
    click.option("--error", metavar="TEXT", help="Only messages whose reason contains TEXT."),
)


# --- list ---


@click.command("list")
@_filters
@options.number("--limit", meaning="Maximum number of messages.", default=100)
@tables.format_option
@options.broker_options
@click.pass_obj
def list_kept(place: Place, *, wanted: Filter, limit: int, style: str, source: Source) -> None:
    """List messages, the oldest first.

    Their order in the queue is kept.
    """
    found: list[dict[str, Any]] = []

    def look(each: DeadLetter) -> bool:
        if wanted(each):
            found.append(_summary(each))
        return len(found) == limit

    deadletters.browse(source.find(), place.queue, look, most=None if wanted else limit)
    if style == "json":
        tables.show_json(found)
    elif not found:
        click.echo(f"No {place.name} message{' of that kind' if wanted else ''} is kept.")
    else:
        _show_list(place, found)
        if len(found) == limit:
            click.echo(f"These are the oldest {limit}; --limit shows more.", err=True)


def _summary(each: DeadLetter) -> dict[str, Any]:
    return {
        "id": each.id,
        "type": each.worker_type,
        "attempts": each.attempts,
        "reason": each.reason,
        "when": each.when,
        "queue": each.queue,
    }


def _show_list(place: Place, found: list[dict[str, Any]]) -> None:
    rows = [
        (
            each["id"],
            each["type"],
            each["attempts"] or "",
            shorten(escape(each["reason"]), _REASON_WIDTH),
            _time(each["when"]),
        )
        for each in found
    ]
    columns = ("id", "type", "attempts", "reason", "when")
    tables.show_table(place.name.capitalize(), columns, rows, whole="id")


def _time(seconds: object) -> str:
    try:
        return datetime.fromtimestamp(seconds).isoformat(" ", "seconds")  # type: ignore[arg-type]  # noqa: DTZ006 -- local time
    except (TypeError, ValueError, OverflowError, OSError):  # absent, or malformed by another program
        return ""


# --- show ---


@click.command()
@click.argument("beginning", metavar="ID")
@tables.format_option
@options.broker_options
@click.pass_obj
def show(place: Place, *, beginning: str, style: str, source: Source) -> None:
    """Show one message with its properties, headers, history and body.

    ID may be shortened to a beginning that no other has.
    """
    each = deadletters.fetch(source.find(), place.queue, beginning)
    if style == "json":
        tables.show_json(_plain(_everything(each)))
    else:
        _show_text(each)


def _everything(each: DeadLetter) -> dict[str, Any]:
    properties = each.properties.fields | {"headers": _headers(each)}
    return _summary(each) | {"history": each.history, "properties": properties} | _body(each.body)


def _headers(each: DeadLetter) -> dict[str, Any]:
    try:
        return each.headers
    except MalformedProperties as error:
        return {"unreadable": str(error)}


def _body(body: bytes) -> dict[str, str]:
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(body).decode()}


def _plain(value: Any) -> Any:
    """Convert a value of an AMQP type to JSON types."""
    match value:
        case dict():
            return {key: _plain(inner) for key, inner in value.items()}
        case list():
            return [_plain(inner) for inner in value]
        case bytes():
            return base64.b64encode(value).decode()
        case datetime():
            return value.isoformat()
    return value


def _show_text(each: DeadLetter) -> None:
    summary = _summary(each) | {"when": _time(each.when)}
    told = {name: value for name, value in summary.items() if value not in ("", None)}
    tables.show_table("Message", ("what", "value"), [(name, told[name]) for name in told])
    if each.history:
        columns = list(dict.fromkeys(name for entry in each.history for name in entry))
        rows = [[_cell(name, entry.get(name, "")) for name in columns] for entry in each.history]
        tables.show_table("\nAttempts", [name.replace("_", " ") for name in columns], rows)
    fields = each.properties.fields | _headers(each)
    rows = [[name, value] for name, value in fields.items() if value != each.history]
    tables.show_table("\nProperties and headers", ("name", "value"), rows)
    click.echo("\nBody")
    click.echo(texts.lines(each.body.decode(errors="backslashreplace")))


def _cell(name: str, value: object) -> str:
    return _time(value) if name in ("started", "ended") else str(value)


# --- retry, purge ---


@click.command()
@click.argument("beginnings", metavar="[ID]...", nargs=-1)
@_filters
@click.option("--all", "everything", is_flag=True, help="All messages.")
@tables.format_option
@options.broker_options
@click.pass_obj
def retry(
    place: Place, *, beginnings: tuple[str, ...], wanted: Filter, everything: bool, style: str, source: Source
) -> None:
    """Send messages back to the queues that they came from.

    Their attempts are counted from the start. Choose them by ID, or by --type and --error. An ID may
    be shortened to a beginning that no other has; if one of them is not there, nothing is done.
    """
    if sum((bool(beginnings), bool(wanted), everything)) != 1:
        raise click.UsageError("expected one of: IDs; --type or --error, or both; --all")
    address = source.find()
    if beginnings:
        count = _act_on_some("retried", deadletters.retry, address, place, beginnings)
    else:
        count = deadletters.retry(address, place.queue, wanted)
    _report("retried", count, style)


class _Act(Protocol):
    def __call__(self, amqp: AmqpSettings, place: str, wanted: Wanted, *, at_least: int) -> int: ...


def _act_on_some(
    done: str, act: _Act, address: AmqpSettings, place: Place, beginnings: tuple[str, ...]
) -> int:
    """Act on the messages of some ids, or on none if one is unknown; return their number."""
    missing = deadletters.find(address, place.queue, beginnings)
    ids = frozenset(missing)

    def wanted(each: DeadLetter) -> bool:
        missing.discard(each.id)
        return each.id in ids

    count = act(address, place.queue, wanted, at_least=len(ids))
    if missing:
        names = ", ".join(sorted(missing))
        raise NotKept(f"{count} {done}; another process has taken meanwhile: {names}")
    return count


@click.command(short_help="Remove messages for good.")
@click.argument("beginnings", metavar="[ID]...", nargs=-1)
@_filters
@click.option("--yes", is_flag=True, help="Do not ask.")
@tables.format_option
@options.broker_options
@click.pass_obj
def purge(
    place: Place, *, beginnings: tuple[str, ...], wanted: Filter, style: str, source: Source, yes: bool
) -> None:
    """Remove messages for good: those of some IDs, those of --type and --error, or all.

    An ID may be shortened to a beginning that no other has; if one of them is not there, nothing is done.
    """
    if beginnings and wanted:
        raise click.UsageError("expected either IDs, or --type and --error")
    address = source.find()
    if not yes:
        which = "those" if beginnings or wanted else "all"
        click.confirm(f"Remove {which} {place.name} messages for good?", abort=True, err=True)
    if beginnings:
        count = _act_on_some("purged", deadletters.purge, address, place, beginnings)
    else:
        count = deadletters.purge(address, place.queue, wanted)
    _report("purged", count, style)


def _report(done: str, count: int, style: str) -> None:
    if style == "json":
        tables.show_json({done: count})
    else:
        click.echo(f"{done} {count}")


# --- the two groups ---


def _group(place: Place, explanation: str) -> click.Group:
    @click.group(place.name, help=explanation)
    @click.pass_context
    def group(context: click.Context) -> None:
        context.obj = place

    for command in (list_kept, show, retry, purge):
        group.add_command(command)
    return group


failed: Final = _group(
    Place("failed", FAILED_QUEUE),
    "List, show, retry or purge failed workitems.",
)
rejected: Final = _group(
    Place("rejected", REJECTED_QUEUE),
    "List, show, retry or purge rejected messages.",
)
