"""`taskqueue status`, `list`, `logs` and `cancel`: what became of workitems."""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any, Final

import click

from taskqueue import config, texts
from taskqueue.address import Source
from taskqueue.cli import finding, options, tables
from taskqueue.errors import ExitStatus
from taskqueue.messages.events import RUNNING, SUCCEEDED
from taskqueue.messages.states import OVER, SHOWN
from taskqueue.monitor.client import TOKEN_VARIABLE, URL_VARIABLE, Access, Reader
from taskqueue.monitor.web import parameters
from taskqueue.monitor.web.api import NeverSeen
from taskqueue.monitor.web.rights import NoRight
from taskqueue.process import startup
from taskqueue.texts import counted, shorten

_SILENCE: Final = 60.0  # seconds after which a process is taken for ended
_SILENT: Final = "no output is recorded: its handler wrote nothing, or more than output_rate lets through\n"
_LOOK_DELAY: Final = 0.5  # seconds between two looks at what is followed
_ARRIVAL: Final = 10.0  # seconds in which an id that was just submitted reaches the record
_ERROR_WIDTH: Final = 80  # characters of an error in a table
TYPE_COLUMNS: Final = (
    *("type", "waiting", "in queue", "oldest", "running", "retrying"),
    *("succeeded", "failed", "others"),
)
PROCESS_COLUMNS: Final = ("process", "host", "pid", "state", "busy", "last seen")

access_options: Final = options.gathered(
    "access",
    Access,
    click.option(
        "--monitor",
        metavar="URL",
        help=f"The monitor's web process, if its URL is not in {URL_VARIABLE}. Without URL and token, the "
        "record is read from its directory.",
    ),
    click.option(
        "--token-file",
        metavar="FILE",
        help=f"The file whose first line is the token, if it is not in {TOKEN_VARIABLE}.",
    ),
    click.option(
        "--ca-file",
        metavar="FILE",
        help="The certificates to trust, in PEM format, if the monitor's is not one that the system trusts.",
    ),
)


def _reader(access: Access, path: str | None) -> Reader:
    return access.reader(config.load(path, (), as_root=False).monitor)


# --- status ---


@click.command(short_help="Show what runs and waits, or what became of a workitem.")
@click.argument("id_", metavar="[ID]", required=False)
@click.option("-w", "--watch", is_flag=True, help="With ID: follow the workitem until it is over.")
@tables.format_option
@access_options
@options.config_option
def status(id_: str | None, path: str | None, *, watch: bool, style: str, access: Access) -> None:
    """Show worker types and processes, or, with ID, what became of a workitem.

    The beginning of an ID is enough if no other one begins so; not with --watch or --format json, where it
    may be the ID of a workitem that was never seen.

    With --watch, an ID that the record does not have yet is waited for, for 10 seconds.

    Exit status with ID: 0 if it succeeded or is not over; 1 if it failed, was rejected or cancelled, was a
    duplicate, or was lost track of; 4 if it was never seen.
    """
    if watch and id_ is None:
        raise click.UsageError("--watch needs an ID.")
    reader = _reader(access, path)
    if id_ is None:
        _show_overview(reader, style)
        return
    try:
        found = _follow(reader, id_, is_shown=style == "text") if watch else finding.find(reader, id_, style)
    except NeverSeen as error:
        startup.complain(f"taskqueue: {error}\n")
        sys.exit(ExitStatus.UNSEEN)
    if style == "json":
        tables.show_json(found)
    elif watch:
        _show_error(found)
    else:
        _show_workitem(found)
        finding.tell_unserved(reader, found)
    is_bad = found["state"] in OVER and found["state"] != SUCCEEDED
    sys.exit(ExitStatus.FAILED if is_bad else ExitStatus.OK)


def _show_overview(reader: Reader, style: str) -> None:
    types = reader.ask("types")["types"]
    try:
        processes = reader.ask("processes")["processes"]
    except NoRight:  # who sees only some tenants or types sees no processes
        processes = None
    if style == "json":
        tables.show_json({"types": types, "processes": processes or []})
        return
    if not types and not processes:
        click.echo("The record is empty: no workitem and no process was seen.")
        return
    tables.show_table("Worker types; ends of the last hour", TYPE_COLUMNS, [type_row(each) for each in types])
    for each in filter(finding.is_unserved, types):
        startup.complain(f"no worker serves {each['worker_type']} now\n")
    if alive := living(processes or []):
        tables.show_table("\nProcesses", PROCESS_COLUMNS, [process_row(each) for each in alive])
    elif processes is not None:
        startup.complain("no process was heard of in the last minute: no pool, or no monitor, runs now\n")


