"""The workers of a group: those that should run, and those that end without a successor."""

from collections.abc import Iterator
from itertools import count, islice

from taskqueue.process.children import Slot


class WorkerSlots:
    """The slots of a group's workers, in the order of their start."""

    def __init__(self, group: str, number: int) -> None:
        """Begin with the number of workers of the configuration."""
        self.wanted = 0  # how many should run
        self._group = group
        self._slots: list[Slot] = []
        self._leaving: set[Slot] = set()
        self.resize(number)

    def __iter__(self) -> Iterator[Slot]:
        return iter(tuple(self._slots))

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def running(self) -> list[Slot]:
        """The slots that have a process."""
        return [slot for slot in self._slots if slot.pid]

    @property
    def pids(self) -> list[int]:
        """The processes."""
        return [slot.pid for slot in self.running]

    def find(self, pid: object) -> Slot | None:
        """Return the slot of a process; None if it is none of these."""
        return next((slot for slot in self.running if slot.pid == pid), None)

    def resize(self, number: int) -> list[int]:
        """Have another number; return the processes that must end after their workitems: the last ones."""
        self.wanted = number
        staying = [slot for slot in self._slots if slot not in self._leaving]
        leaving = staying[number:]
        self._leaving.update(slot for slot in leaving if slot.pid)
        self._slots = [slot for slot in self._slots if slot.pid or slot not in leaving]
        self._slots += self._new(number - len(staying))
        return [slot.pid for slot in leaving if slot.pid]

    def _new(self, number: int) -> list[Slot]:
        taken = {slot.name for slot in self._slots}
        free = (name for place in count(1) if (name := f"{self._group}/{place}") not in taken)
        return [Slot(name) for name in islice(free, max(0, number))]

    def is_last(self, slot: Slot) -> bool:
        """Tell whether a process that has ended gets no successor; then its slot is gone."""
        if slot not in self._leaving:
            return False
        self._leaving.remove(slot)
        self._slots.remove(slot)
        return True
