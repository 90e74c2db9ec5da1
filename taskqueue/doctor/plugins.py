"""Whether the installed plugins can be imported, and whether their names collide."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from taskqueue import plugins as installed
from taskqueue.config import GroupSettings
from taskqueue.doctor.finding import Finding, Level
from taskqueue.plugins import FORMATS, TASKS, WORKERS, Plugin


@dataclass(frozen=True, slots=True)
class PluginFacts:
    """An entry point of a group.

    Args:
        plugin: it.
        group: WORKERS, TASKS or FORMATS.
        error: why it cannot be imported; None if it can, or if that was not tried.
    """

    plugin: Plugin
    group: str
    error: str | None = None


def entry_points() -> tuple[PluginFacts, ...]:
    """Return all entry points of taskqueue's groups; nothing is imported."""
    return tuple(
        PluginFacts(plugin, group)
        for group in (WORKERS, TASKS, FORMATS)
        for plugin in installed.installed(group)
    )


def importable(facts: Sequence[PluginFacts]) -> list[PluginFacts]:
    """Return the plugins that a pool runs and whose names are not taken twice: those that can be imported."""
    counts = Counter((each.group, each.plugin.name) for each in facts)
    return [each for each in facts if each.group != FORMATS and counts[each.group, each.plugin.name] == 1]


def judge(facts: Iterable[PluginFacts]) -> Iterator[Finding]:
    """Yield plugins that cannot be used."""
    owners: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    told = list(facts)
    for each in told:
        plugin = each.plugin
        owners[each.group, plugin.name].append(f"{plugin.distribution} {plugin.version}".strip())
        if each.error is not None:
            error = each.error.removeprefix(f"plugin {plugin.name!r} cannot be imported: ")
            text = f"plugin {plugin.name} of {plugin.distribution} cannot be imported: {error}"
            advice = "install what it needs, for the Python that runs taskqueue, or uninstall it"
            yield _finding(Level.ERROR, "plugin-import", text, advice)
    for (group, name), names in owners.items():
        if len(names) > 1:
            text = f"several distributions have an entry point {name} under {group}: {', '.join(names)}"
            yield _finding(Level.ERROR, "plugin-collision", text, "uninstall all but one of them")
    for group, name in owners:
        if group == TASKS and (WORKERS, name) in owners:
            text = f"{name} is a worker plugin and a module of tasks: the tasks are not served"
            yield _finding(Level.WARNING, "plugin-hides-tasks", text, "rename one of them")


def judge_commands(groups: Iterable[GroupSettings]) -> Iterator[Finding]:
    """Yield groups whose command is no program that can be run here."""
    for group in groups:
        program = group.command[0] if group.command else None
        if (
            group.workers
            and program is not None
            and not (Path(program).is_file() and os.access(program, os.X_OK))
        ):
            text = f"group {group.name} runs {program}, which is no program on this host"
            advice = "install it, make it executable, or correct the option command"
            yield _finding(Level.ERROR, "command-missing", text, advice)


def _finding(level: Level, name: str, text: str, advice: str) -> Finding:
    return Finding(level, "plugins", name, text, advice)
