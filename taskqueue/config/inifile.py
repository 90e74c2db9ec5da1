"""The syntax of config.ini: sections of `option: value` or `option = value` lines.

It is that of configparser.RawConfigParser (https://docs.python.org/3/library/configparser.html,
"Supported INI File Structure"): lines that begin with ; or # are comments, indented lines continue
the value before them, option names have no case, and nothing is interpolated.
"""

import configparser
import contextlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from taskqueue.config.checks import Fault
from taskqueue.errors import ConfigError

#: section -> option -> value, as written.
Sections = dict[str, dict[str, str]]

#: A section's header with something after it, which configparser passes over.
_FOLLOWED: Final = re.compile(r"\[(.+)\][ \t]*[^ \t;#]")

#: Begins the names given to what is said twice, so that its own lines are still read as its own.
_SPARE: Final = "\0"


def read(path: str) -> tuple[Sections, bool, list[Fault], list[str]]:
    """Read a file.

    Returns:
        Its sections as far as they can be read, whether all users may read the file, its faults, and warnings
        of what is without effect.

    Raises:
        ConfigError: it cannot be read at all.
    """
    try:
        with Path(path).open(encoding="utf-8-sig") as file:
            public = bool(os.fstat(file.fileno()).st_mode & stat.S_IROTH)
            text = file.read()
            sections, faults = parse(text, path)
    except OSError as error:
        fault = Fault(path, None, None, "a readable file", str(error.strerror), _advice(path, error))
        raise ConfigError([fault]) from None
    except UnicodeDecodeError as error:
        found = f"the byte 0x{error.object[error.start]:02x} at position {error.start}"
        raise ConfigError([Fault(path, None, None, "text in UTF-8", found)]) from None
    return sections, public, faults, list(_ignored(text))


def _advice(path: str, error: OSError) -> str:
    """Return what a user who may not read a file can do; "" where something else is wrong with it."""
    if not isinstance(error, PermissionError):
        return ""
    right = "ask for the right to read it"
    with contextlib.suppress(OSError, KeyError):  # the user may not look at it, or its group has no name
        if Path(path).stat().st_mode & stat.S_IRGRP:
            right = f"join its group, {Path(path).group()}"
    return f"{right}, or name the broker by --amqp or TASKQUEUE_AMQP"


def _ignored(text: str) -> Iterator[str]:
    """Yield a warning for each header with something after it, which is not shown: it may be a password."""
    for number, line in enumerate(text.split("\n"), 1):
        if header := _FOLLOWED.match(line):
            what = f"what follows it in line {number} is without effect: give each option a line of its own"
            yield f"section [{header[1]}]: {what}"


def parse(text: str, path: str) -> tuple[Sections, list[Fault]]:
    """Read a file's text; a fault names its line but shows nothing of it, which may be half a password.

    The parser stops at the first thing said twice; so what it stops at is taken out, and it starts
    again until nothing is wrong: all faults are to be reported at once.

    Raises:
        ConfigError: it cannot be read at all.
    """
    if _SPARE in text:
        raise ConfigError([Fault(path, None, None, "text", "a null character")])
    lines = text.split("\n")
    faults: dict[int, Fault] = {}
    while True:
        # the default section is one like the others here: who inherits it is decided elsewhere
        parser = configparser.RawConfigParser(default_section="")
        try:
            parser.read_file(lines, path)
        except configparser.ParsingError as error:
            for number, fault in _syntax_faults(error, path):
                lines[number - 1] = ""
                faults[number] = fault
        except (configparser.DuplicateSectionError, configparser.DuplicateOptionError) as error:
            number = error.lineno or 0
            option = getattr(error, "option", None)
            lines[number - 1] = f"{_SPARE}{number} =" if option else f"[{_SPARE}{number}]"
            what = "option" if option else "section"
            faults[number] = Fault(
                path,
                _section(str(error.section), faults),
                option,
                f"one {what} of this name",
                f"another in line {number}",
            )
        else:
            return _without_spares(parser), [faults[number] for number in sorted(faults)]


def _syntax_faults(error: configparser.ParsingError, path: str) -> Iterator[tuple[int, Fault]]:
    if isinstance(error, configparser.MissingSectionHeaderError):
        found = f"none before line {error.lineno}"
        yield error.lineno, Fault(path, None, None, "a [section] before the first option", found)
        return
    for number, _ in error.errors:
        found = f"neither in line {number}"
        yield number, Fault(path, None, None, "'option: value' or 'option = value'", found)


def _section(name: str, faults: dict[int, Fault]) -> str | None:
    """Return the name of a section as it is written, though it may be one that is said twice."""
    return faults[int(name.removeprefix(_SPARE))].section if name.startswith(_SPARE) else name


def _without_spares(parser: configparser.RawConfigParser) -> Sections:
    return {
        section: {name: value for name, value in parser.items(section) if not name.startswith(_SPARE)}
        for section in parser.sections()
        if not section.startswith(_SPARE)
    }
