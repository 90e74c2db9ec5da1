"""Listings: tables for people, JSON for programs."""

import json
from collections.abc import Sequence
from typing import Any, Final

import click

from taskqueue.process.logs import escape

_ROOM_BESIDE: Final = 60  # columns of the terminal for what stands beside a cell that is not divided

format_option = click.option(
    "--format", "style", type=click.Choice(["text", "json"]), default="text", help="Text, or JSON."
)


def show_json(value: Any) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(value, indent=2))


def show_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], *, whole: str = ""
) -> None:
    """Print a table, no wider than the terminal if there is one. Control characters are escaped.

    whole -- the column whose cells are not wrapped, so that they can be copied
    """
    from rich.console import Console  # noqa: PLC0415 -- it takes long to import
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(Text(escape(column)), overflow="fold", no_wrap=column == whole)
    shown = [[escape(str(cell)) for cell in row] for row in rows]
    for cells in shown:
        table.add_row(*map(Text, cells))  # no markup: a section is [amqp]
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200
    longest = max((len(cells[columns.index(whole)]) for cells in shown), default=0) if whole else 0
    console.width = max(console.width, longest + _ROOM_BESIDE)
    with console.capture() as captured:
        console.print(table)
    lines = captured.get().rstrip("\n").split("\n")
    click.echo("\n".join(line.rstrip() for line in lines))  # rich fills them up with blanks
