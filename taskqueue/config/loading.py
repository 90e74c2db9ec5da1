"""From config.ini to settings, or to all of its faults.

The syntax is that of configparser.RawConfigParser (https://docs.python.org/3/library/configparser.html,
"Supported INI File Structure"): lines that begin with ; or # are comments, indented lines continue
the value before them, option names have no case, and nothing is interpolated.
"""

import configparser
import contextlib
import os
import re
import stat
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from taskqueue.config import groups
from taskqueue.config.amqp import AmqpSettings, amqp_settings, conflicts, has_password
from taskqueue.config.checks import Fault, Refused, shown
from taskqueue.config.commanded import command_faults, command_types, command_warnings
from taskqueue.config.groups import Sections, Subgroups, UnixUsers
from taskqueue.config.limited import limit_faults, limit_warnings, take_limits
from taskqueue.config.named import unknown_options
from taskqueue.config.postgresql import is_url, without_password
from taskqueue.config.scheduled import take_schedules
from taskqueue.config.settings import (
    FIXED_SECTIONS,
    GROUP,
    DispatcherSettings,
    FlowSettings,
    LoggingSettings,
    MonitorSettings,
    PoolSettings,
    Settings,
    checked,
)
from taskqueue.errors import ConfigError
from taskqueue.messages.routing import WORKER_TYPE
from taskqueue.texts import one_line


def load(
    path: str | None,
    plugin_names: Collection[str],
    *,
    as_root: bool,
    unix_users: UnixUsers | None = None,
) -> Settings:
    """Read a configuration file.

    Args:
        path: the file; None for all defaults, with a group for every plugin.
        plugin_names: the installed plugins, which are the worker types.
        as_root: whether root starts the pool, so that it can switch users.
        unix_users: where to look users up; those of this machine if None.

    Raises:
        ConfigError: the file has faults; the error has all of them, and the warnings.
    """
    sections, is_public, faults, warnings = _read(path) if path is not None else ({}, False, [], [])
    found: list[Fault] = []
    schedules, limits = take_schedules(sections, found), take_limits(sections, found)
    fixed = {kind: _fixed_values(kind, sections.get(kind, {}), found) for kind in FIXED_SECTIONS}
    pool = PoolSettings(**fixed["workerpool"])
    installed, misnamed = groups.well_named(plugin_names)
    warnings += (*misnamed, *groups.rename_options(sections))
    workers = _worker_sections(sections, found)
    names = [*dict.fromkeys((*installed, *command_types(sections, workers)))]
    subgroups = groups.find_subgroups(workers, installed, found)
    found += [*limit_faults(workers, limits), *command_faults(workers, subgroups)]
    sources = groups.make_groups(workers, subgroups, names)
    found += groups.privilege_faults(sources, workers, pool, unix_users or UnixUsers(), as_root=as_root)
    # what is wrong in [DEFAULT] would otherwise be said once for every group that inherits it
    faults += [replace(fault, file=path) for fault in dict.fromkeys(found)]
    warnings += _worker_oddities(workers, subgroups, names, installed)
    warnings = [one_line(warning) for warning in (*warnings, *_oddities(sections, is_public=is_public))]
    if faults:
        raise ConfigError(faults, warnings)
    return Settings(
        path=path,
        amqp=amqp_settings(fixed["amqp"]),
        workerpool=pool,
        **_settings_of_daemons(fixed, sections),
        groups=tuple(sources),
        records=tuple(groups.make_records(workers)),
        schedules=schedules,
        lanes=tuple(groups.make_lanes(workers)),
        limits=limits,
        warnings=tuple(warnings),
        secret_files=tuple(_secret_files(path or "", sections.get("amqp", {}), is_public=is_public)),
    )


def _settings_of_daemons(fixed: dict[str, dict[str, Any]], sections: Sections) -> dict[str, Any]:
    return {
        "dispatcher": DispatcherSettings(**fixed["dispatcher"]),
        "monitor": MonitorSettings(**fixed["monitor"]),
        "flow": FlowSettings(**fixed["flow"], is_wanted="flow" in sections),
        "logging": LoggingSettings(**fixed["logging"]),
    }


