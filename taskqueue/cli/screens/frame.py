"""A screen as the lines of a terminal: bar, summary, note, table or details, keys."""

import time
from collections.abc import Iterator, Sequence
from typing import Final

from rich.text import Text

from taskqueue.cli.screens import lines
from taskqueue.cli.screens.choice import Choice
from taskqueue.cli.screens.screen import Seen

_LEAST_ROWS: Final = 3  # of a table; what stands above it gives way
_KEYS: Final = "o t r d w screens  j k select  Enter details  / filter  ? help  q quit"
_KEYS_IN_DETAILS: Final = "j k scroll  Esc back  o t r d w screens  ? help  q quit"
_HELP: Final = """\
o or 1       overview
t or 2       worker types
r or 3       what runs
d or 4       dead letters, in groups of one error
w or 5       workflows that have not ended
Tab          the next screen; Shift-Tab the one before

j k, arrows  select a row, or scroll details; also Page Up, Page Down, Home, End
Enter        details of the selected row; Enter or Esc leads back
s            another order of the worker types: waiting, running, failed, name
/            show only rows that have a text; Enter keeps the filter, Esc drops it
q, Ctrl-C    quit; Ctrl-Z suspends

! stands before what needs attention; "no one!" is said of a worker type that has
work and no worker. Ends are those of the last hour; a bar is a minute.
"""


def frame(choice: Choice, seen: Seen | None, note: str, width: int, height: int) -> list[Text]:
    """Return the lines of a terminal, at most `height` of `width` cells.

    note -- what is to be said about the figures; "" for nothing
    """
    head = [_bar(choice, width), _summary(choice, seen, width)]
    if note:
        head.append(Text(lines.cut(note, width), "yellow"))
    room = max(1, height - len(head) - 1)
    body = list(_body(choice, seen, width, room))[:room]
    body += [Text()] * (room - len(body))
    shown = [*head, *body, _foot(choice, width)][:height]
    for line in shown:
        line.truncate(width)
    return shown


def _bar(choice: Choice, width: int) -> Text:
    bar = Text("taskqueue ", "bold")
    names = [f" {number} {screen.title} " for number, screen in enumerate(choice.screens, 1)]
    is_narrow = bar.cell_len + sum(map(len, names)) > width
    for number, name in enumerate(names):
        is_chosen = number == choice.number
        shown = f" {number + 1} " if is_narrow and not is_chosen else name
        bar.append(shown, "reverse" if is_chosen else "not bold")
    clock = time.strftime("%H:%M:%S")
    room = width - bar.cell_len
    if room > len(clock):
        bar.append(clock.rjust(room), "dim")
    return bar


def _summary(choice: Choice, seen: Seen | None, width: int) -> Text:
    text = seen.summary if seen else "reading"
    if choice.filter:
        text = f"{text}; with {choice.filter!r}"
    return Text(lines.cut(text, width), "bold")


def _foot(choice: Choice, width: int) -> Text:
    if choice.is_typing:
        return Text(lines.cut(f"/{choice.filter}_", width), "reverse")
    return Text(lines.cut(_KEYS if choice.opened is None else _KEYS_IN_DETAILS, width), "dim")


def _body(choice: Choice, seen: Seen | None, width: int, room: int) -> Iterator[Text]:
    if choice.is_helping:
        for line in _HELP.splitlines():
            yield from lines.wrapped(line, width)
    elif seen is None:
        return
    elif choice.opened is not None:
        yield from _details(choice, seen.details(width), room)
    else:
        above = list(seen.above(width))[: max(0, room - _LEAST_ROWS - 1)]
        yield from above
        yield from _table(choice, seen, width, room - len(above) - 1)


def _details(choice: Choice, found: Sequence[Text], room: int) -> Sequence[Text]:
    if not found:
        return [Text("reading, or it is gone")]
    choice.height = room
    choice.offset = max(0, min(choice.offset, len(found) - room))
    return found[choice.offset : choice.offset + room]


def _table(choice: Choice, seen: Seen, width: int, height: int) -> Iterator[Text]:
    columns = choice.screen.columns
    room = lines.widths(columns, width)
    choice.take(seen.rows)
    shown = choice.show(height)
    if not choice.rows:
        yield Text(lines.cut("No row has this text." if seen.rows else choice.screen.empty, width))
        return
    yield lines.table_line(columns, [column.title for column in columns], room, "bold underline")
    selected = choice.rows[choice.selected]
    for row in shown:
        style = f"{row.style} reverse" if row is selected else row.style
        yield lines.table_line(columns, row.cells, room, style.strip())
