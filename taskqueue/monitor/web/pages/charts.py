"""Charts as SVG, made of numbers and escaped text. The style sheet colours each part by its class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tornado.escape import xhtml_escape

_HEIGHT: Final = 100
_WIDTH: Final = 10  # of a column, its gap included
_GAP: Final = 1.5


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a chart.

    Args:
        title: what it is about, as a time or a bucket.
        parts: counts by the word that is their class, from the bottom to the top.
    """

    title: str
    parts: Mapping[str, int] = field(default_factory=dict)

    @property
    def height(self) -> int:
        """The sum of the counts."""
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True)
class Mark:
    """A line across a chart.

    Args:
        place: how far from the left, in columns.
        title: what happened there.
    """

    place: float
    title: str


def chart_html(label: str, columns: Sequence[Column], marks: Sequence[Mark] = ()) -> str:
    """Return a chart of columns; the highest one has the full height.

    label -- says what it shows, for those who do not see it
    """
    highest = max((column.height for column in columns), default=0) or 1
    drawn = "".join(_column_html(place, column, highest) for place, column in enumerate(columns))
    drawn += "".join(map(_mark_html, marks))
    box = f"0 0 {max(1, len(columns)) * _WIDTH} {_HEIGHT}"
    return (
        f'<svg class="chart" role="img" aria-label="{xhtml_escape(label)}" viewBox="{box}" '
        f'preserveAspectRatio="none">{drawn}</svg>'
    )


def _column_html(place: int, column: Column, highest: int) -> str:
    if not column.height:
        return ""
    said = ", ".join(f"{word} {count}" for word, count in column.parts.items() if count)
    bars, bottom = "", float(_HEIGHT)
    for word, count in column.parts.items():
        height = count * _HEIGHT / highest
        bottom -= height
        bars += (
            f'<rect class="{xhtml_escape(word)}" x="{place * _WIDTH}" y="{bottom:.2f}" '
            f'width="{_WIDTH - _GAP}" height="{height:.2f}"/>'
            if count
            else ""
        )
    return f"<g><title>{xhtml_escape(f'{column.title}: {said}')}</title>{bars}</g>"


def _mark_html(mark: Mark) -> str:
    x = f"{mark.place * _WIDTH:.2f}"
    return (
        f"<g><title>{xhtml_escape(mark.title)}</title>"
        f'<line class="mark" x1="{x}" y1="0" x2="{x}" y2="{_HEIGHT}"/></g>'
    )
