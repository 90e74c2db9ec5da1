"""The findings of an examination, and the parts that it could not look at; no I/O."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final


class Level(IntEnum):
    """The weight of a finding. The worst one is the exit status of `taskqueue doctor`."""

    ADVICE = 0  # nothing is wrong, but something may be better
    WARNING = 1  # something will be wrong, or costs time
    ERROR = 2  # work does not run or may be lost, or a secret is open


#: The areas of findings of the same weight, in their order.
AREAS: Final = ("broker", "rights", "plugins", "queues", "times", "host")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong, or will be.

    Args:
        level: its weight.
        area: one of AREAS.
        name: the same for all findings of its kind, for programs.
        text: what is wrong, in a sentence without its full stop.
        advice: what to do, in a sentence without its full stop.
    """

    level: Level
    area: str
    name: str
    text: str
    advice: str

    def as_json(self) -> dict[str, str]:
        """Return it as JSON has it."""
        return {
            "level": self.level.name.lower(),
            "area": self.area,
            "name": self.name,
            "text": self.text,
            "advice": self.advice,
        }


@dataclass(frozen=True, slots=True)
class Unseen:
    """Facts that could not be looked at.

    Args:
        what: the facts, as a noun.
        why: what is missing to see them.
    """

    what: str
    why: str


@dataclass(frozen=True, slots=True)
class Report:
    """An examination: its findings in the order of their weight, and what it could not look at."""

    findings: tuple[Finding, ...]
    unseen: tuple[Unseen, ...]

    @classmethod
    def of(cls, findings: Iterable[Finding], unseen: Iterable[Unseen]) -> "Report":
        """Return a report of findings in any order."""
        ordered = sorted(
            set(findings), key=lambda each: (-each.level, AREAS.index(each.area), each.name, each.text)
        )
        return cls(tuple(ordered), tuple(dict.fromkeys(unseen)))

    @property
    def status(self) -> int:
        """The exit status: the level of the worst finding."""
        return max((each.level for each in self.findings), default=Level.ADVICE).value

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "status": self.status,
            "findings": [each.as_json() for each in self.findings],
            "not_looked_at": [{"what": each.what, "why": each.why} for each in self.unseen],
        }
