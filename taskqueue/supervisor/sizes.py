"""The numbers of workers that administrators want instead of those of the configuration."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import NamedTuple

from taskqueue.errors import LimitReached
from taskqueue.supervisor.members import Blueprint
from taskqueue.texts import counted


class Size(NamedTuple):
    """A wanted number of workers.

    Args:
        workers: the number.
        is_own: whether it is for this host alone; another one gives nothing to a group that has no workers.
    """

    workers: int
    is_own: bool


class Sizes:
    """Numbers of workers by group: kept ones, and those that hold until the next reload."""

    def __init__(self, check: Callable[[Sequence[Blueprint]], None]) -> None:
        """Begin without any.

        check -- raises LimitReached if blueprints need more open files than there may be
        """
        self._check = check
        self._kept: dict[str, Size] = {}  # by group or worker type
        self._given: dict[str, int] = {}  # by group
        self.faults: list[str] = []  # the reasons why kept numbers are not in force

    def reload(self) -> None:
        """Forget the numbers that hold until a reload."""
        self._given.clear()

    def keep(self, kept: Mapping[str, Size], blueprints: Sequence[Blueprint]) -> bool:
        """Take the kept numbers, and forget others of their groups; return whether any has changed."""
        changed = {name for name in {*kept, *self._kept} if kept.get(name) != self._kept.get(name)}
        self._kept = dict(kept)
        for name in changed:
            self._given.pop(_group_of(name, blueprints)[0], None)
        return bool(changed)

    def give(self, name: str, size: Size | None, blueprints: Sequence[Blueprint], most: int) -> str:
        """Take a number that holds until the next reload; return "", or why it cannot be in force.

        A name that no group has is no fault: other hosts may have one.

        Args:
            name: the group, or a worker type with one group.
            size: the number; None for that of the configuration.
            blueprints: as the configuration has them.
            most: maximum number of workers in all groups.
        """
        group, fault = _group_of(name, blueprints)
        if not group or (size is not None and not _suits(size, group, blueprints)):
            return fault
        before = dict(self._given)
        self._given.pop(group, None)
        if size is not None:
            self._given[group] = size.workers
        now = _resized(blueprints, self._kept_by_group(blueprints) | before)
        if fault := self._fault(_resized(blueprints, self._wanted(blueprints)), now, most):
            self._given = before
        return fault

    def apply(self, blueprints: Sequence[Blueprint], most: int) -> tuple[Blueprint, ...]:
        """Return the blueprints with the numbers in force, without groups that have no workers.

        A kept number that is too high is left out.
        """
        self.faults = []
        wanted: dict[str, int] = {}
        for group, workers in sorted(self._wanted(blueprints).items(), key=itemgetter(1)):
            before, after = _resized(blueprints, wanted), _resized(blueprints, wanted | {group: workers})
            if fault := self._fault(after, before, most):
                self.faults.append(f"group {group} cannot have {counted(workers, 'worker')}: {fault}")
            else:
                wanted[group] = workers
        return tuple(each for each in _resized(blueprints, wanted) if each.settings.workers)

    def emptied(self, blueprints: Sequence[Blueprint]) -> list[Blueprint]:
        """Return the blueprints of the groups that commands have left without workers."""
        wanted = self._wanted(blueprints)
        return [each for each in blueprints if wanted.get(each.settings.name) == 0]

    def _fault(self, after: Sequence[Blueprint], before: Sequence[Blueprint], most: int) -> str:
        total = _total(after)
        if total > most and total > _total(before):
            return f"all groups would have {total} workers, and max_total_workers is {most}"
        try:
            self._check(after)
        except LimitReached as error:
            return str(error)
        return ""

    def _wanted(self, blueprints: Sequence[Blueprint]) -> dict[str, int]:
        groups = {each.settings.name for each in blueprints}
        given = {name: workers for name, workers in self._given.items() if name in groups}
        return self._kept_by_group(blueprints) | given

    def _kept_by_group(self, blueprints: Sequence[Blueprint]) -> dict[str, int]:
        found = [(_group_of(name, blueprints)[0], size) for name, size in self._kept.items()]
        return {group: size.workers for group, size in found if group and _suits(size, group, blueprints)}


def _group_of(name: str, blueprints: Sequence[Blueprint]) -> tuple[str, str]:
    """Return the group of a name; "" for none, with the reason if several may be meant."""
    of_type = [each.settings.name for each in blueprints if each.settings.worker_type == name]
    if any(each.settings.name == name for each in blueprints):
        return name, ""
    if len(of_type) > 1:
        return "", f"worker type {name} has several groups, name one of them: {', '.join(of_type)}"
    return (of_type[0], "") if of_type else ("", "")


def _suits(size: Size, group: str, blueprints: Sequence[Blueprint]) -> bool:
    """Tell whether a number may apply to a group: one for all hosts starts nothing where nothing is."""
    return size.is_own or any(each.settings.name == group and each.settings.workers for each in blueprints)


def _resized(blueprints: Sequence[Blueprint], wanted: Mapping[str, int]) -> tuple[Blueprint, ...]:
    return tuple(
        each
        if (workers := wanted.get(each.settings.name)) is None
        else replace(each, settings=replace(each.settings, workers=workers, most_workers=0))
        for each in blueprints
    )


def _total(blueprints: Sequence[Blueprint]) -> int:
    return sum(each.settings.workers for each in blueprints)
