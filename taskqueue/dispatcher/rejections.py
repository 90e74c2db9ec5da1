"""Rejections of a dispatcher: the producer is told, and the message is kept in the rejected queue."""

import time
from collections.abc import Callable
from functools import partial

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import MalformedProperties
from taskqueue.broker import receipts
from taskqueue.broker.claims import end_of
from taskqueue.broker.outbound import Outbound
from taskqueue.broker.publisher import Publication
from taskqueue.broker.scheduling import completion_of
from taskqueue.broker.topology import REJECTED_QUEUE, TASKQUEUE
from taskqueue.dispatcher import refusals
from taskqueue.dispatcher.in_flight import InFlightMessage
from taskqueue.dispatcher.record import DispatchRecord
from taskqueue.dispatcher.replies import Replies
from taskqueue.errors import TaskqueueError, Unroutable
from taskqueue.messages import jsonrpc, names, results
from taskqueue.messages.content import JSON
from taskqueue.messages.forwarding import attributed, rejected
from taskqueue.messages.results import Failure
from taskqueue.process.logs import Log
from taskqueue.unique.wire import Result


class Rejections:
    """Rejects messages."""

    def __init__(
        self,
        outbound: Outbound,
        replies: Replies,
        record: DispatchRecord[InFlightMessage],
        *,
        publish: Callable[[InFlightMessage, str, bytes, bytes], None],
        on_recorded: Callable[[InFlightMessage], None],
    ) -> None:
        """Prepare.

        publish -- publishes a message to a queue, with its encoded properties and its body
        on_recorded -- takes a message once one more of its `unrecorded` is confirmed
        """
        self._outbound, self._replies, self._record = outbound, replies, record
        self._publish, self._on_recorded = publish, on_recorded
        self._log = Log("dispatcher")

    def reject(
        self,
        in_flight: InFlightMessage,
        reason: str,
        code: int = jsonrpc.SERVER_ERROR,
        error: type[TaskqueueError] = Unroutable,
    ) -> None:
        """Publish the rejection to a message's reply_to, if it has one; then keep the message.

        Args:
            in_flight: the message.
            reason: the reason for the rejection.
            code: the error code for a JSON-RPC response.
            error: the error type that the reply names.
        """
        self._log.warning("rejected: %s", reason, workitem=in_flight.id or None)
        in_flight.reason = reason
        in_flight.unrecorded += self._record.rejected(
            in_flight.id, in_flight.properties, in_flight.delivery.body, reason, in_flight
        )
        self._tell_of_end(in_flight, Failure(error.__name__, reason))
        if fault := refusals.reply_to_fault(in_flight.properties):
            self._log.warning("%s; ignored", fault, workitem=in_flight.id)
        failure = Failure(error.__name__, reason, code=code)
        answer = None if in_flight.has_reply else self._reply_for(in_flight, failure)
        if answer is None:
            self._keep(in_flight)
            return
        in_flight.has_reply = True
        self._replies.send(answer, lambda fault: self._replied(in_flight, fault))

    def reject_bare(self, in_flight: InFlightMessage, reason: str) -> None:
        """Keep at least the body: the properties and the reason together are too large."""
        in_flight.is_bare = True
        bare = Properties(message_id=in_flight.id or None)
        reasons = f"{in_flight.reason}; kept without its properties: {reason}"
        raw = rejected(bare, reasons, TASKQUEUE).encode()
        self._publish(in_flight, REJECTED_QUEUE, raw, in_flight.delivery.body)

    def _tell_of_end(self, in_flight: InFlightMessage, failure: Failure) -> None:
        """Tell the scheduler, the keeper and the workflow that the workitem is over, if they have to know."""
        result = Result(results.REJECTED, JSON, results.encode_failure(failure, None))
        told = [completion_of(in_flight.properties)]
        if in_flight.scope is not None:
            named = in_flight.properties.replace(message_id=in_flight.id)
            named = named.with_headers({names.CLAIM: in_flight.token})  # instead of a producer's
            told.append(end_of(named, in_flight.scope[0], time.time(), result))
        for publication in filter(None, told):
            in_flight.unrecorded += 1
            self._outbound.send(publication, lambda *_: self._on_recorded(in_flight))
        self.send_receipt(in_flight, result, str(failure))

    def send_receipt(self, in_flight: InFlightMessage, result: Result, error: str) -> None:
        """Tell the workflow whose step a message is that it is over.

        error -- why it did not succeed, in one line
        """
        properties = in_flight.properties
        if not receipts.is_step(properties):
            return
        known = attributed(properties, self._outbound.session.amqp.user)
        receipt = receipts.receipt_of(known, result, error, time.time())
        if receipt is not None:
            in_flight.unrecorded += 1
            done = partial(self._on_recorded, in_flight)
            receipts.send(self._outbound, receipt, done, self._log, in_flight.id)

    def _reply_for(self, in_flight: InFlightMessage, failure: Failure) -> Publication | None:
        return refusals.refusal(in_flight.properties, in_flight.id, in_flight.delivery.body, failure)

    def _replied(self, in_flight: InFlightMessage, fault: str) -> None:
        if fault:
            self._log.warning("cannot send the rejection to the producer: %s", fault, workitem=in_flight.id)
        self._keep(in_flight)

    def _keep(self, in_flight: InFlightMessage) -> None:
        login = self._outbound.session.amqp.user
        try:
            properties = rejected(in_flight.properties, in_flight.reason, TASKQUEUE, login)
        except MalformedProperties:
            bare = in_flight.properties.replace(header_table=None)
            properties = rejected(bare, in_flight.reason, TASKQUEUE, login)
        named = properties.replace(message_id=in_flight.id or None)  # not in x-taskqueue-original
        self._publish(in_flight, REJECTED_QUEUE, named.encode(), in_flight.delivery.body)
