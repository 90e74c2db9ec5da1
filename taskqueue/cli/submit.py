"""`taskqueue submit`."""

import base64
import json
import sys
from typing import Any, Final, Unpack

import click

from taskqueue import texts
from taskqueue.address import Source
from taskqueue.calls import submission
from taskqueue.calls.submission import Result, Submission
from taskqueue.cli import options
from taskqueue.errors import ExitStatus, Unroutable
from taskqueue.messages import jsonrpc, names
from taskqueue.messages.content import BINARY, JSON, TEXT, media_type
from taskqueue.messages.forwarding import new_id
from taskqueue.messages.lanes import HIGHEST_PRIORITY
from taskqueue.messages.options import Asked, Options
from taskqueue.messages.routing import checked_type
from taskqueue.process import startup

#: Errors of workitems outside the plugin's code, shown without a traceback.
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
@click.option(
    "--timeout", type=options.Seconds(), metavar="SECONDS", help="With --wait: maximum time to wait."
)
@click.option(
    "--delay",
    type=options.Seconds(),
    metavar="SECONDS",
    default=0.0,
    help="Minimum time until it runs.",
)
@click.option(
    "--content-type",
    metavar="T",
    help="The body's media type; by default application/json if it is JSON, text/plain if it is UTF-8, "
    "else application/octet-stream.",
)
@click.option("--tenant", metavar="NAME", default="", help="For whom it is; up to 100 characters.")
@options.tag_option
@click.option(
    "--priority",
    type=click.IntRange(0, HIGHEST_PRIORITY),
    metavar="NUMBER",
    default=0,
    help="0 to 9; of a type with lanes, workers take workitems of higher priorities first.",
)
@click.option(
    "--unique", metavar="KEY", help="While one of TYPE with this KEY is queued or runs, another is not run."
)
@click.option(
    "--unique-for",
    type=options.Seconds(),
    metavar="SECONDS",
    help="With --unique: the KEY stays taken for this time, even if the workitem is over earlier.",
)
@click.option(
    "--debounce",
    type=options.Seconds(),
    metavar="SECONDS",
    help="With --unique: run after this time, unless another one with the KEY is submitted meanwhile.",
)
@click.option(
    "--format",
    "style",
    type=click.Choice(["text", "json"]),
    default="text",
    help="How to print: the result alone, or JSON with id, status and result (result_base64 if it is bytes).",
)
@options.broker_options
def submit(
    *,
    worker_type: str,
    body: str,
    timeout: float | None,
    content_type: str | None,
    style: str,
    source: Source,
    wait: bool,
    **asked: Unpack[Asked],
) -> None:
    """Submit a workitem for the workers of TYPE; print its id or, with --wait, its result.

    BODY is the workitem itself; "-", or nothing, reads it from standard input.

    Exit status: 0 submitted, or with --wait succeeded; 1 failed; 69 the broker cannot be reached;
    75 no result in time; 77 the broker refuses; 78 the configuration has faults.
    """
    if timeout is not None and not wait:
        raise click.UsageError("--timeout is for --wait.")
    wanted = _options(**asked)
    data = _read_body() if body == "-" else body.encode("utf-8", "surrogateescape")
    workitem = Submission(new_id(), worker_type, data, content_type or _guess(data), wanted)
    results: list[Result] = []
    amqp = source.find()
    if wait and sys.stderr.isatty():
        startup.complain(f"submitting {workitem.id}; waiting for its result\n")
    on_result = results.append if wait else None
    submission.submit(amqp, [workitem], on_result=on_result, timeout=timeout, on_unserved=_tell_unserved)
    if not wait:
        click.echo(json.dumps({"id": workitem.id}) if style == "json" else workitem.id)
        return
    _show(results[0], style)
    sys.exit(ExitStatus.OK if results[0].succeeded else ExitStatus.FAILED)


def _options(**asked: Unpack[Asked]) -> Options:
    if asked["unique"] is None and (asked["unique_for"] or asked["debounce"]):
        raise click.UsageError("--unique-for and --debounce are for --unique.")
    try:
        return Options.checked(**asked)
    except ValueError as error:
        raise click.UsageError(f"--{error}.") from None


def _tell_unserved(worker_type: str) -> None:
    startup.complain(
        f"no worker of {worker_type} is free now, or none serves it (taskqueue plugins): the workitem waits\n"
    )


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
        startup.complain(f"{_complaint(value['error'])}\nworkitem {result.id} {result.status}\n")
    elif result.status == names.DUPLICATE and isinstance(value, dict):
        first = texts.one_line(str(value.get("duplicate_of")))
        startup.complain(
            f"workitem {result.id} was not run: it is a duplicate of {first}, whose result is not passed on "
            f"(see `taskqueue status {first}`)\n"
        )
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
    """Return a value as JSON, without escapes for characters that stdout can encode."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return json.dumps(value, indent=2)
    return text if texts.is_safe(text) else json.dumps(value, indent=2)


def _value(result: Result) -> Any:
    """Return the body of a result: a JSON value, a string for text, else bytes."""
    kind = media_type(result.content_type)
    if kind == JSON:
        try:
            return jsonrpc.decode(result.body)
        except (
            ValueError,
            RecursionError,
        ):  # of another program, or with an integer that Python does not read
            return result.body
    return result.body.decode("utf-8", "replace") if kind.startswith("text/") else result.body


def _described(result: Result, value: Any) -> dict[str, Any]:
    """Return a result as --format json prints it; JSON itself has no bytes."""
    plain = {"id": result.id, "status": result.status}
    if isinstance(value, bytes):
        return plain | {"result_base64": base64.b64encode(value).decode()}
    return plain | {"result": value}


def _complaint(error: dict[str, Any]) -> str:
    """Return a failure as text: the traceback if it leads to the plugin's code."""
    if error.get("traceback") and error.get("type") not in _NOT_THE_PLUGINS:
        return str(error["traceback"]).rstrip("\n")
    return f"{error.get('type')}: {error.get('message')}"
