"""The broker users whose messages in internal queues are believed.

Whoever may publish to the default exchange may publish to every queue. So messages about schedules, unique
work and limits have the property user_id (broker/signing.py), which the broker accepts only from that user.
"""

import json
from typing import Final

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import MalformedProperties
from taskqueue.broker.outbound import Outbound
from taskqueue.broker.publisher import Publication, PublishResult
from taskqueue.broker.subscription import Delivery
from taskqueue.config import ANYBODY
from taskqueue.messages.content import JSON
from taskqueue.messages.names import DIRECT_REPLY
from taskqueue.process.logs import Log

_MOST_TOLD: Final = 100  # users that the log names


class Trust:
    """Tells whether a message in an internal queue is from a user that this process believes."""

    def __init__(self, outbound: Outbound, log: Log) -> None:
        """Believe the user of this process, and those that its configuration trusts.

        outbound -- over the session that says who they are; takes answers to refused commands
        log -- is told of each refused user once
        """
        self._outbound, self._log = outbound, log
        amqp = outbound.session.amqp
        self._users = {amqp.user, *amqp.trusted_users}
        self._told: set[str | None] = set()

    def fault(self, delivery: Delivery) -> str:
        """Return why a message is not believed, and tell its sender if that waits for an answer; else ""."""
        if ANYBODY in self._users:
            return ""
        try:
            properties = Properties.decode(delivery.properties)
        except MalformedProperties:
            properties = Properties()
        user = properties.user_id
        if user in self._users:
            return ""
        who = "a publisher without user_id" if user is None else f"broker user {user!r:.102}"
        fault = f"{who} is not trusted: see trusted_users in [amqp] of the dispatchers' configuration"
        if user not in self._told and len(self._told) < _MOST_TOLD:
            self._told.add(user)
            self._log.error("a message in %s is ignored: %s", delivery.queue, fault)
        self._answer(properties, fault)
        return fault

    def _answer(self, properties: Properties, fault: str) -> None:
        queue = properties.reply_to or ""
        if queue.startswith(DIRECT_REPLY):
            said = Properties(content_type=JSON, correlation_id=properties.correlation_id).encode()
            body = json.dumps({"error": fault}).encode()
            self._outbound.send(Publication(queue, said, body, mandatory=False), _ignore)


def _ignore(_publication: Publication, _result: PublishResult, _reason: str) -> None:
    pass
