"""The permits in use and the starts that still count: the state of the gate that outlives its process."""

import heapq
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from taskqueue.limits.checks import count_of, keys_of, text_of, time_of
from taskqueue.limits.definition import LONGEST_PERIOD, MOST_STARTS, Key, Limit

#: Maximum number of keys that are known at once; a workitem of a further one waits.
MOST_KEYS: Final = 100_000

#: The kinds of changes: a consumer is known, a permit is granted, its run starts, it ends; one is gone.
_KNOWN, _GRANTED, _STARTED, _ENDED, _GONE = "known", "granted", "started", "ended", "gone"

#: Exceptions for what no gate has written.
WRONG: Final = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)

_PARTS: Final = 5  # of a consumer's identity


@dataclass(slots=True, eq=False)
class Permit:
    """The right of one consumer to run one workitem."""

    keys: tuple[Key, ...]
    started: float | None = None  # seconds since 1970; None: it may start at any moment


class _Slots:
    """The workitems that count against the limit of one key.

    A start counts from its time on for a period. A permit whose run has not started counts, too: it may start
    at any moment.
    """

    __slots__ = ("limit", "permits", "starts", "unstarted")

    def __init__(self, limit: Limit | None) -> None:
        self.limit = limit  # None: no section defines it here
        self.permits = 0
        self.unstarted = 0
        self.starts: list[float] = []  # a heap

    def has_room(self, now: float) -> bool:
        limit = self.limit
        if limit is None or (limit.concurrency is not None and self.permits >= limit.concurrency):
            return False
        if limit.starts is None:
            return True
        self.forget(now)
        return self.unstarted + len(self.starts) < limit.starts

    def start(self, at: float) -> int:
        """Count a start from its time on; return by how much the number of starts grows."""
        self.unstarted -= 1
        if self.limit is not None and self.limit.starts is None:
            return 0
        heapq.heappush(self.starts, at)
        return 1

    def forget(self, now: float) -> None:
        """Forget the starts of which the period is over."""
        while self.starts and self.starts[0] + self._period <= now:
            heapq.heappop(self.starts)

    @property
    def due(self) -> float | None:
        """When the first start counts no more; None if none counts."""
        return self.starts[0] + self._period if self.starts else None

    @property
    def _period(self) -> float:
        return self.limit.period if self.limit is not None else LONGEST_PERIOD


