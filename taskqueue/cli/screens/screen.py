"""Common parts of the screens: a table, lines above it, and details of a row."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.text import Text

from taskqueue.cli.screens.lines import Column, Row
from taskqueue.monitor.client import Reader

#: Makes lines for a width in cells.
Lines = Callable[[int], Sequence[Text]]


@dataclass(frozen=True, slots=True)
class Want:
    """A part of the record, as a screen asks for it.

    Args:
        order: the name of the order of the rows; "" for the usual one.
        visible: the keys of the rows on the terminal.
        opened: the key of the row whose details are shown; None if they are not.
    """

    order: str = ""
    visible: tuple[str, ...] = ()
    opened: str | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """The content of a screen.

    Args:
        summary: what the table has, in words.
        rows: its rows.
        above: what stands above it.
        details: of the row that is opened.
    """

    summary: str
    rows: Sequence[Row]
    above: Lines = lambda _width: ()
    details: Lines = lambda _width: ()


class Screen:
    """A screen; `read` is called in one thread."""

    title: str
    key: str
    delay: float  # seconds between two looks
    columns: Sequence[Column]
    orders: Sequence[str]  # of the rows; the first is the usual one
    empty: str  # what is said without rows
    unknown: str  # what cannot be known without a record

    def read(self, reader: Reader, want: Want) -> Seen:
        """Read what is to be shown. Raises as `Reader.ask` does."""
        raise NotImplementedError
