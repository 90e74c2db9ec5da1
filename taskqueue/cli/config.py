"""`taskqueue config`."""

import os
import pwd
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import click

from taskqueue import config as configuration
from taskqueue import plugins as installed_plugins
from taskqueue.cli import options, tables
from taskqueue.config import Fault, GroupSettings, Settings, effective
from taskqueue.config.checks import printable
from taskqueue.errors import ConfigError, ExitStatus, PrivilegeError
from taskqueue.plugins import Plugin
from taskqueue.process import children, exposure, logs, privileges, startup

_GROUP_COLUMNS: Final = (
    "group",
    "worker type",
    "workers",
    "user",
    "max_prefetch",
    "max_crashes",
    "output_rate",
)
_RETRY_COLUMNS: Final = (
    "group",
    "retries",
    "retry_delay",
    "retry_backoff",
    "retry_max_delay",
    "retry_jitter",
)
_TIME_COLUMNS: Final = ("group", "timeout", "timeout_grace", "lease_after", "lease_timeout")
_LIMIT_COLUMNS: Final = ("group", "max_tasks", "max_memory", "memory_limit", "cpu_limit", "nice")
_RESULT_COLUMNS: Final = ("group", "results_routing_key", "report_results", "results_expire", "own settings")


@click.command(short_help="Check the configuration and show what is in force.")
@options.config_option
@tables.format_option
def config(path: str | None, style: str) -> None:
    """Check the configuration; print what is in force: settings, groups and plugins.

    For root, also check that the daemons' user can read the files, and that users of workers cannot read
    those with secrets. With faults, JSON has the lists "faults" and "warnings".

    Exit status: 0 if nothing is wrong, 78 after a list of all faults.
    """
    found = tuple(plugin for plugin, _ in installed_plugins.listed())
    try:
        settings = configuration.load(path, [plugin.name for plugin in found], as_root=os.geteuid() == 0)
    except ConfigError as error:
        if style == "json":
            faults = [str(fault) for fault in error.faults]
            tables.show_json({"faults": faults, "warnings": list(error.warnings)})
            sys.exit(error.status)
        _show_warnings(error.warnings)
        raise
    if os.geteuid() == 0:
        others = (*_unreadable(settings), *exposure.warnings(settings))
        settings = replace(settings, warnings=(*settings.warnings, *others))
    if style == "json":
        tables.show_json(_effective(settings) | {"plugins": [plugin.name for plugin in found]})
    else:
        _show(settings, found)


def _effective(settings: Settings) -> dict[str, Any]:
    """Return what is in force, with where a daemon in the background logs, if that is elsewhere."""
    plain = effective(settings)
    background = logs.reachable(settings.logging, in_background=True).destination
    if background != settings.logging.destination:
        plain["logging"]["destination_in_background"] = background
    return plain


def _unreadable(settings: Settings) -> list[str]:
    """Return warnings of what the user whom root's daemons become could not read.

    A child becomes that user and reads the configuration, and the files that it names, as they would.
    """
    user = settings.workerpool.user
    reader, writer = os.pipe()

    def read() -> int:
        with os.fdopen(writer, "w") as pipe:
            try:
                privileges.become(user)
                configuration.load(settings.path, (), as_root=False)
            except PrivilegeError as error:
                pipe.write(f"the daemons cannot run as user '{user}': {error}\n")
            except ConfigError as error:
                mend = f"to mend it: chgrp {user} and chmod g+r that file, chmod o+x its folders"
                for fault in error.faults:
                    mended = replace(fault, advice=mend) if isinstance(fault, Fault) else fault
                    pipe.write(f"the daemons run as user '{user}': {mended}\n")
        return ExitStatus.OK

    pid = children.fork(read)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        lines = pipe.read().splitlines()
    os.waitpid(pid, 0)
    return lines


def _show(settings: Settings, found: Sequence[Plugin]) -> None:
    click.echo(f"Configuration: {settings.path or 'defaults; there is no file'}")
    _show_warnings(settings.warnings)
    plain = _effective(settings)
    _show_sections(plain)
    if not found:
        click.echo("No groups: no plugin is installed.")
        return
    _show_groups(settings, plain["groups"])
    _show_table("Plugins", tables.PLUGIN_COLUMNS, [tables.plugin_row(plugin) for plugin in found])


def _show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    click.echo()
    tables.show_table(title, columns, rows)


def _show_warnings(warnings: Sequence[str]) -> None:
    for warning in warnings:
        startup.complain(f"warning: {warning}\n")


def _show_sections(plain: Mapping[str, Any]) -> None:
    rows = [
        (f"[{section}]", option, _written(value))
        for section in ("amqp", "dispatcher", "workerpool", "logging")
        for option, value in (
            plain[section] or {"url": "none: a private broker, see `taskqueue up --help`"}
        ).items()
    ]
    _show_table("Settings", ("section", "option", "value"), rows)


def _show_groups(settings: Settings, plain: Sequence[Mapping[str, Any]]) -> None:
    """Show the groups, in tables no wider than a terminal."""
    users = [_user(group, settings) for group in settings.groups]
    rows = [
        [group["name"], group["worker_type"], group["workers"], user]
        + [group[option] for option in _GROUP_COLUMNS[4:]]
        for group, user in zip(plain, users, strict=True)
    ]
    _show_table("Groups", _GROUP_COLUMNS, rows)
    for title, columns in (
        ("Retries of the groups", _RETRY_COLUMNS),
        ("Times of the groups, in seconds", _TIME_COLUMNS),
        ("Limits of the groups", _LIMIT_COLUMNS),
    ):
        rows = [[group["name"], *(_written(group[option]) for option in columns[1:])] for group in plain]
        _show_table(title, columns, rows)
    rows = [
        [
            group["name"],
            *(_written(group[option]) for option in _RESULT_COLUMNS[1:4]),
            _own(group["settings"]),
        ]
        for group in plain
    ]
    _show_table("Results and own settings of the groups", _RESULT_COLUMNS, rows)


def _user(group: GroupSettings, settings: Settings) -> str:
    """Return who a group's workers run as, if whoever asks starts the pool."""
    if os.geteuid() == 0:
        return group.user or settings.workerpool.worker_user
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # as in a container
        return str(os.geteuid())


def _own(settings: Mapping[str, str]) -> str:
    return ", ".join(printable(f"{name}={value}") for name, value in settings.items())


def _written(value: object) -> object:
    """Return a value as the configuration file has it."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case float() if value.is_integer():
            return int(value)
        case list():
            return ", ".join(value)
    return value