class Occupancy:
    """Permits and starts. Each method records its change, so that another process can repeat it."""

    def __init__(
        self, limits: Mapping[str, Limit], *, most_keys: int = MOST_KEYS, most_starts: int = MOST_STARTS
    ) -> None:
        """Begin with all limits unused.

        limits -- by name; of a limit that is not among them, nothing is granted
        most_keys -- maximum number of keys in use
        most_starts -- maximum number of starts that are remembered
        """
        self._limits = limits
        self._most_keys, self._most_starts = most_keys, most_starts
        self.consumers: dict[str, tuple[str, ...]] = {}  # the identity of each
        self.permits: defaultdict[str, dict[int, Permit]] = defaultdict(dict)  # by consumer and number
        self._slots: dict[Key, _Slots] = {}
        self._starts = 0  # number of remembered starts; too large until `forget`
        self._changes: list[list[Any]] = []

    # --- questions ---

    def has_room(self, key: Key, now: float) -> bool:
        """Tell whether one more permit of a key fits."""
        slots = self._slots.get(key)
        if self._starts >= self._most_starts or (slots is None and len(self._slots) >= self._most_keys):
            return False
        return (slots or _Slots(self._limits.get(key.limit))).has_room(now)

    @property
    def is_full(self) -> bool:
        """Whether no new key, or no new start, can be remembered."""
        return self._starts >= self._most_starts or len(self._slots) >= self._most_keys

    def due(self, key: Key) -> float | None:
        """Return when the first start of a key counts no more; None if none counts."""
        slots = self._slots.get(key)
        return slots.due if slots is not None else None

    def in_use(self) -> Iterator[tuple[Key, int, int]]:
        """Yield the keys, each with the number of its permits and of the starts that count."""
        for key, slots in self._slots.items():
            yield key, slots.permits, slots.unstarted + len(slots.starts)

    # --- changes ---

    def know(self, consumer: str, identity: Collection[str]) -> None:
        """Take note of a consumer."""
        self._change(_KNOWN, consumer, list(identity))

    def grant(self, consumer: str, number: int, keys: tuple[Key, ...]) -> None:
        """Grant a permit."""
        self._change(_GRANTED, consumer, number, [list(key) for key in keys])

    def start(self, consumer: str, number: int, at: float) -> None:
        """Take note of the start of a run; `at` is not before it."""
        permit = self.permits[consumer].get(number)
        if permit is not None and permit.started is None:
            self._change(_STARTED, consumer, number, at)

    def end(self, consumer: str, number: int, started: float | None) -> None:
        """End a permit. `started` is not before the start of its run; None: it was not used."""
        if number in self.permits[consumer]:
            self._change(_ENDED, consumer, number, started)

    def gone(self, consumer: str, at: float) -> None:
        """End all permits of a consumer whose runs are over at a time."""
        self._change(_GONE, consumer, at)

    def take_changes(self) -> list[list[Any]]:
        """Return the changes since the last call."""
        changes, self._changes = self._changes, []
        return changes

    def apply(self, change: list[Any]) -> None:
        """Repeat a change from the log. Raises one of WRONG for what is none."""
        kind, consumer, *rest = change
        checked: list[Any] = [text_of(kind), text_of(consumer)]
        if kind == _KNOWN:
            checked.append(_identity_of(rest[0]))
        elif kind == _GONE:
            checked.append(time_of(rest[0]))
        else:
            number = count_of(rest[0])
            self._check_turn(kind, consumer, number)
            checked.append(number)
            if kind == _GRANTED:
                checked.append(keys_of(rest[1]))
            else:
                checked.append(rest[1] if rest[1] is None and kind == _ENDED else time_of(rest[1]))
        self._apply(*checked)

    def _check_turn(self, kind: str, consumer: str, number: int) -> None:
        """Raise KeyError or ValueError for a change of a permit that is not in the state before it."""
        if kind == _GRANTED:
            if number in self.permits[consumer]:
                raise ValueError("a permit is granted twice")
        elif self.permits[consumer][number].started is not None and kind == _STARTED:
            raise ValueError("a run starts twice")

    def _apply(self, kind: str, consumer: str, *rest: Any) -> None:
        if kind == _KNOWN:
            self.consumers[consumer] = tuple(rest[0])
        elif kind == _GRANTED:
            self._grant(consumer, rest[0], tuple(Key(*key) for key in rest[1]))
        elif kind == _STARTED:
            self._start(self.permits[consumer][rest[0]], rest[1])
        elif kind == _ENDED:
            self._end(consumer, rest[0], rest[1])
        elif kind == _GONE:
            for number in list(self.permits[consumer]):
                self._end(consumer, number, rest[0])
            self.consumers.pop(consumer, None)
            del self.permits[consumer]
        else:
            raise ValueError(f"an unknown change {kind!r}")

    def _change(self, *change: Any) -> None:
        self._apply(*change)
        self._changes.append(list(change))

    def _grant(self, consumer: str, number: int, keys: tuple[Key, ...]) -> None:
        self.permits[consumer][number] = Permit(keys)
        for key in keys:
            slots = self._slots.get(key)
            if slots is None:
                slots = self._slots[key] = _Slots(self._limits.get(key.limit))
            slots.permits += 1
            slots.unstarted += 1

    def _start(self, permit: Permit, at: float) -> None:
        permit.started = at
        for key in permit.keys:
            self._starts += self._slots[key].start(at)

    def _end(self, consumer: str, number: int, started: float | None) -> None:
        permit = self.permits[consumer].pop(number)
        if permit.started is None and started is not None:
            self._start(permit, started)
        for key in permit.keys:
            slots = self._slots[key]
            slots.permits -= 1
            slots.unstarted -= permit.started is None
            self._drop_if_unused(key, slots)

    def _drop_if_unused(self, key: Key, slots: _Slots) -> None:
        if not (slots.permits or slots.starts):
            del self._slots[key]

    def forget(self, now: float) -> None:
        """Forget the starts that count no more, and the keys that have none. Called now and then."""
        for key, slots in list(self._slots.items()):
            slots.forget(now)
            self._drop_if_unused(key, slots)
        self._starts = sum(len(slots.starts) for slots in self._slots.values())

    # --- the whole state ---

    def snapshot(self) -> dict[str, Any]:
        """Return the state as JSON has it."""
        permits = [
            [consumer, number, [list(key) for key in permit.keys], permit.started]
            for consumer, numbers in self.permits.items()
            for number, permit in numbers.items()
        ]
        return {
            "consumers": {name: list(identity) for name, identity in self.consumers.items()},
            "permits": permits,
            "starts": [
                [list(key), sorted(slots.starts)] for key, slots in self._slots.items() if slots.starts
            ],
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Take over the state of `snapshot`; it replaces this one. Raises one of WRONG if it is none."""
        self.consumers = {
            text_of(name): _identity_of(identity) for name, identity in snapshot["consumers"].items()
        }
        self.permits.clear()
        self._slots.clear()
        for consumer, number, keys, started in snapshot["permits"]:
            self._check_turn(_GRANTED, text_of(consumer), count_of(number))
            self._grant(consumer, number, keys_of(keys))
            if started is not None:
                self._restore_start(self.permits[consumer][number], time_of(started))
        for raw, starts in snapshot["starts"]:
            (key,) = keys_of([raw])
            slots = self._slots.setdefault(key, _Slots(self._limits.get(key.limit)))
            slots.starts = sorted([*slots.starts, *map(time_of, starts)])  # which is a heap
        self._starts = sum(len(slots.starts) for slots in self._slots.values())

    def _restore_start(self, permit: Permit, started: float) -> None:
        permit.started = started
        for key in permit.keys:
            self._slots[key].unstarted -= 1

    def not_after(self, now: float) -> None:
        """Move starts that are in the future to now: the clock of another host was ahead."""
        for slots in self._slots.values():
            slots.starts = sorted(min(at, now) for at in slots.starts)


def _identity_of(value: Any) -> tuple[str, ...]:
    parts = tuple(map(text_of, value))
    if len(parts) != _PARTS:
        raise ValueError("expected an identity")
    return parts
