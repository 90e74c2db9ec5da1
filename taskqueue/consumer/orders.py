"""The orders of the pool's controller to a consumer: what it takes no more."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from taskqueue.consumer.admission import Rule
from taskqueue.consumer.in_flight import Assignment
from taskqueue.messages.events import TAKES_WORK
from taskqueue.texts import shorten

_LONGEST_STATE: Final = 500  # characters


@dataclass(slots=True)
class Orders:
    """The pauses that administrators have ordered.

    Args:
        held: why nothing new is taken at all, as the state of the group; "" if it is taken.
        paused: the worker types of which nothing new is taken.
    """

    held: str = ""
    paused: frozenset[str] = frozenset()

    def take(self, content: Mapping[str, Any]) -> None:
        """Take what the supervisor has sent."""
        self.held, self.paused = str(content["held"]), frozenset(content["paused"])

    def refuse(self, assignment: Assignment) -> bool:
        """Tell whether a workitem must not begin."""
        return bool(self.held) or assignment.worker_type in self.paused

    def state(self, worker_types: Sequence[str]) -> str:
        """Return the state of a group that takes all that it may, in words.

        worker_types -- those that the group serves
        """
        paused = [name for name in worker_types if name in self.paused]
        if not paused:
            return TAKES_WORK
        if len(paused) == len(worker_types):
            return "is paused"
        return shorten(f"{TAKES_WORK}, but of paused types: {', '.join(paused)}", _LONGEST_STATE)


class NotPaused(Rule):
    """The worker type is not paused."""

    reads_headers = False

    def __init__(self, orders: Orders, give_back: Callable[[Assignment], None]) -> None:
        self._orders, self._give_back = orders, give_back

    def admits(self, assignment: Assignment) -> bool:
        """Give back a workitem that was on its way when its type was paused."""
        if not self._orders.refuse(assignment):
            return True
        self._give_back(assignment)
        return False
