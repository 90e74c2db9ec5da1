"""The events that are published as one message, and what waits for their confirm."""

from typing import Final, Generic, Self, TypeVar

from taskqueue.messages import events

T = TypeVar("T")

_PROCESS_LINES: Final = ("process\t", "other\t", "gone\t")  # the beginnings of lines about processes
_LONGEST_CHARACTER: Final = 4  # bytes (UTF-8)


class Batch(Generic[T]):
    """The events of one round, or a part of them."""

    __slots__ = ("dropped", "lines", "number", "sent", "size", "waiting")

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.size = 0  # characters
        self.dropped = 0  # events after them that found no room
        self.number = 0  # running number of the first event
        self.waiting: list[tuple[int, T]] = []  # with the index of the line that each waits for
        self.sent = 0.0  # monotonic

    @property
    def is_about_process(self) -> bool:
        """Whether all events are about the process itself and its relatives."""
        return all(line.startswith(_PROCESS_LINES) for line in self.lines)

    def add(self, line: str, waiting: T | None) -> None:
        """Add an event, and what waits for it."""
        if waiting is not None:
            self.waiting.append((len(self.lines), waiting))
        self.lines.append(line)
        self.size += len(line)

    def parts(self, most: int) -> list[Self]:
        """Return batches with these events whose lines have at most `most` bytes each.

        An event that has more by itself is shortened. If that does not suffice, it is in a part of its own.
        """
        if self.size * _LONGEST_CHARACTER <= most:
            return [self]  # the most frequent case
        waiting = dict(self.waiting)
        found: list[Self] = []
        room = 0
        for index, line in enumerate(self.lines):
            text, size = events.within(line, most)
            if not found or size > room:
                found.append(type(self)())
                found[-1].number, room = self.number + index, most
            found[-1].add(text, waiting.get(index))
            room -= size
        return found
