"""Listings: tables for people, JSON for programs."""

import json
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

format_option = click.option(
    "--format", "style", type=click.Choice(["text", "json"]), default="text", help="A table, or JSON."
)


def show_json(value: Any) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(value, indent=2))


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under their columns' names; as wide as they are where no terminal sets a width."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))  # no markup: a section is [amqp]
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200
    console.print(table)
