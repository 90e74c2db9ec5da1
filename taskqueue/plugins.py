"""The installed worker plugins and formats, found through their entry points."""

import importlib.metadata
import logging
import re
from dataclasses import dataclass
from functools import partial
from importlib.metadata import Distribution, EntryPoint
from operator import attrgetter
from typing import Any, Final

from taskqueue.errors import PluginError

#: Entry point groups that other distributions register under.
WORKERS: Final = "worker.plugins"
FORMATS: Final = "taskqueue.formats"
TASKS: Final = "taskqueue.tasks"
STORES: Final = "taskqueue.stores"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plugin:
    """An entry point as it is installed; nothing of it has been imported."""

    name: str
    target: str  # "package.module:Class.factory"
    distribution: str  # empty where the metadata does not say
    version: str


@dataclass(frozen=True, slots=True)
class OwnPlugin(Plugin):
    """One of taskqueue's own, which no entry point names: it is loaded by its target."""

    argument: str = ""  # that its factory is called with, if it is called with one
    has_tasks: bool = True  # whether its workers name the worker types that they serve


def installed(group: str = WORKERS) -> tuple[Plugin, ...]:
    """List the plugins of a group by name, from the distributions' metadata alone.

    The supervisor, which may be root, calls this: it must not run a line of a plugin's code.
    """
    return tuple(
        sorted({_plugin(entry) for entry in _entries(group)}, key=attrgetter("name", "distribution"))
    )


def listed() -> tuple[tuple[Plugin, str], ...]:
    """List what a pool runs, each with its entry point group: the worker plugins, and the modules of tasks.

    Where both have a name, the worker plugin is meant.
    """
    workers = installed()
    names = {plugin.name for plugin in workers}
    modules = [(plugin, TASKS) for plugin in installed(TASKS) if plugin.name not in names]
    return (*((plugin, WORKERS) for plugin in workers), *modules)


def served() -> dict[str, Plugin]:
    """Return what a pool runs, by name; for a module of tasks, the plugin that serves them."""
    return {plugin.name: plugin if group == WORKERS else _serving(plugin) for plugin, group in listed()}


def _serving(plugin: Plugin) -> OwnPlugin:
    factory = "taskqueue.calls.task_worker:TaskWorker.of_entry_point"
    return OwnPlugin(plugin.name, factory, plugin.distribution, plugin.version, plugin.name)


def _entries(group: str) -> list[EntryPoint]:
    """Read the entry points of every distribution; one whose metadata is damaged has none."""
    found: list[EntryPoint] = []
    seen: set[str] = set()
    for distribution in importlib.metadata.distributions():
        try:
            name = _field(distribution, "Name")
            if not name or name not in seen:  # the first on the path is the one that is imported
                found += distribution.entry_points.select(group=group)
        except Exception as error:  # noqa: BLE001 -- foreign files, read by a parser that may raise anything
            _log.warning("metadata of a distribution cannot be read: %s: %s", type(error).__name__, error)
        else:
            seen.add(name)
    return found


def _plugin(entry: EntryPoint) -> Plugin:
    dist = entry.dist
    if dist is None:
        return Plugin(entry.name, entry.value, "", "")
    return Plugin(entry.name, entry.value, _field(dist, "Name"), _field(dist, "Version"))


def _field(distribution: Distribution, name: str) -> str:
    """Return a field of a distribution's metadata, or "" where there is none.

    The library parses the whole file, a millisecond each, and from Python 3.12 on objects to a missing field.
    """
    files = ("METADATA", "PKG-INFO", "")  # the last for an .egg-info that is a file itself
    text = next(filter(None, map(distribution.read_text, files)), "")
    found = re.search(rf"^{name}:(.*)$", text, re.IGNORECASE | re.MULTILINE)
    return found[1].strip() if found else ""


def load_own(plugin: OwnPlugin) -> Any:
    """Import one of taskqueue's own plugins; return what its target names, to be called without arguments."""
    factory = EntryPoint(plugin.name, plugin.target, WORKERS).load()
    return partial(factory, plugin.argument) if plugin.argument else factory


def load(name: str, group: str = WORKERS) -> Any:
    """Import a plugin and return what its entry point names; PluginError says why that fails."""
    from stevedore.driver import DriverManager  # noqa: PLC0415 -- only where plugin code may run
    from stevedore.exception import MultipleMatches  # noqa: PLC0415

    entries = _entries(group)
    if name not in {entry.name for entry in entries}:
        known = ", ".join(sorted(entry.name for entry in entries)) or "none"
        raise PluginError(f"no plugin {name!r} is installed under {group}; installed: {known}")
    # Its cache on disk does not see what changed within two minutes: it keeps times as 32-bit floats.
    DriverManager.ENTRY_POINT_CACHE[group] = entries
    try:
        manager: DriverManager[Any] = DriverManager(group, name, on_load_failure_callback=_raise)
    except MultipleMatches:
        raise PluginError(
            f"several distributions install a plugin {name!r}: {_owners(name, group)}"
        ) from None
    except (Exception, SystemExit) as error:
        raise PluginError(f"plugin {name!r} cannot be imported: {type(error).__name__}: {error}") from error
    return manager.driver


def _raise(_manager: object, _entry: object, error: BaseException) -> None:
    raise error


def _owners(name: str, group: str) -> str:
    return ", ".join(f"{each.distribution} {each.version}" for each in installed(group) if each.name == name)