def load_amqp(path: str | None) -> AmqpSettings | None:
    """Read the broker's address alone: with hundreds of groups, all of a file takes a second.

    Raises ConfigError with the faults of the file and of the section [amqp].
    """
    sections, _, faults, _ = _read(path) if path is not None else ({}, False, [], [])
    found: list[Fault] = []
    values = _fixed_values("amqp", sections.get("amqp", {}), found)
    faults += [replace(fault, file=path) for fault in found]
    if faults:
        raise ConfigError(faults)
    return amqp_settings(values)


#: Options of [monitor] that are in vain without another one.
_TOGETHER: Final = (
    ("key_file", "cert_file"),
    ("proxy_socket", "proxy_user_header"),
    ("proxy_user_header", "proxy_socket"),
)


def _fixed_values(kind: str, given: dict[str, str], found: list[Fault]) -> dict[str, Any]:
    values, refused = checked(kind, given)
    found += _refusals(kind, refused)
    found += unknown_options(kind, kind, given)
    if kind == "amqp":
        found += [Fault(None, kind, *conflict) for conflict in conflicts(given, values)]
    if kind == "monitor":
        pairs = [(one, other) for one, other in _TOGETHER if one in given and other not in given]
        found += [Fault(None, kind, one, f"{other} beside it", "none") for one, other in pairs]
    return values


def _refusals(section: str, refused: dict[str, Refused]) -> list[Fault]:
    return [Fault(None, section, name, error.expected, error.found) for name, error in refused.items()]


def _worker_sections(sections: Sections, found: list[Fault]) -> Sections:
    """Return [DEFAULT] and the worker sections, without what was refused in them."""
    kept: Sections = {}
    for section, given in sections.items():
        if section in FIXED_SECTIONS:
            continue
        if not WORKER_TYPE.match(section):
            expected = "a worker type: 1 to 100 of letters, digits, _ - and ., a letter or digit first"
            found.append(Fault(None, section, None, expected, shown(section)))
            continue
        refused = checked(GROUP, given)[1]
        found += _refusals(section, refused)
        kept[section] = {name: value for name, value in given.items() if name not in refused}
    return kept


def _worker_oddities(
    workers: Sections, subgroups: Subgroups, names: Collection[str], installed: Collection[str]
) -> Iterator[str]:
    yield from groups.warnings_of(workers, subgroups, names)
    yield from limit_warnings(workers)
    yield from command_warnings(workers, subgroups, installed)


def _oddities(sections: Sections, *, is_public: bool) -> Iterator[str]:
    yield from _amqp_oddities(sections.get("amqp", {}), is_public=is_public)
    for name in ("monitor", "flow"):
        if is_public and _holds_passwords(sections.get(name, {})):
            yield f"section [{name}]: every user of this machine can read the password (mode o+r)"


def _amqp_oddities(given: dict[str, str], *, is_public: bool) -> Iterator[str]:
    if given and not {"url", "host", "hosts"}.intersection(given):
        yield f"section [amqp]: {', '.join(given)} without effect: there is no url, host or hosts"
    if is_public and _holds_password(given):
        yield "section [amqp]: every user of this machine can read the password (mode o+r)"


def _holds_passwords(given: dict[str, str]) -> bool:
    urls = [given[name] for name in ("database", "database_reader") if name in given]
    return any(is_url(url) and without_password(url) != url for url in urls)


def _holds_password(given: dict[str, str]) -> bool:
    return "password" in given or "passwd" in given or has_password(given.get("url", ""))


def _secret_files(path: str, given: dict[str, str], *, is_public: bool) -> Iterator[str]:
    if _holds_password(given) and not is_public:
        yield path
    for name in ("passwd_file", "key_file" if "key_file" in given else "cert_file"):
        if name in given:
            yield given[name]


#: A section's header with something after it, which configparser passes over.
_FOLLOWED: Final = re.compile(r"\[(.+)\][ \t]*[^ \t;#]")

#: Begins the names given to what is said twice, so that its own lines are still read as its own.
_SPARE: Final = "\0"


def _read(path: str) -> tuple[Sections, bool, list[Fault], list[str]]:
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
        # the default section is one like the others here; groups.py decides which sections inherit it
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
