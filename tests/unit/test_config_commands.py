"""Sections that name a program by `command`."""

import json

import pytest

from taskqueue.config import effective
from taskqueue.supervisor import _blueprints

UPPER = "[upper]\ncommand: /usr/bin/tr 'a-z ' \"A-Z \"\n"


def test_a_section_with_a_command_is_a_group_without_a_plugin(read):
    settings = read(f"{UPPER}workers: 2\nmode: Stream\nresult_type: image/png\nmax_result: 1k\n", ())
    (group,) = settings.groups
    assert (group.name, group.worker_type, group.workers) == ("upper", "upper", 2)
    assert group.command == ("/usr/bin/tr", "a-z ", "A-Z ")
    assert (group.mode, group.result_type, group.max_result) == ("stream", "image/png", 1024)
    assert settings.warnings == ()
    (shown,) = effective(settings)["groups"]
    assert shown["command"] == "/usr/bin/tr 'a-z ' 'A-Z '"
    (blueprint,) = _blueprints(settings, {}, as_root=False)
    assert blueprint.plugin.distribution == "/usr/bin/tr"
    assert json.loads(blueprint.plugin.argument)[0] == ["/usr/bin/tr", "a-z ", "A-Z "]


def test_subgroups_share_the_command_of_their_type(read):
    settings = read("[up]\ncommand: /bin/cat\nworkers: a, b\n[up_a]\n[up_b]\nmode: stream\n", ())
    assert [(each.name, each.command, each.mode) for each in settings.groups] == [
        ("up_a", ("/bin/cat",), "exec"), ("up_b", ("/bin/cat",), "stream"),
    ]  # fmt: skip


PATH = "the absolute path of a program and its arguments, as /usr/bin/convert - -resize {width} -"
BRACES = "a command whose braces are placeholders, as {width}, or doubled, as {{"
BEHIND = "placeholders behind a shell's script, as sh -c 'echo \"$1\"' sh {name}"


@pytest.mark.parametrize(
    ("text", "place", "expected", "found"),
    [
        ("[up]\ncommand: tr a b\n", "[up]", PATH, "'tr a b'"),
        ("[up]\ncommand:\n", "[up]", PATH, "nothing"),
        ("[up]\ncommand: /{x}\n", "[up]", PATH, "'/{x}'"),
        ("[up]\ncommand: /bin/echo {\n", "[up]", BRACES, "'/bin/echo {'"),
        ("[up]\ncommand: /bin/echo {a b}\n", "[up]", BRACES, "'/bin/echo {a b}'"),
        ("[up]\ncommand: /bin/echo 'a\n", "[up]", "a command whose quotes are closed", "'/bin/echo 'a'"),
        ("[up]\ncommand: /bin/sh -ec 'ls {name}'\n", "[up]", BEHIND,
         "{name} in the script, which would run its value"),
        ("[DEFAULT]\ncommand: /bin/cat\n", "[DEFAULT]", "it in the section of a worker type",
         "it in [DEFAULT]"),
        ("[up]\nworkers: a\n[up_a]\ncommand: /bin/cat\n[a]\ncommand: /bin/cat\n", "[up_a]",
         "it in [up], the section of the worker type", "it in the section of a subgroup"),
        ("[up]\ncommand: /bin/echo {a}\nmode: stream\n", "[up]",
         "no placeholder, as in mode stream a process performs many workitems", "{a}"),
        ("[up]\ncommand: /bin/echo {a}\nworkers: b\n[up_b]\nmode: stream\n", "[up]",
         "no placeholder, as in mode stream a process performs many workitems", "{a}"),
    ],
)  # fmt: skip
def test_a_command_that_cannot_be_run_is_a_fault(faults_of, text, place, expected, found):
    assert faults_of(text) == [f"section {place}, option command: expected {expected}, found {found}"]


def test_what_is_odd_about_commands_is_a_warning(read, tmp_path):
    program = tmp_path / "program"
    program.touch()
    warnings = read(
        f"[worker1]\ncommand: /bin/cat\ntimout: 3\ncolour: red\n[worker2]\nmode: stream\n"
        f"[gone]\ncommand: /no/such\n[file]\ncommand: {program}\n[dir]\ncommand: {tmp_path}\n"
    ).warnings
    unused = "is without effect, as a command gets no options"
    assert list(warnings) == [
        "section [worker1]: its command takes the place of the installed plugin 'worker1'",
        f"section [worker1]: option 'timout' {unused}; is timeout meant?",
        f"section [worker1]: option 'colour' {unused}",
        "section [worker2]: option 'mode' is without effect, as it has no command",
        "section [gone]: the program /no/such does not exist",
        f"section [file]: {program} is not an executable program",
        f"section [dir]: {tmp_path} is not an executable program",
    ]
