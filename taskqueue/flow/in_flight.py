"""Workitems on their way to the broker: published, confirmed, and noted in the database."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final

from taskqueue.broker.loop import EventLoop
from taskqueue.broker.outbound import Outbound
from taskqueue.broker.publisher import Publication, PublishResult
from taskqueue.flow.outbox import Drawn, Run
from taskqueue.flow.routing import Routing

_WINDOW: Final = 1000  # unconfirmed workitems
_MOST_BYTES: Final = 64 * 1024 * 1024  # of unconfirmed workitems
_NOTE_DELAY: Final = 0.2  # seconds until confirms are noted though nothing else is

#: Runs whose workitems the broker has, and those that it refuses, with the reasons.
Settled = tuple[list[Run], list[tuple[Run, str]]]


@dataclass(slots=True, eq=False)
class _Flight:
    """A workitem on its way."""

    run: Run
    size: int  # bytes
    is_confirmed: bool = False
    is_unrecorded: bool = False  # whether the event on it is not recorded


class InFlight:
    """Publishes workitems within a window, and keeps what the next transaction has to note."""

    def __init__(
        self, loop: EventLoop, outbound: Outbound, routing: Routing, on_change: Callable[[], None]
    ) -> None:
        """Publish with `routing` over `outbound`.

        on_change -- called when there is something to note, or room for more
        """
        self._loop, self._outbound, self._routing, self._on_change = loop, outbound, routing, on_change
        #: Runs whose workitems are not confirmed, or whose events are not recorded.
        self.runs: dict[Run, _Flight] = {}
        self._bytes = 0  # of their workitems
        self.noted: list[Run] = []
        self.refused: list[tuple[Run, str]] = []
        self.is_more = False  # whether there may be ready steps that are not drawn
        self._is_timed = False  # whether a timer waits for what is to be noted

    @property
    def room(self) -> int:
        """Number of workitems to draw: none until there is room for many."""
        room = _WINDOW - len(self.runs)
        return 0 if room < _WINDOW // 2 or self._bytes > _MOST_BYTES else room

    def take_settled(self) -> Settled:
        """Return what is to be noted, for a transaction; `put_back` if that fails."""
        settled = self.noted, self.refused
        self.noted, self.refused = [], []
        return settled

    def put_back(self, settled: Settled) -> None:
        """Take back what could not be noted."""
        self.noted, self.refused = settled[0] + self.noted, settled[1] + self.refused

    def publish(self, drawn: Iterable[Drawn], *, is_more: bool) -> None:
        """Publish workitems.

        is_more -- whether there may be ready steps that are not drawn
        """
        self.is_more = is_more
        for each in drawn:
            size = len(each.body)
            flight = self.runs[each.run] = _Flight(each.run, size)
            self._bytes += size
            flight.is_unrecorded = self._routing.publish(
                each, partial(self._published, flight), partial(self._recorded, flight)
            )

    def forget(self) -> None:
        """Forget what is not confirmed: it is still in the database."""
        self.runs.clear()
        self._bytes = 0
        self.is_more = True

    def _published(
        self, flight: _Flight, publication: Publication, result: PublishResult, reason: str
    ) -> None:
        if result is PublishResult.CONFIRMED:
            flight.is_confirmed = True
            if not flight.is_unrecorded:
                self._land(flight)
        elif result is PublishResult.REFUSED:
            self._land(flight, reason)
        else:
            self._outbound.send_later(publication, partial(self._published, flight))

    def _recorded(self, flight: _Flight) -> None:
        flight.is_unrecorded = False
        if flight.is_confirmed:
            self._land(flight)

    def _land(self, flight: _Flight, refusal: str | None = None) -> None:
        """Have it noted that the broker has a workitem, or why it has refused it."""
        if self.runs.get(flight.run) is not flight:
            return  # forgotten
        if refusal is None:
            self.noted.append(flight.run)
        else:
            self.refused.append((flight.run, refusal))
        del self.runs[flight.run]
        self._bytes -= flight.size
        if self.is_more and self.room:
            self.is_more = False
            self._on_change()
        elif not self._is_timed:
            self._is_timed = True
            self._loop.call_later(_NOTE_DELAY, self._note)

    def _note(self) -> None:
        self._is_timed = False
        if self.noted or self.refused:
            self._on_change()
