"""Tells the scheduler which schedules the workers of a group declare."""

import socket
from collections.abc import Iterable
from typing import Final

from taskqueue.broker.loop import EventLoop
from taskqueue.broker.outbound import Outbound
from taskqueue.broker.publisher import Publication, PublishResult
from taskqueue.broker.scheduling import announcement
from taskqueue.process.logs import Log
from taskqueue.schedules.definition import Definition
from taskqueue.texts import shorten
from taskqueue.worker.frames import Service

_LONGEST: Final = 300  # characters of names in a log line
_DELAY: Final = 10.0  # seconds until the next attempt, while there is no scheduler
_READY_DELAY: Final = 1.0  # seconds until the next look, while the broker takes no messages


class Announcer:
    """Announces all schedules of a group's services, also that there are none: they may have been removed."""

    def __init__(self, loop: EventLoop, outbound: Outbound, group: str) -> None:
        self._loop, self._outbound = loop, outbound
        self._source = f"host {socket.gethostname()}, group {group}"
        self._schedules: tuple[Definition, ...] = ()
        self._is_unconfirmed = False

    @property
    def dispensable(self) -> int:
        """Number of unconfirmed announcements that a process need not wait for to end, under an alarm."""
        return int(self._is_unconfirmed and self._outbound.session.is_blocked)

    def announce(self, services: Iterable[Service]) -> None:
        """Make the announcement once the broker takes messages, and again until there is a scheduler."""
        self._schedules = tuple(each for service in services for each in service.schedules)
        self._send()

    def tell_end(self, log: Log) -> None:
        """Log that the schedules go on when the group's workers end, and what ends them."""
        if self._schedules:
            names = shorten(", ".join(sorted(each.name for each in self._schedules)), _LONGEST)
            log.info(
                "schedules go on without these workers, and their workitems wait: %s; "
                "`taskqueue schedule remove --force NAME` ends one",
                names,
            )

    def _send(self) -> None:
        if self._outbound.is_ready and not self._outbound.session.is_blocked:
            self._is_unconfirmed = True
            self._outbound.send(announcement(self._source, self._schedules), self._published)
        else:
            self._loop.call_later(_READY_DELAY, self._send)

    def _published(self, _publication: Publication, result: PublishResult, _reason: str) -> None:
        self._is_unconfirmed = False
        if self._schedules and result is not PublishResult.CONFIRMED:
            self._loop.call_later(_DELAY, self._send)
