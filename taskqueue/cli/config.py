"""`taskqueue config` and `taskqueue plugins`: the effective settings, and the installed plugins."""

import os
import pwd
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, Final

import click

from taskqueue import config as configuration
from taskqueue import plugins as installed_plugins
from taskqueue.address import find_address
from taskqueue.cli import options, tables
from taskqueue.config import GroupSettings, PoolSettings, Settings, effective
from taskqueue.control import key
from taskqueue.doctor.files import unreadable
from taskqueue.errors import ConfigError, ExitStatus, TaskqueueError
from taskqueue.plugins import Plugin
from taskqueue.process import logs, privileges, startup
from taskqueue.process.imports import try_import
from taskqueue.schedules.definition import Definition
from taskqueue.texts import one_line

#: The tables of the groups, none wider than a terminal.
_GROUP_TABLES: Final = {
    "Groups": ("group", "worker type", "workers", "user", "max_prefetch", "max_crashes", "output_rate"),
    "Retries of the groups": (
        "group",
        "retries",
        "retry_delay",
        "retry_backoff",
        "retry_max_delay",
        "retry_jitter",
    ),
    "Times of the groups, in seconds": ("group", "timeout", "timeout_grace", "lease_after", "lease_timeout"),
    "Scaling of the groups": ("group", "most_workers", "scale_up_after", "scale_down_after"),
    "Limits of the groups": ("group", "max_tasks", "max_memory", "memory_limit", "cpu_limit", "nice"),
    "Control groups of the workers": (
        "group",
        "memory_max",
        "cpu_weight",
        "cpu_max",
        "tasks_max",
        "io_weight",
    ),
    "Isolation of the groups": ("group", "private_tmp", "no_network", "read_only"),
    "Lanes and limits of the groups": ("group", "lanes", "max_wait", "weights", "limits"),
    "Records of the groups": ("group", "record_body", "redact", "record_result"),
    "Large results of the groups": ("group", "result_store", "result_store_keep"),
    "Commands of the groups": ("group", "command", "mode", "result_type", "max_result"),
    "Results and own settings of the groups": (
        "group",
        "results_routing_key",
        "report_results",
        "results_expire",
        "own settings",
    ),
}
_STANDING_TIMEOUT: Final = 2.0  # seconds; units call the command before each reload
_PARTIAL: Final = ("command", "most_workers")  # a table with one of these columns is about some groups only
_PLUGIN_COLUMNS: Final = ("worker type", "distribution", "entry point")


