"""Rows and columns as lines of a terminal: foreign text is escaped, and cut to its room."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from taskqueue import texts

_GAP: Final = 1  # blanks between two columns
_NAME_WIDTH: Final = 12  # cells of a name before its value
#: Sparklines: for terminals with Unicode, and for others.
_BLOCKS: Final = " \N{LOWER ONE EIGHTH BLOCK}▂▃▄▅▆▇█"
_MORE: Final = "\N{HORIZONTAL ELLIPSIS}"


class Column(NamedTuple):
    """A column of a table.

    rank -- where not all columns fit, those of the highest rank are left out
    """

    title: str
    width: int  # cells; the least, if it grows
    rank: int = 0
    is_number: bool = False
    grows: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table.

    key -- what it is about; a selected row stays selected when it moves
    """

    key: str
    cells: tuple[str, ...]
    style: str = ""

    def has(self, text: str) -> bool:
        """Return whether a cell has a text, in lower or upper case."""
        return any(text.casefold() in cell.casefold() for cell in self.cells)


def widths(columns: Sequence[Column], width: int) -> tuple[int, ...]:
    """Return the cells of each column on a terminal; 0 for those that are left out."""
    kept = list(columns)
    while len(kept) > 1 and _needed(kept) > width:
        kept.remove(max(reversed(kept), key=lambda column: column.rank))
    rest = width - _needed(kept)
    growing = [column for column in kept if column.grows]
    return tuple(
        0
        if column not in kept
        else max(1, column.width + (rest // len(growing) if column in growing else min(0, rest)))
        for column in columns
    )


def _needed(columns: Sequence[Column]) -> int:
    return sum(column.width for column in columns) + _GAP * (len(columns) - 1)


def table_line(columns: Sequence[Column], cells: Sequence[str], room: Sequence[int], style: str = "") -> Text:
    """Return a line of a table; room -- as `widths` returns it."""
    shown = [
        aligned(text, width, is_number=column.is_number)
        for column, text, width in zip(columns, cells, room, strict=True)
        if width
    ]
    return Text((" " * _GAP).join(shown), style)


def aligned(text: str, width: int, *, is_number: bool = False) -> str:
    """Return a foreign text in exactly so many cells; a number stands at the right."""
    shown = cut(text, width)
    return " " * (width - cell_len(shown)) + shown if is_number else set_cell_size(shown, width)


def cut(text: str, width: int) -> str:
    """Return a foreign text as one line of at most so many cells."""
    shown = texts.one_line(text[: 4 * width + 4])
    if cell_len(shown) <= width:
        return shown
    return set_cell_size(shown, max(0, width - 1)) + _MORE


def wrapped(text: str, width: int, style: str = "") -> Iterator[Text]:
    """Yield a foreign text in lines of so many cells."""
    for line in texts.lines(text).expandtabs(4).split("\n"):
        for part in _parts(line, max(2, width)):
            yield Text(part, style)


def _parts(line: str, width: int) -> Iterator[str]:
    """Yield a line in parts of at most so many cells, at least two: a character may have two."""
    begin = cells = 0
    for place, size in enumerate(map(cell_len, line)):
        if cells + size > width:
            yield line[begin:place]
            begin, cells = place, 0
        cells += size
    yield line[begin:]


def pairs(values: Mapping[str, str], width: int) -> Iterator[Text]:
    """Yield names with their values, which are foreign; those without a value are left out."""
    for name, value in values.items():
        if value:
            first, *others = wrapped(texts.one_line(value), max(2, width - _NAME_WIDTH - _GAP))
            yield Text.assemble((aligned(name, _NAME_WIDTH + _GAP), "dim"), first)
            yield from (Text.assemble(" " * (_NAME_WIDTH + _GAP), other) for other in others)


def spark(counts: Sequence[int]) -> str:
    """Return counts as bars, one cell each, the largest at full height."""
    most = max(counts, default=0)
    steps = len(_BLOCKS) - 1
    return "".join(_BLOCKS[-(-count * steps // most) if most else 0] for count in counts)
