"""`taskqueue config`."""

import os

import click

from taskqueue import config as configuration
from taskqueue import plugins as installed_plugins
from taskqueue.cli import options, tables
from taskqueue.config import GroupSettings, Settings, effective


@click.command()
@options.config_option
@tables.format_option
def config(path: str | None, style: str) -> None:
    """Check the configuration; print what is in force: settings, groups and plugins.

    Exit status: 0 if nothing is wrong, 78 after a list of all faults.
    """
    found = installed_plugins.installed()
    settings = configuration.load(path, [plugin.name for plugin in found], as_root=os.geteuid() == 0)
    if style == "json":
        tables.show_json(effective(settings) | {"plugins": [plugin.name for plugin in found]})
        return
    click.echo(f"Configuration: {path or 'defaults; there is no file'}")
    for warning in settings.warnings:
        click.echo(f"warning: {warning}", err=True)
    _show_sections(settings)
    _show_groups(settings)


def _show_sections(settings: Settings) -> None:
    plain = effective(settings)
    rows = [
        (f"[{section}]", option, _written(value))
        for section in ("amqp", "dispatcher", "workerpool", "logging")
        for option, value in (
            plain[section] or {"url": "none: a private broker, see `taskqueue up --help`"}
        ).items()
    ]
    tables.show_table("Settings", ("section", "option", "value"), rows)


def _show_groups(settings: Settings) -> None:
    if not settings.groups:
        click.echo("No groups: no plugin is installed.")
        return
    rows = [_group_row(group) for group in settings.groups]
    tables.show_table("Groups", ("group", "worker type", "workers", "user", "results", "own settings"), rows)


def _group_row(group: GroupSettings) -> tuple[object, ...]:
    names = ", ".join(name for name, _ in group.settings)
    results = group.results_routing_key if group.report_results else "not reported"
    return group.name, group.worker_type, group.workers, group.user or "default", results, names


def _written(value: object) -> object:
    """Return a value as the configuration file has it."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(value)
    return value
