"""A question to the process that consumes a queue, such as the scheduler that leads, and its answer."""

import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from taskqueue.amqp.properties import Properties
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.outbound import Outbound, OutboundListener
from taskqueue.broker.publisher import Publication, PublishResult
from taskqueue.broker.session import Session
from taskqueue.errors import TaskqueueError
from taskqueue.messages.content import JSON
from taskqueue.messages.forwarding import new_id
from taskqueue.messages.names import DIRECT_REPLY

if TYPE_CHECKING:
    from taskqueue.config import AmqpSettings


def run_session(loop: EventLoop, session: Session) -> None:
    """Connect, run the loop until something stops it, and hang up without a farewell.

    Raises the error with which the loop fails.
    """
    session.open()
    try:
        loop.run()
    finally:
        session.abandon()
        loop.close()


class Question(OutboundListener):
    """One question; the broker drops it if nobody has taken it in time."""

    def __init__(
        self,
        amqp: "AmqpSettings",
        queue: str,
        message: Mapping[str, Any],
        *,
        name: str,
        timeout: float,
        error: type[TaskqueueError],
    ) -> None:
        """Prepare to `ask`.

        Args:
            amqp: the broker's address.
            queue: where the question goes.
            message: it, as JSON has it.
            name: of the connection.
            timeout: seconds to wait for the answer.
            error: raised without an answer.
        """
        self._loop = EventLoop()
        self._queue, self._message, self._id = queue, message, new_id()
        self._timeout, self._error = timeout, error
        self._until = time.monotonic() + timeout
        self._answer: dict[str, Any] = {}
        self._session = Session(self._loop, amqp, name, on_error=self._loop.fail)
        self._outbound = Outbound(self._loop, self._session, self, on_reply=self._take)

    def ask(self, who: str, daemon: str = "a dispatcher") -> dict[str, Any]:
        """Return the answer.

        who -- is asked, in words
        daemon -- has such a process, in words

        Raises the error that was given if there is none, BrokerUnavailable or BrokerRefused.
        """
        none = self._error(f"no {who} answers within {self._timeout:g} s: does {daemon} run?")
        self._who, self._daemon = who, daemon
        self._loop.call_later(self._timeout, lambda: self._loop.fail(none))
        run_session(self._loop, self._session)
        return self._answer

    def outbound_ready(self) -> None:
        """Send the question."""
        left = max(0.0, self._until - time.monotonic())  # nothing is done after this has given up
        properties = Properties(
            content_type=JSON,
            delivery_mode=2,
            correlation_id=self._id,
            reply_to=DIRECT_REPLY,
            expiration=str(int(left * 1000)),
        ).encode()
        body = json.dumps(self._message).encode()
        question = Publication(self._queue, properties, body, declares=False, is_signed=True)
        self._outbound.send(question, self._published)

    def outbound_lost(self) -> None:
        """Fail: it is unknown whether the question was taken."""
        self._fail(f"the connection was lost before the {self._who} answered")

    def _published(self, _publication: Publication, result: PublishResult, reason: str) -> None:
        if result is PublishResult.RETURNED:
            self._fail(f"no {self._who} has run on this broker yet: start {self._daemon}")
        elif result is not PublishResult.CONFIRMED:
            self._fail(f"the broker refuses the command: {reason}")

    def _fail(self, reason: str) -> None:
        if not self._answer:
            self._loop.fail(self._error(reason))

    def _take(self, raw: bytes, body: bytes) -> None:
        if Properties.decode(raw).correlation_id == self._id:
            self._answer = json.loads(body)
            self._session.close(self._loop.stop)
