"""The rights of a user of the monitor. The reading layer narrows every query to them."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Final

from taskqueue.errors import TaskqueueError
from taskqueue.monitor.record import Filter

VIEWER, OPERATOR, ADMIN = "viewer", "operator", "admin"
#: The roles; each may do what those before it may. An operator acts on workitems, an admin reads the audit.
ROLES: Final = (VIEWER, OPERATOR, ADMIN)

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
MOST_LIMITS: Final = 100  # tenants of a user, and patterns
LONGEST_LIMIT: Final = 255  # characters of a tenant or pattern


def is_pattern(text: str) -> bool:
    """Return whether a text is a pattern of worker types (fnmatch); no type has these characters."""
    return any(character in text for character in "*?[")


class NoRight(TaskqueueError):
    """The user lacks the right for a request."""


@dataclass(frozen=True, slots=True)
class Rights:
    """The rights of a user.

    Args:
        user: the name, for the audit.
        role: one of ROLES.
        tenants: the tenants whose workitems are seen; empty for all.
        types: patterns of worker types (fnmatch), one of which must match; empty for all.
        bodies: whether bodies and results are seen.
    """

    user: str
    role: str = VIEWER
    tenants: frozenset[str] = frozenset()
    types: tuple[str, ...] = ()
    bodies: bool = False

    def may(self, role: str) -> bool:
        """Return whether the user's role includes another one."""
        return ROLES.index(self.role) >= ROLES.index(role)

    def need(self, role: str) -> None:
        """Raise NoRight if the user's role does not include another one."""
        if not self.may(role):
            raise NoRight(f"user {self.user!r} has the role {self.role}; this needs the role {role}")

    @property
    def is_limited(self) -> bool:
        """Whether the user sees only some tenants or worker types."""
        return bool(self.tenants or self.types)

    def need_all(self) -> None:
        """Raise NoRight if the user sees only some tenants or worker types."""
        if self.is_limited:
            raise NoRight(
                f"user {self.user!r} is limited to some tenants or worker types, and this is about all"
            )

    def need_bodies(self) -> None:
        """Raise NoRight if the user may not see bodies."""
        if not self.bodies:
            raise NoRight(f"user {self.user!r} may not see bodies, so cannot search or change them")

    def sees(self, worker_type: str, tenant: str) -> bool:
        """Return whether the user sees workitems of a worker type and tenant."""
        return self.sees_type(worker_type) and (not self.tenants or tenant in self.tenants)

    def sees_type(self, worker_type: str) -> bool:
        """Return whether the user sees workitems of a worker type, if of any tenant."""
        return not self.types or any(fnmatchcase(worker_type, pattern) for pattern in self.types)

    def narrow(self, wanted: Filter, known: Iterable[str]) -> Filter | None:
        """Return a filter that selects only what the user sees; None if that is nothing.

        Args:
            wanted: the filter.
            known: all worker types of the record, by which patterns of user and filter are resolved.

        Raises:
            NoRight: the filter searches in bodies, which the user may not see.
        """
        if wanted.body_text:
            self.need_bodies()
        tenants, types = wanted.tenants, _resolved(wanted.worker_types, known)
        if wanted.worker_types and not types:
            return None
        if self.tenants:
            tenants = self._both(tenants, self.tenants)
            if not tenants:
                return None
        if self.types:
            types = frozenset(each for each in (types or known) if self.sees_type(each))
            if not types:
                return None
        return replace(wanted, tenants=tenants, worker_types=types)

    @staticmethod
    def _both(wanted: Collection[str], allowed: frozenset[str]) -> frozenset[str]:
        return allowed.intersection(wanted) if wanted else allowed


def _resolved(types: frozenset[str], known: Iterable[str]) -> frozenset[str]:
    """Return worker types with those that patterns among them match."""
    patterns = [each for each in types if is_pattern(each)]
    if not patterns:
        return types
    matching = {each for each in known if any(fnmatchcase(each, pattern) for pattern in patterns)}
    return types.difference(patterns) | matching


#: The rights of the token that `taskqueue up` prints.
OWN_RIGHTS: Final = Rights("(up)", ADMIN, bodies=True)
