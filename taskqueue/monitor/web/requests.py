"""Requests of users that the recorder answers: a verb about a subject."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from taskqueue.monitor.web.rights import VIEWER


@dataclass(frozen=True, slots=True)
class VerbRequest(ABC):
    """A request that is about one subject.

    Args:
        verb: one of `roles`.
    """

    #: The first word of its action.
    subject: ClassVar[str]
    #: The least role for each verb.
    roles: ClassVar[Mapping[str, str]]

    verb: str

    @property
    def action(self) -> str:
        """The action, as the audit has it."""
        return f"{self.subject} {self.verb}"

    @property
    def role(self) -> str:
        """The least role that it needs."""
        return self.roles[self.verb]

    @property
    def dry_run(self) -> bool:
        """Whether nothing changes, so that the audit has nothing to tell."""
        return self.role == VIEWER

    @property
    @abstractmethod
    def about(self) -> str:
        """The entry of the audit, as JSON."""

    @abstractmethod
    def plain(self) -> dict[str, Any]:
        """Return the members of the request's JSON."""

    @classmethod
    @abstractmethod
    def of_action(cls, action: str, content: Mapping[str, Any]) -> Self:
        """Return the request of an action and its JSON. Raises BadRequest."""

    @classmethod
    def is_action(cls, action: str) -> bool:
        """Return whether an action is about this subject."""
        return cls.verb_of(action) in cls.roles

    @classmethod
    def verb_of(cls, action: str) -> str:
        """Return the verb of an action; "" if it is about another subject."""
        subject, _, verb = action.partition(" ")
        return verb if subject == cls.subject else ""
