"""Readers of bodies by content type: the built-in formats, and those of plugins."""

from taskqueue import plugins
from taskqueue.errors import Unroutable
from taskqueue.messages.routing import FORMATS, Format, Route
from taskqueue.texts import shorten


def load_formats(content_types: tuple[str, ...]) -> dict[str, Format]:
    """Return the formats by content type: the built-in ones, and the plugins that are named.

    PluginError where a named one is not installed. Their code runs in the dispatcher, beside the
    broker's password; that is why they must be named.
    """
    return dict(FORMATS) | {
        name: _guarded(name, plugins.load(name, plugins.FORMATS)) for name in content_types
    }


def _guarded(name: str, read: Format) -> Format:
    """Return a plugin's format that does nothing worse than reject: a message must not end the dispatcher."""

    def guarded(body: bytes) -> Route:
        try:
            route = read(body)
        except Unroutable:
            raise
        except (Exception, SystemExit) as error:
            reason = shorten(f"{type(error).__name__}: {error}", 200)
            raise Unroutable(f"the plugin for {name} cannot read it: {reason}") from error
        if not isinstance(route, Route) or not isinstance(route.body, bytes):
            raise Unroutable(
                f"the plugin for {name} made a {type(route).__name__}, expected a Route with bytes"
            )
        if not isinstance(route.content_type, str | None):
            raise Unroutable(f"the plugin for {name} made a Route whose content type is no str")
        return route

    return guarded
