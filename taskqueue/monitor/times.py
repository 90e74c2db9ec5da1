"""The times of events as the recorder accepts them: whoever may publish events may claim any time."""

import time
from collections.abc import Mapping
from typing import Any, Final

from taskqueue.errors import LONGEST_DELAY
from taskqueue.messages.events import KINDS, Batch, Emitter
from taskqueue.process.logs import Log, Tally

_AHEAD: Final = 86400.0  # seconds by which the clock of another host may be ahead
_OWN: Final = ("at", "ended")  # of an event; the day of a workitem's last one decides in which file it is
_PAST: Final = ("started", "queued", "failed")
_FUTURE: Final = ("due", "again_at")


def _indices(kind: type[Any], names: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(kind._fields.index(name) for name in names if name in kind._fields)


#: The indices of times in events: own ones, other past ones, future ones.
_TIMES: Final[Mapping[type[Any], tuple[int, tuple[int, ...], tuple[int, ...]]]] = {
    kind: (_indices(kind, _OWN)[0], _indices(kind, _PAST), _indices(kind, _FUTURE)) for kind in KINDS.values()
}


class Times:
    """Replaces times of events that are too old or in the future.

    Each day of the record has files of its own: times decide how many files are made and opened.
    """

    def __init__(self, oldest: float) -> None:
        """Accept events of this age in seconds; the record keeps no older ones."""
        self._oldest = oldest
        self._tally = Tally(
            Log("recorder"), "replaced the times of %d events, too old or in the future; the last was of %s"
        )

    def correct(self, batch: Batch, now: float | None = None) -> None:
        """Replace impossible times in a batch by the nearest possible ones.

        now -- seconds since 1970; None: the clock of this host
        """
        now = time.time() if now is None else now
        for number, event in enumerate(batch.events):
            corrected = self._corrected(event, now)
            if corrected is not event:
                batch.events[number] = corrected
                self._tally.count(_short(batch.emitter))

    def _corrected(self, event: Any, now: float) -> Any:
        own, past, future = _TIMES[type(event)]
        earliest, latest = now - self._oldest, now + _AHEAD
        wrong: dict[int, float] = {}
        if not earliest <= event[own] <= latest:
            wrong[own] = min(max(event[own], earliest), latest)
        for index in past:
            if event[index] is not None and event[index] > latest:
                wrong[index] = latest
        for index in future:
            if event[index] is not None and event[index] > latest + LONGEST_DELAY:
                wrong[index] = latest + LONGEST_DELAY
        if not wrong:
            return event
        return type(event)(*[wrong.get(index, value) for index, value in enumerate(event)])


def _short(emitter: Emitter) -> str:
    return f"{str(emitter)[:200]!r}"
