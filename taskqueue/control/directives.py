"""The standing commands of administrators to all pools: pauses, drained hosts."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Self

from taskqueue.messages.forwarding import new_id

MOST_NAMES: Final = 1000  # of types, or of hosts

#: Maximum number of workers that a command may give a group.
MOST_WORKERS: Final = 100_000


@dataclass(frozen=True, slots=True)
class Directive:
    """One standing command.

    Args:
        by: the user and host that gave it.
        since: when, in seconds since 1970.
        until: when it ends, in seconds since 1970; None for never.
    """

    by: str
    since: float
    until: float | None = None

    def is_over(self, now: float) -> bool:
        """Tell whether it has ended."""
        return self.until is not None and self.until <= now


@dataclass(frozen=True, slots=True)
class Size:
    """A standing number of workers.

    Args:
        workers: the number.
        by: the user and host that gave it.
        since: when, in seconds since 1970.
    """

    workers: int
    by: str
    since: float


@dataclass(frozen=True, slots=True)
class Directives:
    """All standing commands, as a document of the register has them.

    Args:
        sequence: the number of the document, one more than its predecessor's; the highest counts.
        id: tells apart two documents of the same number.
        hosts: when each host with a pool was first seen, in seconds since 1970.
        pauses: the paused worker types.
        drained: the hosts that take nothing new.
        sizes: the numbers of workers by HOST/GROUP, or by GROUP for all hosts.
    """

    sequence: int = 0
    id: str = ""
    hosts: Mapping[str, float] = field(default_factory=dict)
    pauses: Mapping[str, Directive] = field(default_factory=dict)
    drained: Mapping[str, Directive] = field(default_factory=dict)
    sizes: Mapping[str, Size] = field(default_factory=dict)

    def paused(self, now: float) -> list[str]:
        """Return the worker types that are paused at a time."""
        return sorted(name for name, pause in self.pauses.items() if not pause.is_over(now))

    def sizes_of(self, host: str) -> dict[str, tuple[int, bool]]:
        """Return the numbers of workers of a host by group, each with whether it is for this host alone.

        A number for the host wins over one for all hosts.
        """
        general = {name: (each.workers, False) for name, each in self.sizes.items() if "/" not in name}
        prefix = f"{host}/"
        own = {
            name.removeprefix(prefix): (each.workers, True)
            for name, each in self.sizes.items()
            if name.startswith(prefix)
        }
        return general | own

    def next_end(self, now: float) -> float | None:
        """Return when the next pause ends after a time; None if none does."""
        ends = [each.until for each in self.pauses.values() if each.until is not None and each.until > now]
        return min(ends, default=None)

    def with_host(self, host: str) -> Self:
        """Return them with a host that has a pool."""
        return self if host in self.hosts else replace(self, hosts={**self.hosts, host: time.time()})

    def without_host(self, host: str) -> Self:
        """Return them without a host that is gone for good."""
        sizes = {name: size for name, size in self.sizes.items() if not name.startswith(f"{host}/")}
        hosts, drained = _without(self.hosts, host), _without(self.drained, host)
        return replace(self, hosts=hosts, drained=drained, sizes=sizes)

    def with_pause(self, worker_type: str, pause: Directive | None) -> Self:
        """Return them with a worker type paused, or for None, not paused."""
        left = _without(self.pauses, worker_type)
        return replace(self, pauses=left if pause is None else {**left, worker_type: pause})

    def with_drain(self, host: str, drain: Directive | None) -> Self:
        """Return them with a host drained, or for None, not drained."""
        left = _without(self.drained, host)
        return replace(self, drained=left if drain is None else {**left, host: drain})

    def with_size(self, name: str, host: str, size: Size | None) -> Self:
        """Return them with a number of workers of a group, or for None, with that of the configuration.

        host -- "" for all: then no host has a number of its own
        """
        own = f"{host}/{name}"
        left = {
            each: kept
            for each, kept in self.sizes.items()
            if each != own and (host or each.rpartition("/")[2] != name)
        }
        return replace(self, sizes=left if size is None else {**left, own if host else name: size})

    def next_document(self) -> Self:
        """Return them as the next document, without what is over."""
        now = time.time()
        kept = {name: pause for name, pause in self.pauses.items() if not pause.is_over(now)}
        return replace(self, sequence=self.sequence + 1, id=new_id(), pauses=kept)

    def is_full(self) -> bool:
        """Tell whether there are more names than a document may have."""
        named = (self.hosts, self.pauses, self.drained, self.sizes)
        return max(map(len, named)) > MOST_NAMES

    def as_json(self) -> dict[str, Any]:
        """Return the document as JSON has it."""
        return {
            "sequence": self.sequence,
            "id": self.id,
            "hosts": dict(self.hosts),
            "pauses": {name: _plain(each) for name, each in self.pauses.items()},
            "drained": {name: _plain(each) for name, each in self.drained.items()},
            "sizes": {name: asdict(each) for name, each in self.sizes.items()},
        }

    @classmethod
    def of_json(cls, plain: Mapping[str, Any]) -> Self:
        """Return the document that `as_json` returned."""
        standing = cls.of_standing({**plain, "paused": plain["pauses"], "sizes": plain.get("sizes", {})})
        hosts = {str(name): float(since) for name, since in plain["hosts"].items()}
        return replace(standing, sequence=int(plain["sequence"]), id=str(plain["id"]), hosts=hosts)

    def standing(self) -> dict[str, Any]:
        """Return the commands alone, as users see them in JSON."""
        plain = self.as_json()
        return {"paused": plain["pauses"], "drained": plain["drained"], "sizes": plain["sizes"]}

    @classmethod
    def of_standing(cls, plain: Mapping[str, Any]) -> Self:
        """Return the commands that `standing` returned."""
        return cls(
            pauses={str(name): _directive(each) for name, each in plain["paused"].items()},
            drained={str(name): _directive(each) for name, each in plain["drained"].items()},
            sizes={str(name): _size(each) for name, each in plain["sizes"].items()},
        )


def _without(named: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {each: value for each, value in named.items() if each != name}


def _plain(directive: Directive) -> dict[str, Any]:
    return {"by": directive.by, "since": directive.since, "until": directive.until}


def _directive(plain: Mapping[str, Any]) -> Directive:
    until = plain["until"]
    return Directive(str(plain["by"]), float(plain["since"]), None if until is None else float(until))


def _size(plain: Mapping[str, Any]) -> Size:
    return Size(int(plain["workers"]), str(plain["by"]), float(plain["since"]))
