"""Cancelling workitems by their ids, as a client does: a broadcast to all consumers for each."""

import time
from collections import deque
from collections.abc import Iterable
from typing import Final

from taskqueue.amqp.properties import Properties
from taskqueue.broker.broadcast import BroadcastExchange
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.outbound import Outbound, OutboundListener
from taskqueue.broker.publisher import Publication, PublishResult
from taskqueue.broker.session import Session
from taskqueue.broker.topology import CANCEL
from taskqueue.config import AmqpSettings
from taskqueue.errors import BrokerRefused, BrokerUnavailable, TaskqueueError
from taskqueue.messages.names import TENANT

_WINDOW: Final = 1000  # unconfirmed broadcasts at a time
_SILENCE: Final = 30.0  # seconds without a confirm after which it fails
_LOOK_DELAY: Final = 1.0  # seconds between two checks for that


#: A workitem's id, and its tenant; None for those of all tenants.
Named = tuple[str, str | None]


def cancel(amqp: AmqpSettings, workitems: Iterable[Named]) -> int:
    """Broadcast the cancellation of workitems; return their number once the broker has confirmed all.

    Consumers that are connected heed it, for workitems that they run or receive within a day.

    Raises:
        BrokerUnavailable: no connection, or it was lost, or the broker confirms nothing.
        BrokerRefused: wrong user, password or virtual host, or no right to publish there.
    """
    cancelling = _Cancelling(amqp, workitems)
    cancelling.run()
    return cancelling.done


class _Cancelling(OutboundListener):
    """One call of `cancel`."""

    def __init__(self, amqp: AmqpSettings, workitems: Iterable[Named]) -> None:
        self._loop = EventLoop()
        self._left = deque(workitems)
        self.done = 0
        self._unconfirmed = 0
        self._last_word = time.monotonic()
        self._error: TaskqueueError | None = None
        self._session = Session(self._loop, amqp, "taskqueue cancel", on_error=self._fail)
        self._outbound = Outbound(self._loop, self._session, self)
        self._exchange = BroadcastExchange(self._loop, self._session, CANCEL)

    def run(self) -> None:
        self._session.open()
        self._loop.call_later(_LOOK_DELAY, self._watch)
        try:
            self._loop.run()
        finally:
            self._loop.close()
        if self._error is not None:
            raise self._error

    def outbound_ready(self) -> None:
        """Find the exchange, then publish."""
        self._exchange.provide(self._feed, lambda reason: self._fail(BrokerRefused(reason)))

    def outbound_lost(self) -> None:
        """Fail."""
        self._fail(BrokerUnavailable("the connection to the broker was lost before all was done"))

    def _feed(self) -> None:
        while self._left and self._unconfirmed < _WINDOW:
            id_, tenant = self._left.popleft()
            properties = Properties(correlation_id=id_, delivery_mode=1)
            if tenant is not None:
                properties = properties.with_headers({TENANT: tenant})
            self._unconfirmed += 1
            publication = Publication("", properties.encode(), b"", exchange=CANCEL, mandatory=False)
            self._outbound.send(publication, self._published)
        if not self._left and not self._unconfirmed:
            self._session.close(self._loop.stop)

    def _published(self, _publication: Publication, result: PublishResult, reason: str) -> None:
        self._last_word = time.monotonic()
        self._unconfirmed -= 1
        if result is not PublishResult.CONFIRMED:
            self._fail(BrokerRefused(f"the broker refuses a cancellation: {reason or result.value}"))
            return
        self.done += 1
        self._feed()

    def _fail(self, error: TaskqueueError) -> None:
        self._error = self._error or error
        self._loop.stop()

    def _watch(self) -> None:
        if time.monotonic() - self._last_word > _SILENCE:
            self._fail(BrokerUnavailable(f"the broker has confirmed nothing for {_SILENCE:g} s"))
        self._loop.call_later(_LOOK_DELAY, self._watch)
