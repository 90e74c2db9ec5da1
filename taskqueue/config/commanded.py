"""The worker sections that name a program by `command` instead of a plugin."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final

from taskqueue.config.checks import Fault
from taskqueue.config.command_checks import arguments
from taskqueue.config.groups import Sections, Subgroups, commanded
from taskqueue.config.settings import DEFAULT, GROUP, checked, nearest, specification

_OPTIONS: Final = ("mode", "result_type", "max_result")  # of commands only


def command_types(sections: Sections, workers: Sections) -> list[str]:
    """Return the worker types whose sections name a command, even one that was refused.

    sections, workers -- the sections as they are written, and without refused options
    """
    return [section for section in workers if "command" in sections[section] and section != DEFAULT]


def command_faults(workers: Sections, subgroups: Subgroups) -> Iterator[Fault]:
    """Yield which sections cannot have a command, and which commands do not fit their mode."""
    types = {name: section for section, names in subgroups.items() for name in names}
    for section in (name for name, given in workers.items() if "command" in given):
        if section == DEFAULT:
            yield Fault(None, section, "command", "it in the section of a worker type", f"it in [{DEFAULT}]")
        elif section in types:
            expected = f"it in [{types[section]}], the section of the worker type"
            yield Fault(None, section, "command", expected, "it in the section of a subgroup")
        else:
            yield from _mode_faults(workers, section, subgroups.get(section, (section,)))


def _mode_faults(workers: Sections, section: str, names: tuple[str, ...]) -> Iterator[Fault]:
    for name in names:
        options = _merged(workers, section, name)
        fields = [field for each in arguments(options["command"]) for field in each.fields]
        if fields and options["mode"] == "stream":
            expected = "no placeholder, as in mode stream a process performs many workitems"
            yield Fault(None, section, "command", expected, f"{{{fields[0]}}}")
            return


def _merged(workers: Sections, section: str, subgroup: str) -> dict[str, Any]:
    given = workers.get(DEFAULT, {}) | workers[section] | workers.get(subgroup, {})
    return checked(GROUP, given)[0]


def command_warnings(workers: Sections, subgroups: Subgroups, plugins: Collection[str]) -> Iterator[str]:
    """Yield what is odd about commands, and which options of commands are in other sections.

    plugins -- the names of the installed plugins
    """
    own = commanded(workers, subgroups)
    for section, given in workers.items():
        if section in own:
            yield from _oddities(section, given, plugins)
        elif section != DEFAULT:
            for name in (each for each in _OPTIONS if each in given):
                yield f"section [{section}]: option '{name}' is without effect, as it has no command"


def _oddities(section: str, given: dict[str, str], plugins: Collection[str]) -> Iterator[str]:
    if section in plugins:
        yield f"section [{section}]: its command takes the place of the installed plugin '{section}'"
    known = specification()[GROUP]
    for name in (each for each in given if each not in known):
        near = nearest(name, known)
        hint = f"; is {near} meant?" if near else ""
        yield f"section [{section}]: option '{name}' is without effect, as a command gets no options{hint}"
    if "command" in given:
        program = checked(GROUP, given)[0]["command"][0]
        if not Path(program).exists():
            yield f"section [{section}]: the program {program} does not exist"
        elif not Path(program).is_file() or not os.access(program, os.X_OK):
            yield f"section [{section}]: {program} is not an executable program"