@click.command(short_help="Check the configuration and show the effective settings.")
@options.config_option
@tables.format_option
def config(path: str | None, style: str) -> None:
    """Check the configuration; print the effective settings, groups and plugins.

    For root, also check that the daemons' user can read the files, and that users of workers cannot read
    those with secrets. With faults, JSON has the lists "faults" and "warnings". On a host with a control key,
    also ask the broker, for two seconds at most, for the standing commands of administrators, such as numbers
    of workers that win over the file.

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
        others = (*unreadable(settings), *privileges.exposure_warnings(settings))
        others += tuple(key.exposure_warnings(path, settings))
        settings = replace(settings, warnings=(*settings.warnings, *others))
    standing = _standing(settings)
    if style == "json":
        plain = _effective(settings) | {"plugins": [plugin.name for plugin in found]}
        tables.show_json(plain | ({} if standing is None else {"standing": standing.plain}))
        return
    _show(settings, found)
    if standing is not None:
        for line in standing.lines:
            click.echo(line)


@dataclass(frozen=True, slots=True)
class _Standing:
    """The standing commands of administrators, for a person and for a program."""

    lines: Sequence[str]
    plain: dict[str, Any]


def _standing(settings: Settings) -> _Standing | None:
    """Return the standing commands, or why they are not known; None without a file or a control key."""
    place = key.find(settings.path, settings.workerpool) if settings.path is not None else None
    if place is None:
        return None
    from taskqueue.cli.pools import standing_lines  # noqa: PLC0415 -- brings pika in
    from taskqueue.control.client import Command  # noqa: PLC0415

    try:
        amqp = find_address(None, settings.path)
        found = Command(amqp, key.read(place), timeout=_STANDING_TIMEOUT).read()
    except TaskqueueError as error:
        reason = one_line(str(error))
        return _Standing([f"Standing commands are not known: {reason}"], {"unknown": reason})
    lines = ["Standing commands, which win over the file:", *(f"  {line}" for line in standing_lines(found))]
    return _Standing(lines if lines[1:] else ["No standing commands."], found.standing())


def _effective(settings: Settings) -> dict[str, Any]:
    """Return the effective settings, and what follows from them.

    That is the log destination of daemons in the background, if it differs, and the next times of schedules.
    """
    plain = effective(settings)
    background = logs.reachable(settings.logging, in_background=True).destination
    if background != settings.logging.destination:
        plain["logging"]["destination_in_background"] = background
    for shown, schedule in zip(plain["schedules"], settings.schedules, strict=True):
        shown["next"] = _next_times(schedule)
    return plain


def _show(settings: Settings, found: Sequence[Plugin]) -> None:
    click.echo(f"Configuration: {settings.path or 'defaults; there is no file'}")
    _show_warnings(settings.warnings)
    plain = _effective(settings)
    _show_sections(plain)
    if settings.schedules:
        _show_table("Schedules", ("schedule", "due", "worker type", "next three times"), _schedules(settings))
    if settings.limits:
        _show_table("Limits", ("limit", "concurrency", "rate", "groups"), _limits(settings))
    if not settings.groups:
        click.echo("No groups: no plugin is installed, and no section has a command.")
        return
    _show_groups(settings, plain["groups"])
    if found:
        _show_table("Plugins", _PLUGIN_COLUMNS, [_plugin_row(plugin) for plugin in found])


def _schedules(settings: Settings) -> list[tuple[str, ...]]:
    return [
        (each.name, each.when, each.worker_type, ", ".join(_next_times(each))) for each in settings.schedules
    ]


def _limits(settings: Settings) -> list[tuple[object, ...]]:
    users = {
        limit.name: ", ".join(
            f"{group.name} by {use.by}" if use.by else group.name
            for group in settings.groups
            for use in group.limits
            if use.limit == limit.name
        )
        for limit in settings.limits
    }
    return [(each.name, each.concurrency or "", each.rate, users[each.name]) for each in settings.limits]


def _next_times(schedule: Definition) -> list[str]:
    return [schedule.shown(at) for at in islice(schedule.next_times(time.time()), 3)]


def _show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    click.echo()
    tables.show_table(title, columns, rows)


def _show_warnings(warnings: Sequence[str]) -> None:
    for warning in warnings:
        startup.complain(f"warning: {warning}\n")


def _show_sections(plain: Mapping[str, Any]) -> None:
    rows = [
        (f"[{section}]", option, _written(value))
        for section in ("amqp", "dispatcher", "workerpool", "monitor", "flow", "logging")
        for option, value in (
            plain[section] or {"url": "none: a private broker, see `taskqueue up --help`"}
        ).items()
    ]
    _show_table("Settings", ("section", "option", "value"), rows)


def _show_groups(settings: Settings, plain: Sequence[dict[str, Any]]) -> None:
    rows = [
        each
        | {
            "group": each["name"],
            "worker type": each["worker_type"],
            "user": _user(group, settings),
            "workers": f"{group.workers}..{group.most_workers}" if group.most_workers else group.workers,
            "lanes": each["lanes"] or "none",
            "own settings": ", ".join(one_line(f"{name}={it}") for name, it in each["settings"].items()),
        }
        for group, each in zip(settings.groups, plain, strict=True)
    ]
    for title, columns in _GROUP_TABLES.items():
        shown = [row for row in rows if all(row[about] for about in _PARTIAL if about in columns)]
        if shown:
            _show_table(title, columns, [[_written(row[column]) for column in columns] for row in shown])


def _user(group: GroupSettings, settings: Settings) -> str:
    """Return the user of a group's workers if the current user starts the pool."""
    if os.geteuid() == 0:
        return group.user or settings.workerpool.worker_user
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # as in a container
        return str(os.geteuid())


def _written(value: object) -> object:
    """Return a value as it is written in the configuration file."""
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


# --- plugins ---


@click.command(short_help="List the installed plugins and try to import them.")
@tables.format_option
def plugins(style: str) -> None:
    """List the worker plugins and modules of tasks that are installed here, and whether they can be imported.

    Each is imported in a process of its own; for root, as the user whom workers run as by default.

    Exit status: 0 if all can be imported, 1 if not.
    """
    found = installed_plugins.listed()
    user = PoolSettings().worker_user if os.geteuid() == 0 else None
    errors = {plugin: try_import(plugin.name, group, user) for plugin, group in found}
    if style == "json":
        tables.show_json(
            [
                asdict(plugin) | {"importable": error is None, "error": error}
                for plugin, error in errors.items()
            ]
        )
    elif found:
        rows = [
            (*_plugin_row(plugin), "yes" if error is None else f"no: {error}")
            for plugin, error in errors.items()
        ]
        tables.show_table("Plugins", (*_PLUGIN_COLUMNS, "importable"), rows)
    else:
        click.echo(
            "No plugin is installed: no distribution has an entry point under "
            f"{installed_plugins.WORKERS} or {installed_plugins.TASKS}."
        )
    sys.exit(ExitStatus.FAILED if any(errors.values()) else ExitStatus.OK)


def _plugin_row(plugin: Plugin) -> tuple[str, ...]:
    return plugin.name, f"{plugin.distribution} {plugin.version}", plugin.target
