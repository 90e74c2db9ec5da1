"""`taskqueue workflow`: start workflows, look at them, and change what they do."""

import json
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Final

import click

from taskqueue.address import Source
from taskqueue.calls.run import Run, in_words
from taskqueue.cli import options, tables
from taskqueue.errors import BadWorkflow
from taskqueue.flow import client
from taskqueue.messages.forwarding import new_id
from taskqueue.process import startup
from taskqueue.texts import counted
from taskqueue.workflows import wire

_COLUMNS: Final = ("id", "workflow", "state", "steps", "started", "took")
_STEP_COLUMNS: Final = ("step", "type", "state", "run", "took", "error")
_MOST_ROWS: Final = 1000  # of a table; JSON has all

_id: Final = click.argument("id_", metavar="ID")


@click.group(short_help="Start, list, show, cancel and retry workflows.")
def workflow() -> None:
    """Start workflows, look at them, and change what they do.

    Exit status: 0 done; 1 refused, as for a workflow that does not exist, or with --wait failed; 65 the
    document has faults; 69 no flow process answers; 75 not over in time.
    """


@workflow.command(short_help="Start the workflow of a document.")
@click.argument("file", metavar="FILE")
@click.option("--wait", is_flag=True, help="Wait for its end, and print the result of its last step.")
@click.option("--timeout", type=options.Seconds(), metavar="S", help="With --wait: at most so many seconds.")
@tables.format_option
@options.broker_options
def start(file: str, *, wait: bool, timeout: float | None, style: str, source: Source) -> None:
    """Start the workflow whose document is in FILE, as JSON; "-" is standard input. Print its id."""
    if timeout is not None and not wait:
        raise click.UsageError("--timeout is for --wait.")
    document = {"id": new_id()} | _document(file)
    amqp = source.find()
    client.start(amqp, document)
    run = Run.at(amqp, document["id"])
    if not wait:
        click.echo(json.dumps({"id": run.id}) if style == "json" else run.id)
        return
    if sys.stderr.isatty():
        startup.complain(f"started {run.id}; waiting for its end\n")
    value = run.result(timeout=timeout)
    tables.show_json({"id": run.id, "result": value} if style == "json" else value)


def _document(file: str) -> dict[str, Any]:
    """Return a document. Raises BadWorkflow if the file has none, and UsageError if it cannot be read."""
    try:
        text = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise click.UsageError(f"{file} cannot be read: {error.strerror}.") from None
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadWorkflow([f"{file}: no JSON: {error}"]) from None
    if not isinstance(document, dict):
        raise BadWorkflow([f"{file}: expected an object of JSON, found {type(document).__name__}"])
    return document


# --- looking ---


@workflow.command("list")
@options.number("-n", "--number", meaning="How many at most.", default=100)
@tables.format_option
@options.broker_options
def list_workflows(number: int, style: str, source: Source) -> None:
    """List workflows, the newest first."""
    every = sorted(client.ask_all(source.find()), key=lambda each: -each["started"])
    found = every[:number]
    if style == "json":
        tables.show_json(found)
        return
    if found:
        tables.show_table("Workflows", _COLUMNS, [_row(each) for each in found], whole="id")
    else:
        click.echo("There is no workflow.")
    if len(every) > number:
        click.echo(f"{len(every) - number:,} more; --number says how many are shown")


@workflow.command()
@_id
@tables.format_option
@options.broker_options
def show(id_: str, style: str, source: Source) -> None:
    """Show a workflow and its steps."""
    amqp = source.find()
    found = client.ask(amqp, wire.SHOW, id_)
    steps = client.steps(amqp, id_)
    if style == "json":
        tables.show_json(found | {"counts": found["steps"], "steps": list(steps)})
        return
    tables.show_table("Workflow", ("field", "value"), [*zip(_COLUMNS, _row(found), strict=True)])
    rows = [_step_row(each) for each in islice(steps, _MOST_ROWS)]
    tables.show_table("\nSteps", _STEP_COLUMNS, rows)
    if next(steps, None) is not None:
        click.echo(f"Only the first {_MOST_ROWS:,} steps are shown; --format json has all.")


def _row(found: Mapping[str, Any]) -> tuple[object, ...]:
    counts = ", ".join(f"{count} {state}" for state, count in found["steps"].items() if count)
    return (
        found["id"],
        found["workflow"],
        found["state"],
        counts,
        _time(found["started"]),
        _took(found["started"], found["ended"]),
    )


def _step_row(step: Mapping[str, Any]) -> tuple[object, ...]:
    error = in_words(step["error"]) if step["error"] else ""
    took = _took(step["published"], step["ended"])
    return step["step"], step["type"], step["state"], step["run"], took, error


def _time(seconds: float | None) -> str:
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _took(started: float | None, ended: float | None) -> str:
    if started is None:
        return ""
    return str(timedelta(seconds=max(0, round((ended or time.time()) - started))))


# --- changing ---


@workflow.command(short_help="Cancel a workflow.")
@_id
@options.broker_options
def cancel(id_: str, source: Source) -> None:
    """Cancel what is queued and what runs of a workflow; no other step is begun."""
    client.ask(source.find(), wire.CANCEL, id_)
    click.echo(f"{id_} is cancelled.")


@workflow.command(short_help="Run failed steps again, and go on from there.")
@_id
@options.broker_options
def retry(id_: str, source: Source) -> None:
    """Run the steps of a workflow again that have failed or were cancelled, and go on from there."""
    count = Run.at(source.find(), id_).retry_failed()
    click.echo(f"{counted(count, 'step')} to run again.")
