"""Adaptive prefetch: the workers of a group take as many workitems ahead as they perform in 50 ms."""

from collections.abc import Callable
from typing import Final

from taskqueue.broker.loop import EventLoop

_MOMENT: Final = 0.05  # seconds of work that may wait for a worker; other consumers can have the rest
_CONFIRM: Final = 0.1  # seconds that a busy broker takes to confirm a result; its workitem counts until then
_SHORT: Final = 0.0002  # seconds; the longer workitems take beyond that, the less they load the broker
_NEXT: Final = 0.005  # seconds of work that a worker itself holds
_OVERHEAD: Final = 0.0001  # seconds that a workitem costs besides its handler
_MOST_BYTES: Final = 4 * 1024 * 1024  # bytes of bodies taken ahead for one worker
_MOST_TOGETHER: Final = 2000  # workitems taken ahead for all workers, as many as are passed on quickly
_CHECK_DELAY: Final = 0.1  # seconds between two checks
_FIRST_DELAY: Final = 0.02  # seconds until the first sample while the prefetch is 1
_LONG: Final = 0.25  # seconds after which a running workitem counts as long, regardless of the mean
_SHARE: Final = 0.05  # weight of the newest workitem in the mean
_LONGEST: Final = 3600.0  # seconds; a longer duration that a worker reports may be wrong, and is cut to this


class Prefetch:
    """Adapts the prefetch to the duration of workitems.

    Short workitems are taken ahead, because the way from the broker to a worker takes longer than they do. A
    worker has only one long workitem at a time, so that a worker with room on another host gets the next one.
    """

    def __init__(
        self,
        loop: EventLoop,
        most: int,
        workers: int,
        *,
        sample: Callable[[], tuple[float, bool]],
        on_change: Callable[[], None],
    ) -> None:
        """Begin with a prefetch of 1.

        most -- maximum prefetch, in workitems a worker
        workers -- number of workers; the more workers, the less is taken ahead for each
        sample -- called regularly while workitems may be ahead; returns the seconds for which every worker
            has been busy with one workitem (0 if a worker is idle), and whether one waits behind another
        on_change -- called when `value` has changed
        """
        self.value = 1  # workitems that the broker may deliver for each worker
        self._loop = loop
        self._most_each = most
        self.resize(workers)
        self._sample, self._on_change = sample, on_change
        self.ended, self.run_time = 0, 0.0  # runs so far, and their seconds together
        self._count = 0
        self._mean = 0.0  # seconds
        self._size = 0.0  # bytes; a decaying maximum of the size of bodies
        self._is_check_due = False
        self._is_idle = True  # whether no workitem was delivered or performed since the last sample

    def resize(self, workers: int) -> None:
        """Take ahead for another number of workers."""
        self._most = min(self._most_each, max(1, _MOST_TOGETHER // max(workers, 1)))

    @property
    def ahead(self) -> int:
        """The number of them that a worker itself holds, including the one that it performs."""
        if self.value == 1:
            return 1
        return max(2, min(self.value, int(_NEXT / (self._mean + _OVERHEAD))))

    def delivered(self, size: int) -> None:
        """Record the delivery of a workitem with a body of `size` bytes; large bodies reduce the prefetch."""
        self._size = max(size, self._size)
        if self.value == 1:
            return
        self._check_soon()
        if self.value * size > 2 * _MOST_BYTES:
            self._set(self._wanted())

    def performed(self, seconds: float) -> None:
        """Record the duration of a workitem in seconds, as its worker reports it; any value is tolerated."""
        seconds = min(max(0.0, seconds), _LONGEST)
        self.ended += 1
        self.run_time += seconds
        self._count += 1
        self._mean += (seconds - self._mean) * max(_SHARE, 1 / self._count)
        self._check_soon()

    def _check_soon(self) -> None:
        self._is_idle = False
        if not self._is_check_due:
            self._check_later(_FIRST_DELAY if self.value == 1 else _CHECK_DELAY)

    def _check_later(self, delay: float) -> None:
        self._is_check_due = True
        self._loop.call_later(delay, self._check)

    def _check(self) -> None:
        busy_for, is_ahead = self._sample()
        self._is_check_due = False
        before = self.value
        if busy_for > _LONG:  # the mean restarts, so that a few short ones raise the prefetch
            self._count, self._mean = 1, _MOMENT
            self._set(1)
        else:
            self._set(self._wanted())
        self._size *= 0.9
        if is_ahead or (not self._is_idle and max(self.value, before) > 1):
            self._check_later(_CHECK_DELAY)
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
            return self.value  # near enough: a change of prefetch costs a new consumer
        return int(exact)
