"""The user's choice: a screen, a row, a filter; changed by keys."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from taskqueue.cli.screens.lines import Row
from taskqueue.cli.screens.screen import Screen, Want

_LONGEST_FILTER: Final = 60  # characters
#: Keys that move by rows, and how far; PAGE is the height of the table.
_MOVES: Final = {
    "up": -1,
    "k": -1,
    "down": 1,
    "j": 1,
    "home": -(10**9),
    "g": -(10**9),
    "end": 10**9,
    "G": 10**9,
}
_PAGES: Final = {"page up": -1, "page down": 1, " ": 1}
_BACK: Final = ("escape", "left", "backspace", "enter")


@dataclass(slots=True)
class _Place:
    """The user's choice on a screen."""

    selected: str = ""  # the key of a row; "" for the first
    order: str = ""
    top: int = 0  # the first row on the terminal


@dataclass(slots=True)
class Choice:
    """The screen that the user looks at, with the choices on it."""

    screens: Sequence[Screen]
    number: int = 0  # of the screen
    filter: str = ""
    is_typing: bool = False  # the filter
    is_helping: bool = False
    is_over: bool = False
    opened: str | None = None  # the key of the row whose details are shown
    offset: int = 0  # the first line of the details on the terminal
    rows: Sequence[Row] = ()  # those that the filter selects
    height: int = 1  # rows that fit on the terminal
    _places: dict[int, _Place] = field(default_factory=dict)

    @property
    def screen(self) -> Screen:
        """The screen."""
        return self.screens[self.number]

    @property
    def want(self) -> Want:
        """Return the part of the record to read."""
        return Want(self._place.order, tuple(row.key for row in self.visible), self.opened)

    @property
    def visible(self) -> Sequence[Row]:
        """The rows on the terminal."""
        return self.rows[self._place.top : self._place.top + self.height]

    @property
    def selected(self) -> int:
        """The place of the selected row among `rows`; 0 if it is gone."""
        keys = [row.key for row in self.rows]
        return keys.index(self._place.selected) if self._place.selected in keys else 0

    @property
    def _place(self) -> _Place:
        return self._places.setdefault(self.number, _Place())

    def take(self, rows: Sequence[Row]) -> None:
        """Take the rows of the screen."""
        self.rows = [row for row in rows if row.has(self.filter)] if self.filter else rows

    def show(self, height: int) -> Sequence[Row]:
        """Return the rows for a table of a height, with the selected one."""
        self.height = max(1, height)
        place = self._place
        lowest = self.selected - self.height + 1
        place.top = max(0, min(max(place.top, lowest), self.selected, len(self.rows) - self.height))
        return self.visible

    # --- keys ---

    def needs_rows(self, key: str) -> bool:
        """Return whether a key means one of the rows."""
        is_about_rows = key in _MOVES or key in _PAGES or key in ("enter", "right")
        return is_about_rows and not (self.is_typing or self.is_helping or self.opened is not None)

    def press(self, key: str) -> None:
        """Take a key: a character, or a name as "enter"."""
        if self.is_typing:
            self._type(key)
        elif key in ("q", "\x04"):
            self.is_over = True
        elif self.is_helping:
            self.is_helping = False
        elif key == "?":
            self.is_helping = True
        elif not self._turn(key):
            self._move(key)

    def _type(self, key: str) -> None:
        if key in ("enter", "escape"):
            self.is_typing = False
            self.filter = self.filter if key == "enter" else ""
        elif key == "backspace":
            self.filter = self.filter[:-1]
        elif key == "\x15":  # Ctrl-U
            self.filter = ""
        elif len(key) == 1 and key.isprintable():
            self.filter = (self.filter + key)[:_LONGEST_FILTER]

    def _turn(self, key: str) -> bool:
        """Go to another screen; return whether the key means one."""
        keys = {screen.key: number for number, screen in enumerate(self.screens)}
        keys |= {str(number + 1): number for number in range(len(self.screens))}
        step = {"tab": 1, "back tab": -1}.get(key)
        number = (self.number + step) % len(self.screens) if step else keys.get(key)
        if number is None:
            return False
        self.number, self.opened = number, None
        return True

    def _move(self, key: str) -> None:
        step = _MOVES.get(key) or _PAGES.get(key, 0) * self.height
        if self.opened is not None:
            self.offset = max(0, self.offset + step)
            if key in _BACK:
                self.opened = None
        elif step:
            self._select(self.selected + step)
        elif key in ("enter", "right") and self.rows:
            self.opened, self.offset = self.rows[self.selected].key, 0
            self._select(self.selected)
        elif key == "/":
            self.is_typing = True
        elif key == "escape":
            self.filter = ""
        elif key == "s":
            self._order_anew()

    def _select(self, number: int) -> None:
        if self.rows:
            self._place.selected = self.rows[max(0, min(number, len(self.rows) - 1))].key

    def _order_anew(self) -> None:
        orders = self.screen.orders
        known = self._place.order or orders[0]
        self._place.order = orders[(orders.index(known) + 1) % len(orders)]
