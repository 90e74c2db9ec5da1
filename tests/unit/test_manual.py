"""The manual pages, as building the packages makes them."""

import shutil
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import manual
import pytest

from taskqueue import cli

PROJECT = Path(__file__).parents[2]
PAGES = dict(manual.pages())


@cache
def shown(name):
    """Return a page as groff(1) shows it, without what stands in bold or underlined."""
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    made = subprocess.run(
        ["groff", "-ww", "-man", "-Tascii", "-P-cbou", "-rLL=110n"],
        input=PAGES[name],
        capture_output=True,
        text=True,
        check=True,
    )
    assert made.stderr == ""
    return made.stdout


def test_every_command_has_a_page():
    assert PAGES.keys() == {
        "taskqueue.1",
        "taskqueue-config.ini.5",
        *(f"taskqueue-{command}.1" for command in cli.taskqueue.list_commands(None)),
        *(f"{name}.1" for name in installed() - {"taskqueue"}),
    }


def installed():
    """Return the names of the programs that the project installs."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    return set(project["scripts"])


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_shown_without_complaint(name):
    text = shown(name)
    assert text.index("NAME\n") < text.index("SEE ALSO\n")


def test_a_page_has_synopsis_options_and_exit_statuses():
    text = " ".join(shown("taskqueue-workerpool.1").split())
    assert "SYNOPSIS taskqueue workerpool [OPTIONS]" in text
    assert "-p, --pidfile FILE Write the process id to FILE, and lock it." in text
    assert "78 the configuration has faults; all are listed" in text


def test_the_page_of_a_command_that_has_commands_explains_them():
    text = " ".join(shown("taskqueue-failed.1").split())
    assert "purge taskqueue failed purge [OPTIONS] [ID]... Remove messages for good: " in text
    assert "--yes Do not ask." in text


def test_the_page_of_the_configuration_has_every_section_and_the_defaults():
    text = " ".join(shown("taskqueue-config.ini.5").split())
    for section in ("[AMQP]", "[DISPATCHER]", "[WORKERPOOL]", "[LOGGING]", "[DEFAULT]"):
        assert section in text.upper()
    assert "heartbeat Heartbeat timeout in seconds" in text
    assert "Expected: a number from 0 to 65535. Default: 20." in text


@pytest.mark.parametrize("command", cli.taskqueue.list_commands(None))
def test_a_page_has_every_option_that_the_help_of_its_command_has(command):
    text = shown(f"taskqueue-{command}.1")
    for each in all_commands(cli.taskqueue.get_command(None, command)):
        names = {name for option in each.params for name in option.opts if name.startswith("-")}
        hidden = {name for option in each.params if getattr(option, "hidden", False) for name in option.opts}
        assert [name for name in names - hidden if name not in text] == []


def all_commands(command):
    """Yield a command and those that it has."""
    yield command
    for inner in getattr(command, "commands", {}).values():
        yield from all_commands(inner)
