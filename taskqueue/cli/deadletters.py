"""`taskqueue failed` and `taskqueue rejected`."""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

import click

from taskqueue import deadletters, texts
from taskqueue.amqp.tables import MalformedProperties
from taskqueue.broker.topology import FAILED_QUEUE, REJECTED_QUEUE
from taskqueue.cli import options, tables
from taskqueue.config import AmqpSettings
from taskqueue.deadletters import DeadLetter
from taskqueue.errors import NotKept
from taskqueue.process.logs import escape
from taskqueue.texts import shorten

_REASON_WIDTH: Final = 80  # characters of a reason in a table

_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Place:
    """One of the two places where messages are kept."""

    name: str
    queue: str


def _filters(command: _F) -> _F:
    """Add --type and --error; the command gets what they come to as `wanted`, None for neither."""
    command = click.option("--error", metavar="TEXT", help="Only those whose reason has TEXT in it.")(command)
    return click.option("--type", "worker_type", metavar="T", help="Only those of worker type T.")(command)


def _wanted(worker_type: str | None, error: str | None) -> Callable[[DeadLetter], bool]:
    part = (error or "").casefold()
    return lambda each: (
        (worker_type is None or each.worker_type == worker_type) and part in each.reason.casefold()
    )


# --- list ---


@click.command("list")
@_filters
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    metavar="N",
    help="How many at most.",
)
@tables.format_option
@options.config_option
@options.amqp_option
@click.pass_obj
def list_kept(
    place: Place,
    *,
    worker_type: str | None,
    error: str | None,
    limit: int,
    style: str,
    path: str | None,
    amqp: str | None,
) -> None:
    """List messages, the oldest first.

    They stay where they are, in their order.
    """
    wanted = _wanted(worker_type, error)
    found: list[dict[str, Any]] = []

    def look(each: DeadLetter) -> bool:
        if wanted(each):
            found.append(_summary(each))
        return len(found) == limit

    most = limit if worker_type is None and not error else None
    deadletters.browse(options.find_address(amqp, path), place.queue, look, most=most)
    if style == "json":
        tables.show_json(found)
    elif not found:
        click.echo(f"No {place.name} message{' of that kind' if worker_type or error else ''} is kept.")
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
    except (TypeError, ValueError, OverflowError, OSError):  # absent, or a stranger's idea of a time
        return ""


# --- show ---


@click.command()
@click.argument("beginning", metavar="ID")
@tables.format_option
@options.config_option
@options.amqp_option
@click.pass_obj
def show(place: Place, *, beginning: str, style: str, path: str | None, amqp: str | None) -> None:
    """Show one message with all that it carries.

    ID may be shortened to a beginning that no other has.
    """
    each = deadletters.fetch(options.find_address(amqp, path), place.queue, beginning)
    if style == "json":
        tables.show_json(_plain(_everything(each)))
    else:
        _show_text(each)


def _everything(each: DeadLetter) -> dict[str, Any]:
    properties = each.properties.fields | {"headers": _headers(each)}
    return _summary(each) | {"history": each.history, "properties": properties} | _body(each.body)


def _headers(each: DeadLetter) -> dict[str, Any]:
    try:
        return each.properties.headers
    except MalformedProperties as error:
        return {"unreadable": str(error)}


def _body(body: bytes) -> dict[str, str]:
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(body).decode()}


def _plain(value: Any) -> Any:
    """Return a value of AMQP's types in those that JSON has."""
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
@click.option("--all", "everything", is_flag=True, help="All that are kept.")
@tables.format_option
@options.config_option
@options.amqp_option
@click.pass_obj
def retry(
    place: Place,
    *,
    beginnings: tuple[str, ...],
    worker_type: str | None,
    error: str | None,
    everything: bool,
    style: str,
    path: str | None,
    amqp: str | None,
) -> None:
    """Send messages back to where they came from.

    There they begin anew, as if they had never run. Say which by ID, or by --type and --error. An ID may
    be shortened to a beginning that no other has; if one of them is not there, nothing is done.
    """
    if sum((bool(beginnings), bool(worker_type or error), everything)) != 1:
        raise click.UsageError("expected one of: IDs; --type or --error, or both; --all")
    address = options.find_address(amqp, path)
    if beginnings:
        count = _retry_some(address, place, beginnings)
    else:
        count = deadletters.retry(address, place.queue, _wanted(worker_type, error))
    _report("retried", count, style)


def _retry_some(address: AmqpSettings, place: Place, beginnings: tuple[str, ...]) -> int:
    missing = deadletters.find(address, place.queue, beginnings)
    ids = frozenset(missing)

    def wanted(each: DeadLetter) -> bool:
        missing.discard(each.id)
        return each.id in ids

    count = deadletters.retry(address, place.queue, wanted, at_least=len(ids))
    if missing:
        names = ", ".join(sorted(missing))
        raise NotKept(f"{count} retried; somebody else has taken meanwhile: {names}")
    return count


@click.command()
@_filters
@click.option("--yes", is_flag=True, help="Do not ask.")
@tables.format_option
@options.config_option
@options.amqp_option
@click.pass_obj
def purge(
    place: Place,
    *,
    worker_type: str | None,
    error: str | None,
    style: str,
    path: str | None,
    amqp: str | None,
    yes: bool,
) -> None:
    """Remove messages for good.

    All, or those of --type and --error.
    """
    address = options.find_address(amqp, path)
    if not yes:
        which = "those" if worker_type or error else "all"
        click.confirm(f"Remove {which} {place.name} messages for good?", abort=True, err=True)
    _report("purged", deadletters.purge(address, place.queue, _wanted(worker_type, error)), style)


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
