"""The steps of a write of the record, with either database."""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from taskqueue.messages.events import CONSUMER, Batch
from taskqueue.monitor.store.database import NameTable
from taskqueue.monitor.store.day_file import GROUPS, day_name
from taskqueue.monitor.store.emitters import Emitters
from taskqueue.monitor.store.item import Item, Key
from taskqueue.monitor.store.live import Live
from taskqueue.monitor.store.minutes import Minutes
from taskqueue.monitor.store.plan import Plan
from taskqueue.monitor.store.round import Round


class Writer:
    """Applies batches to the tables that a subclass has opened."""

    _names: NameTable
    _emitters: Emitters
    _live: Live
    _days: set[str]  # names of the files of days that are there

    def __init__(self) -> None:
        """Open nothing."""
        self._position: int | None = None
        self._began_at: float | None = None
        self._has_newcomer = False

    def _collect(self, batches: Iterable[tuple[int, Batch]], now: float) -> tuple[Plan, Minutes]:
        """Apply batches to what is not over and to the emitters; return what is over, and the counts."""
        round_ = Round(self._live, self._names, now)
        began_at = self._began_at
        if began_at is None:
            began_at = now
            self._set_began_at(now)
        for _, batch in batches:
            emitter = self._emitters.accept(batch, now, began_at)
            if emitter is not None and round_.add(batch.events, batch.emitter.host, emitter):
                self._has_newcomer |= batch.emitter.kind == CONSUMER
        round_.apply(self._find_over)
        plan = round_.finish(self._lines_of)
        self._emitters.take_relatives(round_.relatives, now)
        self._emitters.save()
        return plan, round_.minutes

    def take_newcomers(self) -> bool:
        """Return whether a consumer has begun to take work, by what was written since the last call."""
        has_newcomer, self._has_newcomer = self._has_newcomer, False
        return has_newcomer

    def _find_over(self, day: int, ids: AbstractSet[str]) -> Iterable[Item]:
        """Yield the workitems with some ids that were over on a day (days since 1970) or on a neighbour."""
        if not ids:
            return
        for near in (day - 1, day, day + 1):
            for group in GROUPS:
                name = f"{day_name(near)}.{group}.db"
                if name in self._days:
                    yield from self._find(name, ids)

    # --- for subclasses ---

    def _set_began_at(self, began_at: float) -> None:
        """Keep when the record begins."""
        raise NotImplementedError

    def _find(self, name: str, ids: AbstractSet[str]) -> Iterable[Item]:
        """Return the workitems with some ids that a day has, by the name of its file."""
        raise NotImplementedError

    def _lines_of(self, name: str, key: Key) -> set[tuple[float, str]]:
        """Return time and text of the lines that a day has of a workitem, by the name of its file."""
        raise NotImplementedError
