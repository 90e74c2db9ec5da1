"""`taskqueue submit`."""

import json
import sys
from typing import Any

import click

from taskqueue import submission
from taskqueue.cli import options
from taskqueue.errors import ExitStatus, Unroutable
from taskqueue.submission import Result, Submission
from taskqueue.workitem import JSON, TEXT, checked_type, media_type, new_id


def _checked(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    try:
        return checked_type(value)
    except Unroutable as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@click.argument("worker_type", metavar="TYPE", callback=_checked)
@click.argument("body", default="-")
@click.option("--wait", is_flag=True, help="Wait for the result and print it.")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="How long to wait at most.")
@click.option(
    "--content-type",
    metavar="T",
    help="The body's media type; default application/json if it is JSON, else text/plain.",
)
@click.option(
    "--format", "style", type=click.Choice(["text", "json"]), default="text", help="How to print the result."
)
@options.config_option
@options.amqp_option
def submit(
    *,
    worker_type: str,
    body: str,
    timeout: float | None,
    content_type: str | None,
    style: str,
    path: str | None,
    amqp: str | None,
    wait: bool,
) -> None:
    """Submit a workitem for the workers of TYPE; print its id or, with --wait, its result.

    BODY is the workitem itself; "-", or nothing, reads it from standard input.

    Exit status: 0 submitted, or with --wait succeeded; 1 failed; 69 the broker cannot be reached;
    75 no result in time; 77 the broker refuses; 78 the configuration has faults.
    """
    data = sys.stdin.buffer.read() if body == "-" else body.encode("utf-8", "surrogateescape")
    workitem = Submission(new_id(), worker_type, data, content_type or _guess(data))
    results: list[Result] = []
    address = options.find_address(amqp, path)
    submission.submit(address, [workitem], on_result=results.append if wait else None, timeout=timeout)
    if not wait:
        click.echo(json.dumps({"id": workitem.id}) if style == "json" else workitem.id)
        return
    _show(results[0], style)
    sys.exit(ExitStatus.OK if results[0].succeeded else ExitStatus.FAILED)


def _guess(data: bytes) -> str:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return TEXT
    return JSON


def _show(result: Result, style: str) -> None:
    value = _readable(result)
    if style == "json":
        status = "succeeded" if result.succeeded else "failed"
        click.echo(json.dumps({"id": result.id, "status": status, "result": value}))
    elif not result.succeeded and isinstance(value, dict) and isinstance(value.get("error"), dict):
        error = value["error"]
        click.echo(error.get("traceback") or f"{error.get('type')}: {error.get('message')}", err=True)
    elif isinstance(value, str):
        click.echo(value)
    elif value is None and media_type(result.content_type) != JSON:
        sys.stdout.buffer.write(result.body)
    else:
        click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _readable(result: Result) -> Any:
    """Return a result's value; None for one that is not text."""
    kind = media_type(result.content_type)
    if kind == JSON:
        return json.loads(result.body)
    return result.body.decode("utf-8", "replace") if kind.startswith("text/") else None
