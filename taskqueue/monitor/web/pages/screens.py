"""The screens that the navigation lists, and who may open each."""

from dataclasses import dataclass
from typing import Final

from taskqueue.monitor.web.rights import ADMIN, VIEWER, Rights


@dataclass(frozen=True, slots=True)
class Screen:
    """An entry of the navigation.

    Args:
        path: where it is.
        title: its name in the navigation and its heading.
        role: the least role.
        needs_all: whether it is about all workitems, so not for users with limits.
        needs_types: whether it is about all worker types, so not for users who see only some.
    """

    path: str
    title: str
    role: str = VIEWER
    needs_all: bool = False
    needs_types: bool = False

    def is_for(self, rights: Rights) -> bool:
        """Return whether a user may open it."""
        is_closed = (self.needs_all and rights.is_limited) or (self.needs_types and bool(rights.types))
        return rights.may(self.role) and not is_closed


SCREENS: Final = (
    Screen("/", "Overview"),
    Screen("/types", "Types"),
    Screen("/workitems", "Workitems"),
    Screen("/running", "Running"),
    Screen("/dead-letters", "Dead letters"),
    Screen("/schedules", "Schedules"),
    Screen("/workflows", "Workflows", needs_types=True),
    Screen("/hosts", "Hosts", needs_all=True),
    Screen("/pools", "Pools", needs_all=True),
    Screen("/charts", "Metrics"),
    Screen("/broker", "Broker", needs_all=True),
    Screen("/audit", "Audit", ADMIN, needs_all=True),
    Screen("/account", "Account"),
)


def of(rights: Rights) -> tuple[Screen, ...]:
    """Return the screens that a user may open."""
    return tuple(screen for screen in SCREENS if screen.is_for(rights))
