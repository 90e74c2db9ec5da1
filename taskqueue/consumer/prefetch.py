"""How many workitems the workers of a group are given ahead: as many as take them a moment."""

from collections.abc import Callable
from typing import Final

from taskqueue.broker.loop import EventLoop

_MOMENT: Final = 0.05  # seconds that what waits for a worker may take it; others can have the rest
_CONFIRM: Final = 0.1  # seconds that a busy broker takes to confirm a result; until then its workitem counts
_SHORT: Final = 0.0002  # seconds; the longer workitems take than that, the less they keep the broker busy
_NEXT: Final = 0.005  # seconds that what a worker holds itself may take it
_OVERHEAD: Final = 0.0001  # seconds that a workitem takes beside its handler
_MOST_BYTES: Final = 4 * 1024 * 1024  # that are taken ahead for a worker
_MOST_TOGETHER: Final = 2000  # that are taken ahead for all workers: no more than a consumer soon passes on
_LOOK_DELAY: Final = 0.1  # seconds between two looks
_FIRST_DELAY: Final = 0.02  # seconds until the first, while nothing is taken ahead
_LONG: Final = 0.25  # seconds after which a workitem that still runs is long, whatever the others were
_SHARE: Final = 0.05  # of the newest workitem in the mean
_LONGEST: Final = 3600.0  # seconds; what a worker says of longer ones may be nonsense


class Prefetch:
    """Learns from how long workitems take, and tells when another prefetch is wanted.

    Short workitems are taken ahead, because the way from the broker to a worker takes longer than they do.
    Of long ones a worker has one at a time: whoever has room on another host takes the next.
    """

    def __init__(
        self,
        loop: EventLoop,
        most: int,
        workers: int,
        *,
        look: Callable[[], tuple[float, bool]],
        on_change: Callable[[], None],
    ) -> None:
        """Begin with one workitem a worker.

        most -- never more than so many for a worker
        workers -- how many workers there are; the more, the less is taken ahead for each
        look -- called while anything may be ahead: tells for how many seconds every worker has been at one
            workitem, 0 if one of them has room, and whether anything waits behind one
        on_change -- `value` is another
        """
        self.value = 1  # workitems that the broker may deliver for each worker
        self._loop = loop
        self._most = min(most, max(1, _MOST_TOGETHER // workers))
        self._look_at, self._on_change = look, on_change
        self._count = 0
        self._mean = 0.0  # seconds
        self._size = 0.0  # bytes of the larger ones of late
        self._is_looking = False
        self._is_idle = True  # whether nothing has come or was done since the last look

    @property
    def ahead(self) -> int:
        """How many of them a worker holds itself, the one that it performs included."""
        if self.value == 1:
            return 1
        return max(2, min(self.value, int(_NEXT / (self._mean + _OVERHEAD))))

    def came(self, size: int) -> None:
        """Note that a workitem was delivered whose body has so many bytes: of large ones there are fewer."""
        self._size = max(size, self._size)
        if self.value == 1:
            return
        self._look_soon()
        if self.value * size > 2 * _MOST_BYTES:
            self._set(self._wanted())

    def took(self, seconds: float) -> None:
        """Note how long a workitem took, as its worker says, which may be anything."""
        self._count += 1
        self._mean += (min(max(0.0, seconds), _LONGEST) - self._mean) * max(_SHARE, 1 / self._count)
        self._look_soon()

    def _look_soon(self) -> None:
        self._is_idle = False
        if not self._is_looking:
            self._look_later(_FIRST_DELAY if self.value == 1 else _LOOK_DELAY)

    def _look_later(self, delay: float) -> None:
        self._is_looking = True
        self._loop.call_later(delay, self._look)

    def _look(self) -> None:
        busy_for, is_ahead = self._look_at()
        self._is_looking = False
        before = self.value
        if busy_for > _LONG:  # it counts as one, so that prefetch comes back with as many short ones
            self._count, self._mean = 1, _MOMENT
            self._set(1)
        else:
            self._set(self._wanted())
        self._size *= 0.9
        if is_ahead or (not self._is_idle and max(self.value, before) > 1):
            self._look_later(_LOOK_DELAY)
        self._is_idle = True

    def _set(self, value: int) -> None:
        if value != self.value:
            self.value = value
            self._on_change()

    def _wanted(self) -> int:
        each = self._mean + _OVERHEAD
        moment = _MOMENT + _CONFIRM * min(1.0, _SHORT / each) ** 2  # squared, so that long ones add nothing
        exact = max(1, min(moment / each, _MOST_BYTES / (self._size + 1), self._most))
        if self.value / 2 < exact < self.value * 2:
            return self.value  # near enough: another prefetch costs another consumer
        return int(exact)
