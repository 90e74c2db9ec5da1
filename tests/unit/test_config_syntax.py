import pytest
from support.configs import PLUGINS, SECRET, People

from taskqueue.config import load
from taskqueue.config.loading import parse
from taskqueue.errors import ConfigError


def test_an_unreadable_file_is_a_fault(tmp_path):
    for path, found in ((tmp_path / "none", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError) as caught:
            load(str(path), PLUGINS, as_root=True, unix_users=People())
        assert str(caught.value) == f"{path}: expected a readable file, found {found}"


@pytest.mark.parametrize(
    ("content", "fault"),
    [(b"[a]\n\xe9", "expected text in UTF-8, found the byte 0xe9 at position 4"),
     (b"[a]\nb: \0", "expected text, found a null character")],
)  # fmt: skip
def test_a_file_that_is_no_text_is_a_fault(tmp_path, content, fault):
    path = tmp_path / "config.ini"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(str(path), PLUGINS, as_root=False)
    assert str(caught.value) == f"{path}: {fault}"


def test_what_is_no_option_is_a_fault_that_names_the_line_and_shows_nothing_of_it(faults_of):
    text = f"workers: 1\n[amqp]\npassword {SECRET}\nhost: a\n[worker1]\n= {SECRET}\n"
    assert faults_of(text) == [
        "expected a [section] before the first option, found none before line 1",
        "expected 'option: value' or 'option = value', found neither in line 3",
        "expected 'option: value' or 'option = value', found neither in line 6",
    ]


def test_duplicate_sections_and_options_are_faults_each_with_its_line(faults_of):
    text = "[DEFAULT]\n[worker1]\nx: 1\nX = 2\n  more\n[worker1]\ny: 1\ny: 2\n[DEFAULT]\n[worker1]\n"
    assert faults_of(text) == [
        "section [worker1], option x: expected one option of this name, found another in line 4",
        "section [worker1]: expected one section of this name, found another in line 6",
        "section [worker1], option y: expected one option of this name, found another in line 8",
        "section [DEFAULT]: expected one section of this name, found another in line 9",
        "section [worker1]: expected one section of this name, found another in line 10",
    ]


def test_what_is_said_twice_does_not_hide_what_was_said_first():
    sections, faults = parse("[a]\nx: 1\nx: 2\n more\ny: 3\n[a]\nz: 4\n[b]\n", "f")
    assert sections == {"a": {"x": "1", "y": "3"}, "b": {}}
    assert len(faults) == 2
