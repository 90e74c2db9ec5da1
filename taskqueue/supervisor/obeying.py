"""Obeys administrators: orders, numbers of workers, rolls, and answers to questions.

The supervisor ignores commands of a controller or root that it does not know.
"""

from collections.abc import Mapping
from typing import Any, Final, Protocol

from taskqueue.control.directives import MOST_WORKERS
from taskqueue.process.logs import Log
from taskqueue.supervisor.group import Group
from taskqueue.supervisor.members import Orders
from taskqueue.supervisor.roll import Roll
from taskqueue.supervisor.sizes import Size

_LONGEST_NAME: Final = 100  # characters of a worker type (messages/routing.py)
_MOST_TYPES: Final = 2000


class ControlledPool(Protocol):
    """The pool that is controlled."""

    stop_timeout: float  # seconds that running work has to finish

    @property
    def size_faults(self) -> list[str]:
        """The reasons why numbers of standing commands are not in force."""

    def emptied(self) -> list[dict[str, Any]]:
        """Return the groups that commands have left without workers, as `Group.described` does."""

    def all_groups(self) -> list[Group]:
        """Return the groups, also those that end."""

    def keep_sizes(self, sizes: Mapping[str, Size]) -> None:
        """Give groups the numbers of workers that standing commands name."""

    def scale(self, name: str, size: Size | None) -> str:
        """Give a group a number of workers until the next reload; return "", or why that cannot be."""


class Tell(Protocol):
    """Sends an answer: a word and its content."""

    def __call__(self, word: str, **content: Any) -> None:
        """Send it."""


class Obeying:
    """Does what messages of an administrator's process say."""

    def __init__(self, orders: Orders, pool: ControlledPool) -> None:
        """Prepare.

        orders -- is changed to what the messages say
        pool -- does what they say
        """
        self.orders, self._pool = orders, pool
        self._log = Log("supervisor")
        self._roll: Roll | None = None  # the last one

    def act_on(self, word: str, content: Mapping[str, Any], tell: Tell) -> None:
        """Do what a message says, and answer it.

        Raises ValueError, KeyError or TypeError for an invalid message.
        """
        if word == "orders":
            self.obey(content["paused"], is_drained=bool(content["drained"]))
            self._keep_sizes(content["sizes"])
        elif word == "scale":
            size = None if content["size"] is None else _size(content["size"])
            fault = self._pool.scale(str(content["name"]), size)
            tell("done", number=int(content["number"]), fault=fault)
        elif word == "roll":
            fault = self._begin_roll(str(content["id"]), str(content["name"]))
            tell("done", number=int(content["number"]), fault=fault)
        elif word == "describe":
            self._describe(int(content["number"]), tell)

    def obey(self, paused: list[str], *, is_drained: bool) -> None:
        """Take nothing of the paused worker types, or on a drained host nothing at all."""
        names = tuple(str(name)[:_LONGEST_NAME] for name in paused[:_MOST_TYPES])
        orders = self.orders
        before = orders.is_awaited, orders.is_drained, orders.paused
        orders.is_awaited, orders.is_drained, orders.paused = False, is_drained, names
        if before[1:] != (is_drained, names):
            self._log.info("%s", orders.in_words())
        if before != (False, is_drained, names):
            self._tell_groups()

    def end(self) -> None:
        """Pause nothing any more, and give each group its own number of workers."""
        self.obey([], is_drained=False)
        self._pool.keep_sizes({})

    def release(self, reason: str) -> None:
        """Let the groups take work without orders: the want of them must not be what stops a pool."""
        if self.orders.is_awaited:
            self.orders.is_awaited = False
            self._log.error(
                "the groups take work though the controller has not said what is paused: %s", reason
            )
            self._tell_groups()

    def advance(self) -> None:
        """Go on with a roll."""
        if self._roll is not None and not self._roll.is_over:
            self._roll.advance()

    def due(self) -> float | None:
        """Return when `advance` must be called at the latest (monotonic); None for no time."""
        return None if self._roll is None else self._roll.due()

    def _tell_groups(self) -> None:
        for group in self._pool.all_groups():
            group.obey()

    def _keep_sizes(self, sizes: dict[str, Any]) -> None:
        named = list(sizes.items())[:_MOST_TYPES]
        self._pool.keep_sizes({str(name)[:_LONGEST_NAME]: _size(plain) for name, plain in named})

    def _begin_roll(self, command: str, name: str) -> str:
        """Begin to replace the workers of a group or type, "" for all; return "", or why that cannot be."""
        if self._roll is not None and not self._roll.is_over:
            return "another roll is going on"
        named = [each for each in self._pool.all_groups() if not each.is_draining]
        groups = [each for each in named if name in ("", each.name, each.blueprint.settings.worker_type)]
        if groups:
            self._roll = Roll(command, groups, self._pool.stop_timeout)
            self._log.info("rolling %s", ", ".join(group.name for group in groups))
            self._roll.advance()
        return ""

    def _describe(self, number: int, tell: Tell) -> None:
        groups = self._pool.all_groups()
        for group in groups:
            tell("group", number=number, **group.described())
        for about in self._pool.emptied():
            tell("group", number=number, **about)
        asked = [group.consumer.pid for group in groups if group.ask(number)]
        roll = None if self._roll is None else self._roll.described()
        tell("asked", number=number, consumers=asked, faults=self._pool.size_faults, roll=roll)


def _size(plain: Any) -> Size:
    """Return a number of workers; raise ValueError if it can be none."""
    workers, is_own = plain
    if not isinstance(workers, int) or not 0 <= workers <= MOST_WORKERS:
        raise ValueError(f"a number of workers of {workers!r:.20}")
    return Size(workers, bool(is_own))
