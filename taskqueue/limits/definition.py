"""A limit, and its use by a group of workers."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import MalformedProperties
from taskqueue.messages.names import TENANT
from taskqueue.messages.recording import LONGEST_TENANT

#: The name of a limit.
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}\Z")
NAME_EXPECTED: Final = "a limit's name: 1 to 100 of letters, digits, _ - and ., a letter or digit first"

#: Maximum number of starts that the gate remembers; each counts for a period.
MOST_STARTS: Final = 500_000
LONGEST_PERIOD: Final = 86400.0  # seconds

#: In `limits = NAME by tenant`, the header x-taskqueue-tenant.
TENANT_WORD: Final = "tenant"


@dataclass(frozen=True, slots=True)
class Limit:
    """A section [limit NAME].

    Args:
        name: the limit's name.
        concurrency: maximum number of workitems that run at once; None for any.
        starts: maximum number of workitems that start within a period; None for any.
        period: seconds.
    """

    name: str
    concurrency: int | None = None
    starts: int | None = None
    period: float = 0.0

    @property
    def rate(self) -> str:
        """The rate as it is written in the configuration; "" for none."""
        return f"{self.starts} per {self.period:g}s" if self.starts is not None else ""


class Key(NamedTuple):
    """The workitems that a limit counts together: all, or those with one value of a header."""

    limit: str
    by: str = ""  # the header; "" for none
    value: str = ""

    def __str__(self) -> str:
        return f"{self.limit} by {self.by}" if self.by else self.limit


@dataclass(frozen=True, slots=True)
class LimitUse:
    """The use of a limit by a group: of one for all workitems, or of one for each value of a header.

    Args:
        limit: the limit's name.
        by: the header, or "tenant"; "" for none.
    """

    limit: str
    by: str = ""

    def key(self, properties: Properties) -> Key:
        """Return the key of a workitem; its value is cut to 100 characters."""
        return Key(self.limit, self.by, self._value(properties) if self.by else "")

    def _value(self, properties: Properties) -> str:
        """Return the header's value as text; "" if it is absent, unreadable, or neither text nor a number."""
        try:
            value = properties.header(TENANT if self.by == TENANT_WORD else self.by)
        except MalformedProperties:
            return ""
        text = str(value) if isinstance(value, str | int | float) else ""
        return text[:LONGEST_TENANT]

    def __str__(self) -> str:
        return f"{self.limit} by {self.by}" if self.by else self.limit


def keys_of(uses: Iterable[LimitUse], properties: Properties) -> tuple[Key, ...]:
    """Return the keys that a workitem needs a permit of."""
    return tuple(use.key(properties) for use in uses)
