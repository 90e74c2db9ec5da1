"""What is installed: worker plugins and formats, found through their entry points."""

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from taskqueue.errors import PluginError

#: Entry point groups that other distributions register under.
WORKERS: Final = "worker.plugins"
FORMATS: Final = "taskqueue.formats"


@dataclass(frozen=True, slots=True)
class Plugin:
    """An entry point as it is installed; nothing of it has been imported."""

    name: str
    target: str  # "package.module:Class.factory"
    distribution: str  # empty where the metadata does not say
    version: str


def installed(group: str = WORKERS) -> tuple[Plugin, ...]:
    """List the plugins of a group by name, from the distributions' metadata alone.

    The supervisor, which may be root, calls this: it must not run a line of a plugin's code.
    """
    found = {_plugin(entry) for entry in importlib.metadata.entry_points(group=group)}
    return tuple(sorted(found, key=lambda plugin: (plugin.name, plugin.distribution)))


def _plugin(entry: importlib.metadata.EntryPoint) -> Plugin:
    dist = entry.dist
    if dist is None:
        return Plugin(entry.name, entry.value, "", "")
    return Plugin(entry.name, entry.value, dist.metadata["Name"] or "", dist.version or "")


def load(name: str, group: str = WORKERS) -> Any:
    """Import a plugin and return what its entry point names; PluginError says why that fails."""
    from stevedore.driver import DriverManager  # noqa: PLC0415 -- only where plugin code may run
    from stevedore.exception import MultipleMatches, NoMatches  # noqa: PLC0415

    # Its cache on disk does not see what changed within two minutes: it keeps times as 32-bit floats.
    DriverManager.ENTRY_POINT_CACHE[group] = list(importlib.metadata.entry_points(group=group))
    try:
        manager: DriverManager[Any] = DriverManager(
            group, name, on_load_failure_callback=_raise, warn_on_missing_entrypoint=False
        )
    except NoMatches:
        known = ", ".join(plugin.name for plugin in installed(group)) or "none"
        raise PluginError(f"no plugin {name!r} is installed under {group}; installed: {known}") from None
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
    return ", ".join(_distributions([p for p in installed(group) if p.name == name]))


def _distributions(plugins: Sequence[Plugin]) -> list[str]:
    return [f"{plugin.distribution} {plugin.version}" for plugin in plugins]
