"""Cancels workitems: every consumer is told their ids."""

from collections.abc import Sequence

from taskqueue.amqp.properties import Properties
from taskqueue.broker.broadcast import BroadcastExchange
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.outbound import Outbound
from taskqueue.broker.publisher import Publication
from taskqueue.broker.session import Session
from taskqueue.broker.topology import CANCEL
from taskqueue.flow.answers import ignore
from taskqueue.process.logs import Log


class Cancels:
    """Tells consumers which workitems are cancelled."""

    def __init__(self, loop: EventLoop, session: Session, outbound: Outbound, log: Log) -> None:
        self._outbound, self._log = outbound, log
        self._exchange = BroadcastExchange(loop, session, CANCEL)

    def send(self, ids: Sequence[str]) -> None:
        """Tell consumers the ids of workitems."""

        def publish() -> None:
            for id_ in ids:
                properties = Properties(correlation_id=id_, delivery_mode=1).encode()
                said = Publication("", properties, b"", exchange=CANCEL, mandatory=False)
                self._outbound.send(said, ignore)

        self._exchange.provide(publish, lambda reason: self._log.error("%s", reason))
