"""Tells the scheduler which schedules the workers of a group declare."""

import socket
from collections.abc import Iterable
from typing import Final

from taskqueue.broker.loop import EventLoop
from taskqueue.broker.outbound import Outbound, OutboundListener
from taskqueue.broker.publisher import Publication, PublishResult
from taskqueue.broker.scheduling import announcement
from taskqueue.broker.session import Session
from taskqueue.process.logs import Log
from taskqueue.schedules.definition import Definition
from taskqueue.texts import shorten
from taskqueue.worker.frames import Service

_LONGEST: Final = 300  # characters of names in a log line
_DELAY: Final = 10.0  # seconds until the next attempt, while there is no scheduler
_READY_DELAY: Final = 1.0  # seconds until the next look, while the broker takes no messages


class Announcer:
    """Announces all schedules of a group's services, also that there are none: they may have been removed.

    It has a channel of its own. If a node is killed within half a second after a quorum queue was declared,
    the queue may have no leader for ever, and the channel of who publishes to it stops (RabbitMQ 3.10).
    """

    def __init__(self, loop: EventLoop, session: Session, group: str) -> None:
        self._loop = loop
        self._outbound = Outbound(loop, session, OutboundListener())
        self._source = f"host {socket.gethostname()}, group {group}"
        self._schedules: tuple[Definition, ...] = ()

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
            self._outbound.send(announcement(self._source, self._schedules), self._published)
        else:
            self._loop.call_later(_READY_DELAY, self._send)

    def _published(self, _publication: Publication, result: PublishResult, _reason: str) -> None:
        if self._schedules and result is not PublishResult.CONFIRMED:
            self._loop.call_later(_DELAY, self._send)
