"""Unique workitems in a dispatcher: each is routed, dropped or sent to wait, as the keeper says."""

import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from taskqueue.amqp.properties import Properties
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.outbound import Outbound
from taskqueue.broker.session import Session
from taskqueue.broker.topology import TASKQUEUE
from taskqueue.dispatcher.duplicates import answer_to, is_own_key, question
from taskqueue.dispatcher.in_flight import InFlightMessage
from taskqueue.dispatcher.questions import Questions
from taskqueue.dispatcher.record import DispatchRecord
from taskqueue.dispatcher.replies import Replies
from taskqueue.messages import names
from taskqueue.messages.content import JSON
from taskqueue.process.logs import Log
from taskqueue.unique.claims import MOST_CLAIMS
from taskqueue.unique.headers import Unique
from taskqueue.unique.wire import Answer, Ask, Result, Verdict


class Routed(NamedTuple):
    """A workitem that is ready to be published."""

    worker_type: str
    properties: Properties  # as received, with an id
    raw: bytes  # as they are published, encoded
    body: bytes  # as it is published
    wait: float | None  # seconds until it is due; None: now
    is_recorded: bool  # whether an event has told of it, when it began to wait for its debounce time


class Owner(Protocol):
    """The dispatcher, as it acts on the keeper's answers."""

    def route(self, in_flight: InFlightMessage, routed: Routed) -> None:
        """Publish a workitem to the queue of its worker type."""

    def publish(
        self, in_flight: InFlightMessage, queue: str, raw: bytes, body: bytes, wait: float | None
    ) -> None:
        """Publish a message."""

    def reject(self, in_flight: InFlightMessage, reason: str) -> None:
        """Reject a message."""

    def send_receipt(self, in_flight: InFlightMessage, result: Result, error: str) -> None:
        """Tell the workflow whose step a message is that it is over."""

    def recorded(self, in_flight: InFlightMessage) -> None:
        """Go on with a message of whose `unrecorded` one more is confirmed."""


class Uniqueness:
    """Asks the keeper for the keys of workitems, and acts on the answers."""

    def __init__(
        self,
        loop: EventLoop,
        session: Session,
        outbound: Outbound,
        *,
        record: DispatchRecord[InFlightMessage],
        replies: Replies,
        owner: Owner,
    ) -> None:
        self._questions = Questions(loop, session, outbound)
        self.forget_all: Callable[[], None] = self._questions.forget_all
        self._record, self._replies, self._owner = record, replies, owner
        self._log = Log("dispatcher")

    def ask(self, in_flight: InFlightMessage, unique: Unique, routed: Routed) -> None:
        """Ask for a workitem's key; it is not acknowledged before the answer."""
        if unique.is_settled and routed.wait is not None:  # it came from a delay queue early
            self._owner.publish(in_flight, TASKQUEUE, routed.raw, routed.body, routed.wait)
            return
        ask = question(unique, in_flight.properties, in_flight.id, routed.body, routed.wait)
        in_flight.number = self._questions.ask(
            ask, lambda answer: self._answered(in_flight, ask, routed, answer)
        )

    def published(self, in_flight: InFlightMessage) -> None:
        """Tell the keeper, before a workitem is acknowledged, that it will not have to be routed again."""
        if in_flight.scope is not None and in_flight.number:
            in_flight.unrecorded += 1
            number, in_flight.number = in_flight.number, 0
            self._questions.routed(number, lambda: self._owner.recorded(in_flight))

    def _answered(self, in_flight: InFlightMessage, ask: Ask, routed: Routed, answer: Answer) -> None:
        if answer.verdict is Verdict.MINE:
            in_flight.scope, in_flight.token = ask.scope, ask.token
            if answer.wait:
                self._record_waiting(in_flight, routed, answer.wait)
                self._wait(in_flight, routed, answer.wait)
            else:
                claimed = Properties.decode(routed.raw).with_headers({names.CLAIM: ask.token})
                self._owner.route(in_flight, routed._replace(raw=claimed.encode()))
            return
        self._questions.forget(in_flight.number)
        in_flight.number = 0
        if answer.verdict is Verdict.LATER:
            self._log.info("waits on: %s has its key", answer.owner, workitem=in_flight.id)
            self._wait(in_flight, routed, answer.wait)
        elif answer.verdict is Verdict.FULL and is_own_key(ask.scope, ask.id):
            self._owner.route(in_flight, routed)  # to run twice, perhaps, is better than not at all
        elif answer.verdict is Verdict.FULL:
            self._owner.reject(in_flight, f"{MOST_CLAIMS} keys of unique work are in use")
        elif answer.verdict is Verdict.HERE:
            self._log.info("dropped: it has been routed before", workitem=in_flight.id)
            self._drop(in_flight)
        else:
            self._log.info("dropped: it is a duplicate of %s", answer.owner, workitem=in_flight.id)
            self._tell_producer(in_flight, ask, routed, answer)

    def _record_waiting(self, in_flight: InFlightMessage, routed: Routed, wait: float) -> None:
        in_flight.unrecorded += self._record.routed(
            routed.worker_type, routed.properties, routed.body, max(wait, routed.wait or 0.0), in_flight
        )

    def _wait(self, in_flight: InFlightMessage, routed: Routed, wait: float) -> None:
        """Let a debounced workitem come to a dispatcher again after some seconds."""
        wait = max(wait, routed.wait or 0.0)
        headers = {names.DEBOUNCED: True, names.DUE: time.time() + wait, names.WAIT: float(wait)}
        raw = Properties.decode(routed.raw).with_headers(headers).encode()
        self._owner.publish(in_flight, TASKQUEUE, raw, routed.body, wait)

    def _tell_producer(self, in_flight: InFlightMessage, ask: Ask, routed: Routed, answer: Answer) -> None:
        in_flight.unrecorded += self._record.duplicate(
            routed.worker_type, routed.properties, answer.owner, in_flight
        )
        error = f"Duplicate: it is a duplicate of {answer.owner}"
        self._owner.send_receipt(in_flight, Result(names.DUPLICATE, JSON, b""), error)
        reply = answer_to(ask, answer)
        if reply is None:
            self._drop(in_flight)
        else:
            self._replies.send(reply, lambda fault: self._replied(in_flight, fault))

    def _replied(self, in_flight: InFlightMessage, fault: str) -> None:
        if fault:
            self._log.warning("cannot tell the producer of the duplicate: %s", fault, workitem=in_flight.id)
        self._drop(in_flight)

    def _drop(self, in_flight: InFlightMessage) -> None:
        in_flight.is_confirmed = True
        in_flight.unrecorded += 1
        self._owner.recorded(in_flight)
