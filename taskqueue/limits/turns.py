"""The order in which permits are granted."""

import heapq
from collections.abc import Callable, Iterator
from typing import Final

from taskqueue.limits.definition import Key
from taskqueue.limits.occupancy import Occupancy

Keys = tuple[Key, ...]


class Turns:
    """Grants permits in the order of asking, as far as there is room.

    A permit needs room for all of its keys, and is granted for all of them or for none: so no two workitems
    wait for each other. An ask that finds no room lets those behind it pass that need other keys: a tenant
    that has used up its own limit does not keep others from a limit that they share.

    The asks of one consumer for the same keys are a line. Each line waits in one place: for room of one key,
    for its consumer to have a free worker, or, if it is new, for the next call of `grant`. Only lines whose
    place has room are looked at.
    """

    def __init__(self, occupancy: Occupancy) -> None:
        self._occupancy = occupancy
        self._askers: dict[str, _Asker] = {}
        self._count = 0  # of asks, so far
        self._new = _Place(lambda _now: True)
        self._blocked: dict[Key, _Place] = {}
        self._open: dict[_Place, None] = {}  # places that may have room
        self._due: list[tuple[float, Key]] = []  # a heap: when starts of blocked keys count no more

    # --- asks ---

    def ask(self, consumer: str, number: int, keys: Keys) -> None:
        """Ask for a permit; `number` is new among the consumer's."""
        asker = self._asker(consumer)
        line = asker.lines.get(keys)
        if line is None:
            line = asker.lines[keys] = _Line(asker, keys)
            self._count += 1
            line.asks[number] = self._count
            self._put(self._new, line)
        else:
            self._count += 1
            line.asks[number] = self._count
        asker.asks[number] = line

    def withdraw(self, consumer: str, number: int) -> bool:
        """Take back an ask; return whether there was one."""
        asker = self._askers.get(consumer)
        line = asker.asks.pop(number, None) if asker is not None else None
        if line is None:
            return False
        del line.asks[number]  # the line leaves its place when its turn comes
        return True

    def has(self, consumer: str, number: int) -> bool:
        """Tell whether a consumer has asked for a permit, and neither got it nor taken the ask back."""
        return consumer in self._askers and number in self._askers[consumer].asks

    def asked(self, consumer: str) -> list[int]:
        """Return the numbers of a consumer's asks."""
        asker = self._askers.get(consumer)
        return list(asker.asks) if asker is not None else []

    def number_of(self, consumer: str) -> int:
        """Return the number of a consumer's asks."""
        asker = self._askers.get(consumer)
        return len(asker.asks) if asker is not None else 0

    def set_capacity(self, consumer: str, capacity: int) -> None:
        """Set how many permits a consumer can use at once."""
        asker = self._asker(consumer)
        asker.capacity = capacity
        self._open[asker.place] = None

    def forget(self, consumer: str) -> None:
        """Drop all asks of a consumer."""
        for number in self.asked(consumer):
            self.withdraw(consumer, number)
        self._askers.pop(consumer, None)

    def _asker(self, consumer: str) -> "_Asker":
        asker = self._askers.get(consumer)
        if asker is None:
            asker = self._askers[consumer] = _Asker(consumer, self._occupancy)
        return asker

    # --- room ---

    def changed(self, consumer: str, keys: Keys) -> None:
        """Look again at the lines that wait for these keys or this consumer: a run has begun or ended."""
        if consumer in self._askers:
            self._open[self._askers[consumer].place] = None
        for key in keys:
            self._open_blocked(key)

    def look_at_all(self) -> None:
        """Look again at all lines: there may be room for keys that could not be remembered."""
        for place in self._blocked.values():
            place.tidy()
            self._open[place] = None

    def _open_blocked(self, key: Key) -> None:
        if key in self._blocked:
            self._open[self._blocked[key]] = None

    def next_due(self) -> float | None:
        """Return when `grant` should be called again, because starts count no more then; None if none do."""
        return self._due[0][0] if self._due else None

    # --- grants ---

    def grant(self, now: float) -> Iterator[tuple[str, int]]:
        """Grant what there is room for; yield the consumer and the number of each permit."""
        while self._due and self._due[0][0] <= now:
            key = heapq.heappop(self._due)[1]
            if key in self._blocked:
                self._blocked[key].due = None
                self._open_blocked(key)
        self._open[self._new] = None
        while self._open:
            place = next(iter(self._open))
            del self._open[place]
            while place.lines and place.has_room(now):
                line = heapq.heappop(place.lines)[2]
                number = self._try(line, place, now)
                if number is not None:
                    yield line.asker.consumer, number
            if place.key is not None:
                self._leave(place.key, place)

    def _try(self, line: "_Line", place: "_Place", now: float) -> int | None:
        """Grant the first ask of a line, or put the line where it must wait; return the ask's number."""
        asker = line.asker
        if not line.asks:
            asker.lines.pop(line.keys, None)
            return None
        if not asker.has_room(now):
            self._put(asker.place, line)
            return None
        for key in line.keys:
            if not self._occupancy.has_room(key, now):
                self._block(line, key)
                return None
        number = next(iter(line.asks))
        del line.asks[number], asker.asks[number]
        self._occupancy.grant(asker.consumer, number, line.keys)
        if line.asks:
            self._put(place, line)
        else:
            asker.lines.pop(line.keys, None)
        return number

    def _block(self, line: "_Line", key: Key) -> None:
        place = self._blocked.get(key)
        if place is None:
            place = self._blocked[key] = _Place(lambda now: self._occupancy.has_room(key, now), key)
        self._put(place, line)
        self._open[place] = None  # to plan when there may be room

    def _leave(self, key: Key, place: "_Place") -> None:
        """Plan when there may be room for the lines that a key blocks, if there are any."""
        if not place.lines:
            self._blocked.pop(key, None)
            return
        due = self._occupancy.due(key)
        if due is not None and due != place.due:
            place.due = due
            heapq.heappush(self._due, (due, key))

    @staticmethod
    def _put(place: "_Place", line: "_Line") -> None:
        first = next(iter(line.asks.values()))
        heapq.heappush(place.lines, (first, id(line), line))


