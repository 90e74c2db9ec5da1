"""What a row of the table found."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Goal:
    """What a row is to reach."""

    text: str  # "≥ 85 % of the limit"
    value: float  # the ratio, or the figure itself
    met: bool
    limit: float | None = None  # what bare pika reaches of it

    @classmethod
    def at_least(cls, value: float, least: float, of: str, limit: float | None = None) -> "Goal":
        """Expect a share of something else, or so many times as much; `limit` is what bare pika has."""
        text = f"≥ {least:.0%} of {of}" if least <= 1 else f"≥ {least:g} x {of}"
        return cls(text, value, value >= least, limit)

    @classmethod
    def at_least_a_second(cls, rate: float, least: int) -> "Goal":
        """Expect a rate of at least so many a second."""
        return cls(f"≥ {least:,}/s", rate, rate >= least)

    @classmethod
    def below(cls, mine: float, limit: float, peers: Collection[float]) -> "Goal":
        """Expect less than the least of the peers' figures."""
        best = min(peers)
        return cls("below every peer", mine / best, mine < best, limit / best)

    @classmethod
    def at_most(cls, value: float, most: float, unit: str) -> "Goal":
        """Expect a figure of at most so much."""
        return cls(f"≤ {most:g} {unit}", value, value <= most)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table."""

    row: str
    measure: str
    unit: str
    ours: float
    limit: float | None = None  # the same operations by bare pika
    peers: dict[str, float] = field(default_factory=dict)
    goals: list[Goal] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)  # processor time, single rounds

    @property
    def is_met(self) -> bool:
        """Whether every goal is met."""
        return all(goal.met for goal in self.goals)
