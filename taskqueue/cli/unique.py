"""`taskqueue unique`: the keys of unique work, and who has them."""

import time
from collections.abc import Mapping
from typing import Any, Final

import click

from taskqueue.address import Source
from taskqueue.cli import options, tables
from taskqueue.keeper.client import ask

_COLUMNS: Final = ("worker type", "tenant", "key", "workitem", "state", "at most until")


@click.group(short_help="Show who has which key of unique work; release keys.")
def unique() -> None:
    """Look at the keys of unique work that are in use; free one whose workitem has no end.

    Exit status: 0 done; 1 nobody has the key; 69 no keeper answers.
    """


@unique.command("list")
@click.option("--type", "worker_type", metavar="TYPE", help="Only keys of this worker type.")
@click.option("--tenant", metavar="NAME", help="Only keys of this tenant.")
@click.option("--key", metavar="KEY", help="Only this key.")
@tables.format_option
@options.broker_options
def list_keys(style: str, source: Source, **asked: str | None) -> None:
    """List the keys in use, at most 1,000."""
    given = {name: value for name, value in asked.items() if value is not None}
    found = ask(source.find(), "list", given)
    if style == "json":
        tables.show_json(found["keys"])
        return
    if found["keys"]:
        tables.show_table("Keys", _COLUMNS, [_row(each) for each in found["keys"]])
    else:
        click.echo("No key is in use.")
    if found["left_out"]:
        click.echo(f"{found['left_out']} more")


@unique.command(short_help="Free a KEY of a worker TYPE.")
@click.argument("worker_type", metavar="TYPE")
@click.argument("key")
@click.option("--tenant", metavar="NAME", default="", help="The tenant whose key it is.")
@options.broker_options
def release(worker_type: str, key: str, tenant: str, source: Source) -> None:
    """Free a KEY of a worker TYPE, as after its workitem was purged from its queue.

    The workitem itself stays where it is. Callers that wait for its result are told that it was cancelled.
    """
    scope = {"worker_type": worker_type, "tenant": tenant, "key": key}
    freed = ask(source.find(), "release", scope)
    for workitem in freed["released"]:
        click.echo(f"released; {workitem} had it")


def _row(found: Mapping[str, Any]) -> tuple[object, ...]:
    until = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found["until"]))
    plain = (found[name] for name in ("worker_type", "tenant", "key", "workitem", "state"))
    return (*plain, until)
