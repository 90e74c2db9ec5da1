"""The screens of `taskqueue top`, drawn at several widths."""

import pytest
from support.recorded import write_record

from taskqueue.cli.screens import lines
from taskqueue.cli.screens.choice import Choice
from taskqueue.cli.screens.frame import frame
from taskqueue.cli.screens.letters import DeadLetters
from taskqueue.cli.screens.lines import Column
from taskqueue.cli.screens.overview import Overview
from taskqueue.cli.screens.running import Running
from taskqueue.cli.screens.types import Types
from taskqueue.cli.screens.workflows import Workflows
from taskqueue.monitor.client import DirectReader

#: As the API has it.
WORKFLOWS = [
    {
        "id": "0" * 32,
        "name": "import-日本語",
        "tenant": "north",
        "state": "running",
        "open": True,
        "steps": {"waiting": 2, "queued": 1, "succeeded": 1200, "failed": 1},
        "started": 1.0,
        "ended": None,
    }
]


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    directory = tmp_path_factory.mktemp("record")
    write_record(directory)
    return DirectReader(directory)


def screens():
    return Overview(), Types(), Running(), DeadLetters(), Workflows(lambda _: WORKFLOWS)


def drawn(reader, keys, width, height):
    """Return the lines of a terminal after some keys."""
    choice = Choice(screens())
    for key in ["", *keys, ""]:
        if key:
            choice.press(key)
        shown = frame(choice, choice.screen.read(reader, choice.want), "a note", width, height)
    return [line.plain for line in shown]


@pytest.mark.parametrize(
    "keys", [(), ("enter",), ("?",), ("/", "x")], ids=["table", "details", "help", "filter"]
)
@pytest.mark.parametrize("number", "12345")
def test_every_screen_fits_every_terminal(reader, number, keys):
    choice = Choice(screens())
    choice.press(number)
    choice.take(choice.screen.read(reader, choice.want).rows)
    for key in keys:
        choice.press(key)
    seen = choice.screen.read(reader, choice.want)
    for width in (1, 7, 20, 40, 79, 80, 81, 100, 132, 250):
        for height in (1, 3, 10, 24, 60):
            shown = frame(choice, seen, "a note", width, height)
            assert len(shown) == height
            assert max(line.cell_len for line in shown) <= width


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (30, "type waiting running"),
        (50, "type waiting oldest running failed"),
        (60, "type waiting oldest running in/h failed run p95"),
        (72, "type waiting oldest running in/h out/h failed run p95"),
        (80, "type waiting oldest running retrying in/h out/h failed run p95"),
        (95, "type waiting oldest running retrying in/h out/h failed run p95 wait p95"),
    ],
)
def test_what_matters_most_stays_where_room_is_short(reader, width, columns):
    title = next(line for line in drawn(reader, "2", width, 24) if line.startswith("type"))
    assert title.split() == columns.split()


def test_the_bars_of_a_narrow_terminal_are_the_newest_minutes(reader):
    wide, narrow = (
        next(line for line in drawn(reader, "1", width, 24) if line.startswith("queued"))
        for width in (80, 60)
    )
    newest, bars = wide[10:70][-42:], narrow[10:52]
    # Heights may differ: the largest bar may be among those that the narrow terminal leaves out.
    assert [each != " " for each in bars] == [each != " " for each in newest]
    assert wide[-8:].strip() == narrow[-8:].strip() == "6"


def test_numbers_stand_at_the_right_and_wide_characters_take_two_cells():
    columns = (Column("name", 6, grows=True), Column("n", 4, is_number=True))
    room = lines.widths(columns, 14)
    assert lines.table_line(columns, ["日本語の名前", "17"], room).plain == "日本語の…   17"
    assert lines.table_line(columns, ["ab", "123456"], room).plain == "ab        123…"


def test_control_characters_are_escaped_also_where_they_are_cut():
    assert lines.cut("a\x1b[31mb", 80) == r"a\x1b[31mb"
    assert lines.cut("\x1b" * 50, 6) == r"\x1b\…"
    assert [line.plain for line in lines.wrapped("a\tb\n\x07", 3)] == ["a  ", " b", r"\x0", "7"]


def test_a_row_stays_selected_when_others_come():
    rows = [lines.Row(name, (name,)) for name in "abcdef"]
    choice = Choice((Overview(),))
    choice.take(rows)
    choice.show(2)
    choice.press("down")
    choice.press("down")
    assert [row.key for row in choice.show(2)] == ["b", "c"]
    choice.take([lines.Row(name, (name,)) for name in "xyzabcdef"])
    assert choice.rows[choice.selected].key == "c"
    assert "c" in [row.key for row in choice.show(2)]
    choice.take([])
    assert choice.show(2) == []


def test_a_workflow_has_a_line_with_its_progress(reader):
    line = next(line for line in drawn(reader, "w", 132, 24) if line.startswith("import-"))
    assert "1\N{NARROW NO-BREAK SPACE}201 of 1\N{NARROW NO-BREAK SPACE}204, 1 queued, 1 failed" in line
    assert line.rstrip().endswith("0" * 32)
    assert any(line.split() == ["succeeded", "1200"] for line in drawn(reader, ["w", "enter"], 80, 24))
