"""Messages that cannot be applied although they can be read: they are kept as rejected."""

from functools import partial
from typing import Final

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import MalformedProperties
from taskqueue.broker.outbound import Outbound
from taskqueue.broker.publisher import Publication, PublishResult
from taskqueue.broker.subscription import Delivery
from taskqueue.broker.topology import REJECTED_QUEUE, flow_queue
from taskqueue.flow.shard_queue import ShardQueue
from taskqueue.messages.forwarding import rejected
from taskqueue.process.logs import Log

_INTERNAL_ERROR: Final = "the flow process cannot apply it, an internal error: {}: {}"


class Aside:
    """Puts messages aside, among the rejected ones."""

    def __init__(self, outbound: Outbound, log: Log) -> None:
        self._outbound, self._log = outbound, log

    def put(self, queue: ShardQueue, delivery: Delivery, body: bytes, error: Exception) -> None:
        """Reject a message, and acknowledge it once it is kept.

        Args:
            queue: of the shard that it is from.
            delivery: the message.
            body: its body, which the delivery has no longer.
            error: why it cannot be applied.
        """
        reason = _INTERNAL_ERROR.format(type(error).__name__, error)
        name = flow_queue(queue.number).name
        self._log.critical("a message of %s is put aside as rejected: %s", name, reason, exc_info=error)
        try:
            properties = Properties.decode(delivery.properties)
            kept = rejected(properties, reason, name, self._outbound.session.amqp.user)
        except MalformedProperties:
            kept = rejected(Properties(), reason, name)
        publication = Publication(REJECTED_QUEUE, kept.encode(), body)
        self._outbound.send(publication, partial(self._kept, queue, delivery))

    def _kept(
        self,
        queue: ShardQueue,
        delivery: Delivery,
        publication: Publication,
        result: PublishResult,
        reason: str,
    ) -> None:
        if result is PublishResult.CONFIRMED:
            queue.settle(delivery)
        elif result is PublishResult.REFUSED:
            self._log.error("a message of taskqueue_flow_%d stays in its queue: %s", queue.number, reason)
        else:
            self._outbound.send_later(publication, partial(self._kept, queue, delivery))
