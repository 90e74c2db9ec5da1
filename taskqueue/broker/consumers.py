"""The AMQP consumers of a subscription: which there are, and what each of them has brought."""

from collections.abc import Iterable


class Consumers:
    """Counts them; the subscription speaks with the broker.

    One can be withheld: what is acknowledged before it is done with would else make room for more. What came
    by one that is no more, an orphan, counts against the number of the others until it is done with.
    """

    def __init__(self, most: int, prefetch: int) -> None:
        """Begin with none; there may be `most`, each with `prefetch` deliveries that are not done with."""
        self.tags: list[str] = []
        self.ahead = ""  # the tag of one beside them, which takes ahead; "" for none
        self.withheld = 0
        self._most, self._prefetch = most, prefetch
        self._came_by: dict[int, str] = {}  # by the tag of each delivery that is not done with
        self._orphans: set[int] = set()
        self._is_over = False

    @property
    def most(self) -> int:
        """How many there may be now."""
        return 0 if self._is_over else self._most - self.withheld - len(self._orphans) // self._prefetch

    @property
    def may_take_ahead(self) -> bool:
        """Whether there may be one that takes ahead: not beside what takes long."""
        return not self.withheld and not self._is_over

    @property
    def all(self) -> Iterable[str]:
        """The tags of all there are, with the one that takes ahead."""
        return [*self.tags, self.ahead] if self.ahead else tuple(self.tags)

    def came(self, delivery: int, tag: str) -> None:
        """Note which of them has brought a delivery."""
        self._came_by[delivery] = tag

    def done(self, delivery: int) -> None:
        """Note that a delivery is done with."""
        self._came_by.pop(delivery, None)
        self._orphans.discard(delivery)

    def remove(self, tag: str) -> None:
        """Note that one is no more."""
        if tag == self.ahead:
            self.ahead = ""
        else:
            self.tags.remove(tag)
        self._orphans |= {delivery for delivery, by in self._came_by.items() if by == tag}

    def withhold(self, delivery: int) -> str:
        """Let there be one fewer instead of a delivery; return the tag of the one that must go, "" for none.

        That is the one that has brought the delivery, else one that has brought nothing.
        """
        self.withheld += 1
        by = self._came_by.get(delivery, "")
        self.done(delivery)
        if by in self.tags:
            return by
        if len(self.tags) <= self._most - self.withheld:
            return ""
        busy = set(self._came_by.values())
        return next((tag for tag in self.tags if tag not in busy), self.tags[-1])

    def end(self) -> None:
        """Note that the broker has ended all of them; there may be others on another channel."""
        self.clear()
        self._is_over = True

    def clear(self) -> None:
        """Note that the channel is gone, with all of them."""
        self._is_over = False
        self.tags.clear()
        self.ahead = ""
        self._came_by.clear()
        self._orphans.clear()
