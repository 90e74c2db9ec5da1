"""Requests about pools, which the recorder answers: what they do, and commands to them."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Self

from taskqueue.config.checks import Refused, duration
from taskqueue.control.directives import MOST_WORKERS
from taskqueue.messages.routing import WORKER_TYPE
from taskqueue.monitor.web.parameters import BadRequest
from taskqueue.monitor.web.requests import VerbRequest
from taskqueue.monitor.web.rights import ADMIN, OPERATOR, VIEWER

SHOW, PAUSE, RESUME, SCALE, ROLL, DRAIN, UNDRAIN = (
    *("show", "pause", "resume", "scale", "roll", "drain", "undrain"),
)
#: The members of each command's JSON, the needed ones first.
MEMBERS: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    PAUSE: (("type",), ("for",)),
    RESUME: (("type",), ()),
    SCALE: (("group", "workers"), ("host", "keep")),
    ROLL: ((), ("group", "host")),
    DRAIN: (("host",), ()),
    UNDRAIN: (("host",), ()),
}
#: The commands.
COMMANDS: Final = tuple(MEMBERS)
#: Paths of the API, below its prefix.
PATH: Final = "/pools"
COMMAND_PATH: Final = f"{PATH}/{{command}}"
#: The least role for each verb.
ROLE_OF: Final[Mapping[str, str]] = {SHOW: VIEWER, **dict.fromkeys(COMMANDS, OPERATOR)}
_LONGEST_HOST: Final = 255  # characters


@dataclass(frozen=True, slots=True)
class PoolRequest(VerbRequest):
    """A request that is about pools.

    Args:
        verb: SHOW, or one of COMMANDS.
        group: the group or worker type; "" for all.
        host: the host; "" for all.
        period: with PAUSE, the number of seconds; None for no end.
        workers: with SCALE, the number; None for that of the configuration.
        keep: with SCALE, whether the number is a standing command.
    """

    subject = "pools"
    roles = ROLE_OF

    group: str = ""
    host: str = ""
    period: float | None = None
    workers: int | None = None
    keep: bool = False

    @property
    def role(self) -> str:
        """The least role: a number that wins over the configuration is for those who configure."""
        return ADMIN if self.keep else self.roles[self.verb]

    @property
    def about(self) -> str:
        """The entry of the audit, as JSON."""
        return json.dumps(self.plain())

    def plain(self) -> dict[str, Any]:
        """Return the members of the request's JSON."""
        needed, others = MEMBERS.get(self.verb, ((), ()))
        told = {
            "type": self.group,
            "group": self.group,
            "host": self.host,
            "for": self.period and int(self.period),
            "workers": self.workers,
            "keep": self.keep,
        }
        return {name: told[name] for name in (*needed, *others) if name in needed or told[name]}

    @classmethod
    def of_action(cls, action: str, content: Mapping[str, Any]) -> Self:
        """Return the request of an action and its JSON. Raises BadRequest."""
        return cls.of(cls.verb_of(action), content)

    @classmethod
    def of(cls, verb: str, content: object) -> Self:
        """Return the request of a verb and its JSON. Raises BadRequest."""
        if verb not in ROLE_OF:
            raise BadRequest(f"command: expected one of {', '.join(COMMANDS)}, found {verb[:80]!r}")
        needed, others = MEMBERS.get(verb, ((), ()))
        if not isinstance(content, dict):
            raise BadRequest("body: expected a JSON object")
        for name in content:
            if name not in (*needed, *others):
                expected = ", ".join((*needed, *others)) or "no members"
                raise BadRequest(f"body: expected {expected}, found {str(name)[:80]!r}")
        for name in needed:
            if name not in content:
                raise BadRequest(f"body: expected the member {name!r}")
        read = {_READERS[name][0]: _READERS[name][1](value) for name, value in content.items()}
        return cls(verb, **read)


def _read_name(member: str, value: object) -> str:
    if not isinstance(value, str) or (value and not WORKER_TYPE.match(value)):
        raise BadRequest(f"{member}: expected a worker type or group, found {value!r:.102}")
    return value


def _read_type(value: object) -> str:
    if not value:
        raise BadRequest("type: expected a worker type, found none")
    return _read_name("type", value)


def _read_host(value: object) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST_HOST or not value.isprintable():
        raise BadRequest(f"host: expected a host's name, found {value!r:.102}")
    return value


def _read_period(value: object) -> float | None:
    """Return the seconds of a number or text as 2h; None for none."""
    if value is None:
        return None
    try:
        return duration(str(value), "1")
    except Refused as refused:
        raise BadRequest(f"for: expected {refused.expected}, found {refused.found}") from None


def _read_workers(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_WORKERS:
        expected = f"a number from 0 to {MOST_WORKERS}, or null for that of the configuration"
        raise BadRequest(f"workers: expected {expected}, found {value!r:.102}")
    return value


def _read_keep(value: object) -> bool:
    if not isinstance(value, bool):
        raise BadRequest(f"keep: expected true or false, found {value!r:.102}")
    return value


#: By member, the field, and what makes it of the value.
_READERS: Final[Mapping[str, tuple[str, Callable[[object], Any]]]] = {
    "type": ("group", _read_type),
    "group": ("group", partial(_read_name, "group")),
    "host": ("host", _read_host),
    "for": ("period", _read_period),
    "workers": ("workers", _read_workers),
    "keep": ("keep", _read_keep),
}
