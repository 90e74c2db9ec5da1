"""Answers to those who start or command workflows; what nobody waits for is logged."""

import time
from collections.abc import Mapping
from typing import Any, Final

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import MalformedProperties
from taskqueue.broker.outbound import Outbound
from taskqueue.broker.publisher import Publication, PublishResult
from taskqueue.broker.subscription import Delivery
from taskqueue.messages.content import JSON
from taskqueue.messages.names import DIRECT_REPLY
from taskqueue.process.logs import Log
from taskqueue.workflows.wire import encode_json

_MOST_TOLD: Final = 20  # dropped messages that are logged in a minute


class Answers:
    """Answers messages, and logs those that are dropped."""

    def __init__(self, outbound: Outbound, log: Log) -> None:
        self._outbound, self._log = outbound, log
        self._dropped = 0  # dropped messages that were logged in this minute
        self._dropped_from = time.monotonic()

    def give(self, answer: Mapping[str, Any], delivery: Delivery) -> None:
        """Send an answer to the sender of a message; log an error for which nobody waits."""
        try:
            properties = Properties.decode(delivery.properties)
        except MalformedProperties:
            return
        if (properties.reply_to or "").startswith(DIRECT_REPLY):
            said = Properties(content_type=JSON, correlation_id=properties.correlation_id).encode()
            body = encode_json(answer).encode()
            self._outbound.send(Publication(properties.reply_to or "", said, body, mandatory=False), ignore)
        elif "error" in answer:
            self.drop(str(answer["error"]))

    def drop(self, reason: str) -> None:
        """Log why a message is dropped, for some messages of each minute."""
        if time.monotonic() - self._dropped_from > 60:
            self._dropped, self._dropped_from = 0, time.monotonic()
        self._dropped += 1
        if self._dropped <= _MOST_TOLD:
            self._log.error("dropped: %s", reason)


def ignore(_publication: Publication, _result: PublishResult, _reason: str) -> None:
    """Take the result of a publication of which nothing follows."""
