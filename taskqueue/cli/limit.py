"""`taskqueue limit`: what is in use of each limit, what waits, and who holds it."""

import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, Final

import click

from taskqueue.address import Source
from taskqueue.cli import options, tables
from taskqueue.gate.client import limits_in_use

_COLUMNS: Final = ("limit", "for", "in use", "rate", "waiting", "held by")
_MOST_HOLDERS: Final = 3  # in a row of the table


@click.group(short_help="Show what is in use of each limit.")
def limit() -> None:
    """Look at limits; they are sections [limit NAME] of dispatchers' configurations.

    Exit status: 0 done; 69 no gate answers.
    """


@limit.command("list")
@tables.format_option
@options.broker_options
def list_limits(style: str, source: Source) -> None:
    """List all limits: how much is in use, what waits, and who holds it.

    A limit by a header has a row for each value in use, up to 200 in all. Waiting workitems are those that
    consumers have received; others are in the queue of their worker type.
    """
    found = limits_in_use(source.find())
    if style == "json":
        tables.show_json(found)
        return
    tables.show_table("Limits", _COLUMNS, [row for each in found for row in _rows(each)])
    for each in found:
        if each["keys_left_out"]:
            click.echo(f"{each['name']}: {each['keys_left_out']} more")


def _rows(found: Mapping[str, Any]) -> Iterator[tuple[object, ...]]:
    """Yield the rows of a limit: one for each key in use, or a single one."""
    name = found["name"] if found["is_defined"] else f"{found['name']} (not defined)"
    most = found["concurrency"]
    for key in found["keys"] or [
        {"by": "", "value": "", "in_use": 0, "started": 0, "waiting": 0, "holders": []}
    ]:
        whom = f"{key['by']} {key['value']}" if key["value"] else f"no {key['by']}" if key["by"] else ""
        in_use = f"{key['in_use']} of {most}" if most is not None else key["in_use"]
        rate = f"{key['started']} of {found['rate']}" if found["rate"] else ""
        yield name, whom, in_use, rate, key["waiting"], _holders(key["holders"])


def _holders(holders: list[dict[str, Any]]) -> str:
    lines = [_holder(each) for each in holders[:_MOST_HOLDERS]]
    rest = len(holders) - len(lines)
    return ", ".join([*lines, f"and {rest} more"] if rest else lines)


def _holder(holder: Mapping[str, Any]) -> str:
    place = f"{holder['group']} on {holder['host']}"
    if holder["since"] is None:
        return place
    age = timedelta(seconds=max(0, round(time.time() - holder["since"])))
    return f"{place}: {holder['workitem']} for {age}" if holder["workitem"] else place