def living(processes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the processes that were heard of in the last minute; each tells its state every 5 seconds."""
    earliest = time.time() - _SILENCE
    return [each for each in processes if each["last_seen"] >= earliest]


def type_row(each: Mapping[str, Any]) -> tuple[object, ...]:
    """Return what TYPE_COLUMNS name."""
    ends = dict(each["ends"])
    succeeded, failed = ends.pop("succeeded", 0), ends.pop("failed", 0)
    oldest = "" if each["oldest"] is None else span(each["oldest"])
    numbers = each["waiting"], _depth(each), oldest, each["running"], each["retrying"]
    return each["worker_type"], *numbers, succeeded, failed, sum(ends.values())


def _depth(each: Mapping[str, Any]) -> str:
    """Return the number of messages in the queue, and how it differs from what the record has queued."""
    if each["depth"] is None:
        return ""
    return f"{each['depth']} ({each['difference']:+})" if each["difference"] else str(each["depth"])


def process_row(each: Mapping[str, Any]) -> tuple[object, ...]:
    """Return what PROCESS_COLUMNS name."""
    emitter = each["emitter"]
    name = f"{emitter['kind']} {emitter['group']}".strip()
    busy = f"{each['busy']} of {each['slots']}" if each["slots"] else ""
    return name, emitter["host"], emitter["pid"], each["state"], busy, clock(each["last_seen"])


def _follow(reader: Reader, id_: str, *, is_shown: bool) -> Mapping[str, Any]:
    """Return a workitem once it is over; show what happens to it meanwhile. Raises NeverSeen."""
    until = time.monotonic() + _ARRIVAL
    shown: list[Any] = []
    is_told = not is_shown
    while True:
        try:
            found: Mapping[str, Any] = reader.ask("workitem", id=id_)
        except NeverSeen:
            if shown or time.monotonic() > until:
                raise
            time.sleep(_LOOK_DELAY)
            continue
        for moment in found["time_line"]:
            if is_shown and moment not in shown:
                startup.show(_moment_line(moment))
        shown = [*shown, *[moment for moment in found["time_line"] if moment not in shown]]
        if found["state"] in OVER:
            return found
        is_told = is_told or finding.tell_unserved(reader, found)
        time.sleep(_LOOK_DELAY)


def _moment_line(moment: Mapping[str, Any]) -> str:
    return texts.one_line(f"{clock(moment['at'])}  {moment['what']:10}  {moment['text']}".rstrip())


def _show_workitem(found: Mapping[str, Any]) -> None:
    left_out = ("runs", "time_line", "progress", "result")
    told = {
        name: value for name, value in found.items() if value not in ("", None, []) and name not in left_out
    }
    rows = [(name.replace("_", " "), _shown(name, value)) for name, value in told.items()]
    if found["state"] == RUNNING and found["started"] is not None:
        rows.append(("runs for", str(timedelta(seconds=max(0, round(time.time() - found["started"]))))))
    if found["progress"]:
        rows.append(("progress", f"{found['progress']['fraction']:.0%} {found['progress']['text']}"))
    tables.show_table("Workitem", ("what", "value"), rows)
    moments = [(clock(each["at"]), each["what"], each["text"]) for each in found["time_line"]]
    tables.show_table("\nTime line", ("when", "what", "how"), moments)
    _show_error(found)


def _shown(name: str, value: Any) -> str:
    if name in ("queued", "due", "started", "ended", "again_at"):
        return clock(value)
    return " ".join(value) if isinstance(value, list) else str(value)


def _show_error(found: Mapping[str, Any]) -> None:
    traceback = next((run["traceback"] for run in reversed(found["runs"]) if run["traceback"]), "")
    if traceback and found["state"] != SUCCEEDED:
        click.echo(f"\n{texts.lines(traceback.rstrip())}")


# --- list ---


@dataclass(frozen=True, slots=True)
class Wanted:
    """The options that choose workitems; the names are those of the API's parameters."""

    state: tuple[str, ...]
    type: tuple[str, ...]
    tenant: tuple[str, ...]
    label: str | None
    host: str | None
    since: str | None
    until: str | None
    id: str | None
    error: str | None
    body: str | None

    def query(self) -> dict[str, list[str]]:
        """Return the parameters."""
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        return {
            name: [value] if isinstance(value, str) else list(value) for name, value in given.items() if value
        }


def _moment(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    """Return a time as the API takes it; 2h is two hours ago."""
    if value is None:
        return None
    try:
        return repr(parameters.read_moment(value))
    except ValueError as error:
        raise click.BadParameter(f"expected {error}; found {value!r}") from None


_wanted: Final = options.gathered(
    "wanted",
    Wanted,
    click.option("--state", multiple=True, type=click.Choice(SHOWN), help="The state; may be repeated."),
    click.option(
        "--type",
        multiple=True,
        metavar="T",
        help="The worker type, or pattern ('image-*'); may be repeated.",
    ),
    click.option("--tenant", multiple=True, metavar="T", help="The tenant; may be repeated."),
    click.option("--label", metavar="L", help="A label."),
    click.option("--host", metavar="H", help="The host that ran it."),
    click.option("--since", metavar="TIME", callback=_moment, help="The earliest time: 2h ago, or ISO 8601."),
    click.option("--until", metavar="TIME", callback=_moment, help="The latest time."),
    click.option("--id", metavar="TEXT", help="The beginning of the id."),
    click.option("--error", metavar="TEXT", help="Words of the error."),
    click.option("--body", metavar="TEXT", help="Words of the recorded beginning of the body."),
)


@click.command("list", short_help="List workitems.")
@_wanted
@options.number("--limit", meaning="Number of workitems.", most=parameters.MOST_ROWS, default=50)
@click.option("--cursor", metavar="TEXT", help="Continue after a page: `next` of its JSON.")
@tables.format_option
@access_options
@options.config_option
def list_(
    *, wanted: Wanted, limit: int, cursor: str | None, style: str, access: Access, path: str | None
) -> None:
    """List workitems, the newest first."""
    query = wanted.query() | {"limit": [str(limit)]} | ({"cursor": [cursor]} if cursor else {})
    found = _reader(access, path).ask("workitems", query)
    if style == "json":
        tables.show_json(found)
    elif not found["workitems"]:
        click.echo("No workitem matches.")
    else:
        columns = ("id", "type", "state", "queued", "ended", "runs", "error")
        tables.show_table("Workitems", columns, [_row(each) for each in found["workitems"]], whole="id")
        if found["next"]:
            click.echo(f"These are the newest {limit}; --limit shows more.", err=True)


def _row(each: Mapping[str, Any]) -> tuple[object, ...]:
    error = shorten(texts.one_line(each["error"]), _ERROR_WIDTH)
    times = clock(each["queued"]), clock(each["ended"])
    return each["id"], each["worker_type"], each["state"], *times, each["attempts"] or "", error


# --- logs ---


@click.command(short_help="Show what a workitem's handler printed and logged.")
@click.argument("id_", metavar="ID")
@click.option("-f", "--follow", is_flag=True, help="Show new lines as they come, until the workitem is over.")
@tables.format_option
@access_options
@options.config_option
def logs(id_: str, path: str | None, *, follow: bool, style: str, access: Access) -> None:
    """Show what the handler of a workitem printed and logged, a line each; in JSON, an object a line.

    Exit status: 4 if the workitem was never seen.
    """
    reader = _reader(access, path)
    try:
        if not follow:
            id_ = finding.find(reader, id_, style)["id"]
        is_silent = True
        for line in _lines(reader, id_, follow=follow):
            startup.show(json.dumps(line) if style == "json" else _log_line(line))
            is_silent = False
        if is_silent:
            startup.complain(_SILENT)
    except NeverSeen as error:
        startup.complain(f"taskqueue: {error}\n")
        sys.exit(ExitStatus.UNSEEN)


def _lines(reader: Reader, id_: str, *, follow: bool) -> Iterator[Mapping[str, Any]]:
    query: dict[str, list[str]] = {}
    while True:
        is_over = not follow or reader.ask("workitem", id=id_)["state"] in OVER
        while (page := reader.ask("log", query, id=id_))["log"]:
            yield from page["log"]
            query = {"after": [str(page["next"])]}
        if is_over:
            return
        time.sleep(_LOOK_DELAY)


def _log_line(line: Mapping[str, Any]) -> str:
    return texts.one_line(f"{clock(line['at'])} {line['worker']} {line['level']}: {line['text']}")


# --- cancel ---


@click.command(short_help="Cancel workitems.")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option("--tenant", metavar="T", help='Whose the workitems are; "" for those of no tenant.')
@access_options
@tables.format_option
@options.broker_options
def cancel(ids: Sequence[str], *, tenant: str | None, access: Access, style: str, source: Source) -> None:
    """Cancel workitems: what waits does not run, and what runs is stopped.

    With --monitor or a token, the monitor does it, for workitems in its record that are not over, and notes
    it in its audit. Else every connected consumer is told directly; each remembers it for a day, and a
    consumer that connects later does not know it.

    An ID without --tenant means, to the monitor, the newest workitem of this ID that the token sees, and to
    consumers those of all tenants.

    Exit status: 0 if all were cancelled, or told to the consumers; 1 if some are over or not in the record.
    """
    if not access.is_remote:
        from taskqueue.monitor.cancelling import cancel as broadcast  # noqa: PLC0415 -- brings pika in

        sent = broadcast(source.find(), ((id_, tenant) for id_ in ids))
        _tell(
            style, {"sent": sent}, f"sent {counted(sent, 'cancellation')} to the consumers that are connected"
        )
        return
    count = access.http(config.load(source.path, (), as_root=False).monitor).act("cancel", ids, tenant)
    _tell(style, {"cancelled": count}, f"cancelled {count}")
    if count < len(set(ids)):
        startup.complain(f"{len(set(ids)) - count} of {len(set(ids))} are over, or not in the record\n")
        sys.exit(ExitStatus.FAILED)


def _tell(style: str, content: Mapping[str, int], text: str) -> None:
    if style == "json":
        tables.show_json(content)
    else:
        click.echo(text)


def clock(seconds: float | None) -> str:
    """Return a time of this host's zone as text; "" if there is none."""
    try:
        return datetime.fromtimestamp(seconds).isoformat(" ", "seconds")  # type: ignore[arg-type]  # noqa: DTZ006 -- local time
    except (TypeError, ValueError, OverflowError, OSError):
        return ""


def span(seconds: float) -> str:
    """Return a duration in its largest unit."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
