"""Text that others have sent does nothing to the terminal that shows it."""

import unicodedata

import pytest

from taskqueue import texts
from taskqueue.cli import run_command, tables
from taskqueue.cli import taskqueue as command
from taskqueue.process import startup

#: A title for the window, a colour, an 8-bit control sequence, and text that is read from right to left.
HOSTILE = "\x1b]0;owned\x07 \x1b[31mred \x9b2J \u202egnp.exe \x7f \r"
SHOWN = r"\x1b]0;owned\x07 \x1b[31mred \x9b2J \u202egnp.exe \x7f \r"


CATEGORIES = {"Cc", "Zl", "Zp", "Cs"}
DIRECTIONS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def controls_of(text):
    of = zip(text, map(unicodedata.category, text), map(unicodedata.bidirectional, text), strict=True)
    return {each for each, category, direction in of if category in CATEGORIES or direction in DIRECTIONS}


def test_no_control_character_of_unicode_is_left():
    # Planes 2 and up hold ideographs, tags (in plane 14), and what is unassigned or private.
    text = "".join(map(chr, (*range(0x20000), *range(0xE0000, 0xE1000))))
    controls = controls_of(text)
    assert controls > set(HOSTILE) - set(SHOWN)
    assert controls & set(texts.one_line(text)) == set()
    assert controls & set(texts.lines(text)) == {"\n", "\t"}


def test_ordinary_text_of_any_script_is_left_as_it_is():
    text = "na\u00efve \u4e2d\u6587 \u05e2\u05d1\u05e8\u05d9\u05ea \U0001f469\u200d\U0001f52c"
    assert texts.one_line(text) == texts.lines(text) == text


def test_what_is_said_to_the_user_is_escaped_with_its_lines_kept(capsys):
    startup.complain(f"{HOSTILE}\nnext\n")
    assert capsys.readouterr().err == f"{SHOWN}\nnext\n"


def test_a_table_escapes_its_cells_and_columns_and_takes_no_markup(capsys):
    tables.show_table("Title", ("one", f"[/b]{HOSTILE}"), [("[bold]x[/bold][/]", HOSTILE)], whole="one")
    text = capsys.readouterr().out
    assert text.splitlines()[1].rstrip() == f"one                [/b]{SHOWN}"
    assert text.splitlines()[2].rstrip() == f"[bold]x[/bold][/]  {SHOWN}"


@pytest.mark.parametrize(
    "arguments",
    [["submit", "x", "1", HOSTILE], [HOSTILE], ["config", "-c", f"/nowhere/{HOSTILE}"], ["--\x1b[2J"]],
)
def test_an_error_about_hostile_arguments_such_as_names_of_files_is_escaped(arguments, capsys):
    with pytest.raises(SystemExit):
        run_command(command, "taskqueue", arguments)
    said = capsys.readouterr()
    assert said.err or said.out.startswith("Usage: ")  # older versions of click show their help for one
    assert controls_of(said.out + said.err) <= {"\n"}
