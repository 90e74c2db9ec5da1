"""The answers of pools to a command."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from taskqueue.control.directives import Directives


class Commanding(Protocol):
    """A command, to all pools or to one."""

    id: str

    def ask(self, **content: Any) -> "Answers":
        """Send it; return the answers."""

    def change(self, change: Callable[[Directives], Directives]) -> "Answers":
        """Change the standing commands; return the answers of the pools that obey the new ones."""


@dataclass(slots=True)
class Answers:
    """The answers to a command.

    Args:
        pools: of each pool, its host, its groups and its orders.
        silent: the hosts with a pool that have not answered in time, as far as a register names them.
        errors: of each host that refuses the command, why.
    """

    pools: list[dict[str, Any]] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)

    def of(self, host: str) -> Self:
        """Return those of a host; all for ""."""
        if not host:
            return self
        errors = {name: error for name, error in self.errors.items() if name == host}
        pools = [each for each in self.pools if each["host"] == host]
        return type(self)(pools, [name for name in self.silent if name == host], errors)

    @property
    def faults(self) -> list[str]:
        """The reasons why numbers of workers or a roll are not in force, each with its host."""
        return sorted({f"{each['host']}: {fault}" for each in self.pools for fault in each["faults"]})

    @property
    def complaints(self) -> list[str]:
        """Sentences about the hosts that refuse the command, do not obey it, or do not answer."""
        refusing = [f"{host} refuses the command: {error}" for host, error in sorted(self.errors.items())]
        return [*refusing, *self.faults, *(f"{host} does not answer." for host in self.silent)]

    @property
    def standing(self) -> Directives:
        """The standing commands, as the host has them that knows the newest."""
        registers = [Directives.of_json(each["register"]) for each in self.pools]
        return max(registers, key=lambda each: each.sequence, default=Directives())

    def with_group(self, name: str) -> list[tuple[str, int]]:
        """Return the hosts that have a group, or groups of a worker type, with their numbers of workers."""
        found = []
        for pool in self.pools:
            groups = [
                each for each in pool["groups"] if name in (each["group"], each["type"]) and not each["ends"]
            ]
            if groups:
                found.append((str(pool["host"]), sum(len(each["workers"]) for each in groups)))
        return found

    def rolling(self, command: str) -> list[tuple[str, dict[str, Any]]]:
        """Return the hosts with a roll that a command has begun, with how far it is."""
        rolls = [(str(each["host"]), each["roll"]) for each in self.pools]
        return [(host, roll) for host, roll in rolls if roll is not None and roll["name"] == command]

    def plain(self) -> dict[str, Any]:
        """Return them as JSON has them."""
        shown = ("host", "groups", "orders", "faults", "roll")
        return {
            "pools": [{name: each[name] for name in shown} for each in self.pools],
            **self.standing.standing(),
            "silent": self.silent,
            "errors": self.errors,
        }
