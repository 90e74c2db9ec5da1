"""Which worker types the workers of a pool may serve: the supervisor grants them."""

from collections.abc import Iterable, Sequence


class Grants:
    """Knows which plugin each worker type belongs to.

    A worker plugin serves its own worker type. A module of tasks names its tasks itself, and gets every name
    that no other plugin has; the first one that claims a name keeps it.
    """

    def __init__(self) -> None:
        """Begin without plugins."""
        self._owners: dict[str, str] = {}  # plugins, by worker type

    def plan(self, plugins: Iterable[str]) -> None:
        """Grant each installed plugin its own worker type, and forget the plugins that are gone."""
        installed = set(plugins)
        self._owners = {name: owner for name, owner in self._owners.items() if owner in installed}
        self._owners |= {name: name for name in installed}

    def claim(self, plugin: str, worker_types: Sequence[str], *, has_tasks: bool) -> str:
        """Grant worker types to a plugin; return why that cannot be, "" once it is done.

        has_tasks -- whether the plugin is a module of tasks
        """
        others = {name: self._owners[name] for name in worker_types if name in self._owners}
        for name, owner in others.items():
            if owner != plugin:
                return f"it may not serve worker type {name!r}, which belongs to plugin {owner!r}"
        if not has_tasks and set(worker_types) != {plugin}:
            return f"it may serve worker type {plugin!r} only, and named {', '.join(worker_types)[:200]!r}"
        self._owners |= dict.fromkeys(worker_types, plugin)
        return ""
