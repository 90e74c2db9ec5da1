"""`taskqueue submit`."""

import base64
import json
import sys
from typing import Any, Final

import click

from taskqueue import texts
from taskqueue.calls import submission
from taskqueue.calls.submission import Result, Submission
from taskqueue.cli import options
from taskqueue.errors import ExitStatus, Unroutable
from taskqueue.messages.content import BINARY, JSON, TEXT, media_type
from taskqueue.messages.forwarding import new_id
from taskqueue.messages.routing import checked_type
from taskqueue.process import startup

#: Failures of workitems that the plugin did not have a part in: no traceback leads to its code.
_NOT_THE_PLUGINS: Final = ("WorkitemUnreadable", "ResultUnwritable")


def _checked(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    try:
        return checked_type(value)
    except Unroutable as error:
        raise click.BadParameter(str(error)) from None


@click.command(short_help="Submit a workitem; print its id, or its result.")
@click.argument("worker_type", metavar="TYPE", callback=_checked)
@click.argument("body", default="-")
@click.option("--wait", is_flag=True, help="Wait for the result and print it.")
@click.option("--timeout", type=options.Seconds(), metavar="SECONDS", help="With --wait: how long at most.")
@click.option(
    "--delay",
    type=options.Seconds(),
    metavar="SECONDS",
    default=0.0,
    help="Have it run no sooner than in so many seconds.",
)
@click.option(
    "--content-type",
    metavar="T",
    help="The body's media type; by default application/json if it is JSON, text/plain if it is UTF-8, "
    "else application/octet-stream.",
)
@click.option(
    "--format",
    "style",
    type=click.Choice(["text", "json"]),
    default="text",
    help="How to print: the result alone, or JSON with id, status and result (result_base64 if it is bytes).",
)
@options.config_option
@options.amqp_option
def submit(
    *,
    worker_type: str,
    body: str,
    timeout: float | None,
    delay: float,
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
    if timeout is not None and not wait:
        raise click.UsageError("--timeout is for --wait.")
    data = _read_body() if body == "-" else body.encode("utf-8", "surrogateescape")
    workitem = Submission(new_id(), worker_type, data, content_type or _guess(data), delay)
    results: list[Result] = []
    address = options.find_address(amqp, path)
    if wait and sys.stderr.isatty():
        startup.complain(f"submitting {workitem.id}; waiting for its result\n")
    submission.submit(address, [workitem], on_result=results.append if wait else None, timeout=timeout)
    if not wait:
        click.echo(json.dumps({"id": workitem.id}) if style == "json" else workitem.id)
        return
    _show(results[0], style)
    sys.exit(ExitStatus.OK if results[0].succeeded else ExitStatus.FAILED)


def _read_body() -> bytes:
    try:
        return sys.stdin.buffer.read()
    except OSError as error:
        raise click.UsageError(f"BODY cannot be read from standard input: {error.strerror}.") from None


def _guess(data: bytes) -> str:
    try:
        data.decode()
    except UnicodeDecodeError:
        return BINARY
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return TEXT
    return JSON


def _show(result: Result, style: str) -> None:
    value = _value(result)
    if style == "json":
        click.echo(json.dumps(_described(result, value)))
    elif not result.succeeded and isinstance(value, dict) and isinstance(value.get("error"), dict):
        startup.complain(_complaint(value["error"]) + "\n")
    elif isinstance(value, str | bytes) and sys.stdout.isatty():
        text = value.decode(errors="backslashreplace") if isinstance(value, bytes) else value
        click.echo(texts.lines(text))
    elif isinstance(value, bytes):
        sys.stdout.buffer.write(value)
    elif isinstance(value, str):
        click.echo(value)
    else:
        click.echo(_readable(value))


def _readable(value: Any) -> str:
    """Return a value as JSON, with the characters themselves where stdout has them."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return json.dumps(value, indent=2)
    return text if texts.is_safe(text) else json.dumps(value, indent=2)


def _value(result: Result) -> Any:
    """Return what a result's body is: what JSON gives, a string for text, else bytes."""
    kind = media_type(result.content_type)
    if kind == JSON:
        return json.loads(result.body)
    return result.body.decode("utf-8", "replace") if kind.startswith("text/") else result.body


def _described(result: Result, value: Any) -> dict[str, Any]:
    """Return a result as --format json prints it; JSON itself has no bytes."""
    plain = {"id": result.id, "status": result.status}
    if isinstance(value, bytes):
        return plain | {"result_base64": base64.b64encode(value).decode()}
    return plain | {"result": value}


def _complaint(error: dict[str, Any]) -> str:
    """Return a failure for people: the traceback where that leads to the plugin's code."""
    if error.get("traceback") and error.get("type") not in _NOT_THE_PLUGINS:
        return str(error["traceback"]).rstrip("\n")
    return f"{error.get('type')}: {error.get('message')}"