class _Place:
    """The lines that wait, by the age of their first ask."""

    __slots__ = ("due", "has_room", "key", "lines")

    def __init__(self, has_room: Callable[[float], bool], key: Key | None = None) -> None:
        self.has_room, self.key = has_room, key
        self.lines: list[tuple[int, int, _Line]] = []  # a heap
        self.due: float | None = None  # when it will be looked at

    def tidy(self) -> None:
        """Drop the lines of which all asks were taken back."""
        for _, _, line in self.lines:
            if not line.asks:
                line.asker.lines.pop(line.keys, None)
        self.lines = [each for each in self.lines if each[2].asks]
        heapq.heapify(self.lines)


class _Asker:
    """A consumer that asks."""

    __slots__ = ("_occupancy", "asks", "capacity", "consumer", "lines", "place")

    def __init__(self, consumer: str, occupancy: Occupancy) -> None:
        self.consumer, self._occupancy = consumer, occupancy
        self.capacity = 0
        self.asks: dict[int, _Line] = {}
        self.lines: dict[Keys, _Line] = {}
        self.place: Final = _Place(self.has_room)

    def has_room(self, _now: float) -> bool:
        return len(self._occupancy.permits[self.consumer]) < self.capacity


class _Line:
    """The asks of a consumer for the same keys, in order."""

    __slots__ = ("asker", "asks", "keys")

    def __init__(self, asker: _Asker, keys: Keys) -> None:
        self.asker, self.keys = asker, keys
        self.asks: dict[int, int] = {}  # the place in the order of all asks, by number
