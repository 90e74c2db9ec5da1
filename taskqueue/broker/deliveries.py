"""The AMQP consumers of a subscription, and its unacknowledged deliveries."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

_MOST_REMOVED: Final = 1000  # tags that were acknowledged out of order and are still in the sequence


class Consumers:
    """Counts the AMQP consumers of a subscription, which talks to the broker itself.

    A consumer can be withheld: a delivery that is acknowledged before its workitem ends would make room for
    another one. A delivery of a cancelled consumer, an orphan, counts against the number of consumers until
    it is done.
    """

    def __init__(self, most: int, prefetch: int) -> None:
        """Begin with none; there may be `most`, each with a prefetch of `prefetch` deliveries."""
        self.tags: list[str] = []
        self.ahead = ""  # the tag of the additional consumer that takes ahead; "" for none
        self.withheld = 0
        self._most, self._prefetch = most, prefetch
        self._consumer_of: dict[int, str] = {}  # consumer tag by the tag of each delivery that is not done
        self._orphans: set[int] = set()
        self._is_over = False

    @property
    def most(self) -> int:
        """Maximum number of consumers at present."""
        return 0 if self._is_over else self._most - self.withheld - len(self._orphans) // self._prefetch

    def resize(self, most: int) -> list[str]:
        """Set the maximum number; return the tags of consumers to cancel: first those without a delivery."""
        self._most = most
        busy = set(self._consumer_of.values())
        excess = max(0, len(self.tags) - max(0, most - self.withheld))
        return sorted(self.tags, key=lambda tag: tag in busy)[:excess]

    @property
    def may_take_ahead(self) -> bool:
        """Whether a consumer may take ahead: not while a long delivery withholds one."""
        return not self.withheld and not self._is_over

    @property
    def all(self) -> Iterable[str]:
        """The tags of all consumers, including the one that takes ahead."""
        return [*self.tags, self.ahead] if self.ahead else tuple(self.tags)

    def delivered(self, delivery: int, tag: str) -> None:
        """Record the consumer of a delivery."""
        self._consumer_of[delivery] = tag

    def done(self, delivery: int) -> None:
        """Record that a delivery is done."""
        self._consumer_of.pop(delivery, None)
        self._orphans.discard(delivery)

    def remove(self, tag: str) -> None:
        """Remove a consumer; its deliveries become orphans."""
        if tag == self.ahead:
            self.ahead = ""
        else:
            self.tags.remove(tag)
        self._orphans |= {delivery for delivery, by in self._consumer_of.items() if by == tag}

    def withhold(self, delivery: int) -> str:
        """Withhold a consumer for a delivery; return the tag of the consumer to cancel, "" for none.

        It is the delivery's own consumer, else one without a delivery.
        """
        self.withheld += 1
        by = self._consumer_of.get(delivery, "")
        self.done(delivery)
        if by in self.tags:
            return by
        if len(self.tags) <= self._most - self.withheld:
            return ""
        busy = set(self._consumer_of.values())
        return next((tag for tag in self.tags if tag not in busy), self.tags[-1])

    def end(self) -> None:
        """Record that the broker has cancelled all consumers; new ones need another channel."""
        self.clear()
        self._is_over = True

    def clear(self) -> None:
        """Forget all consumers: the channel is closed."""
        self._is_over = False
        self.tags.clear()
        self.ahead = ""
        self._consumer_of.clear()
        self._orphans.clear()


class Unacknowledged:
    """The tags of the unacknowledged deliveries, in order, and the bytes of their bodies."""

    def __init__(self, hold: int, most_bytes: int | None) -> None:
        """Begin with none.

        hold -- maximum number of settled deliveries behind the first unsettled one
        most_bytes -- maximum bytes of all bodies; None: they are not counted
        """
        self._hold, self._most_bytes = hold, most_bytes
        self._order: deque[int] = deque()  # all tags, including those of _removed
        self._removed: set[int] = set()  # acknowledged out of order
        self._settled: set[int] = set()
        self._abandoned: set[int] = set()  # never acknowledged
        self._sizes: dict[int, int] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._order) - len(self._removed) - len(self._abandoned)

    @property
    def is_too_much(self) -> bool:
        """Whether the bodies have too many bytes."""
        return self._most_bytes is not None and self._bytes > self._most_bytes

    @property
    def has_room(self) -> bool:
        """Whether at most half of the bytes are in use."""
        return self._most_bytes is not None and self._bytes <= self._most_bytes // 2

    def add(self, tag: int, size: int) -> None:
        """Add a delivery whose body has `size` bytes."""
        self._order.append(tag)
        if self._most_bytes is not None:
            self._sizes[tag] = size
            self._bytes += size

    def settle(self, tag: int) -> None:
        """Record that a delivery may be acknowledged."""
        self._settled.add(tag)
        self._count_out(tag)

    def abandon(self, tag: int) -> None:
        """Record that a delivery is never acknowledged."""
        self._abandoned.add(tag)
        self._count_out(tag)

    def remove(self, tag: int) -> None:
        """Drop a tag. It leaves the sequence later, with many others: a search for each would take time."""
        self._removed.add(tag)
        if len(self._removed) > _MOST_REMOVED and len(self._removed) > len(self._order) // 2:
            self._order = deque(each for each in self._order if each not in self._removed)
            self._removed.clear()

    def acknowledgements(self) -> Iterator[tuple[int, bool]]:
        """Yield the acknowledgements to send: a delivery tag, and `multiple`."""
        last, order, settled, gone = 0, self._order, self._settled, self._removed
        while order and (order[0] in settled or order[0] in gone):
            tag = order.popleft()
            if tag in settled:
                settled.discard(tag)
                last = tag
            else:
                gone.discard(tag)
        if last:
            yield last, True
        if len(settled) > self._hold or self._abandoned:
            yield from self.held_acknowledgements()

    @property
    def holding(self) -> int:
        """The tag of the unsettled delivery behind which settled ones are not acknowledged; 0 for none."""
        return self._order[0] if self._settled and self._order else 0

    def held_acknowledgements(self) -> Iterator[tuple[int, bool]]:
        """Yield one acknowledgement for each settled delivery, also behind an unsettled one."""
        for tag in sorted(self._settled):
            yield tag, False
            self.remove(tag)
        self._settled.clear()

    def clear(self) -> None:
        """Forget all deliveries: the channel is closed."""
        for each in (self._order, self._removed, self._settled, self._abandoned, self._sizes):
            each.clear()
        self._bytes = 0

    def _count_out(self, tag: int) -> None:
        self._bytes -= self._sizes.pop(tag, 0)
