"""A dead letter: its headers, and its way back to its queue."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import MalformedProperties
from taskqueue.broker.topology import FAILED_QUEUE, TASKQUEUE, WORKER_PREFIX, is_ours, is_text, worker_queue
from taskqueue.errors import Unroutable
from taskqueue.messages import names
from taskqueue.messages.forwarding import OF_WORKFLOWS, is_untravelable, login_of
from taskqueue.messages.routing import checked_type


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A failed or rejected message."""

    properties: Properties
    body: bytes
    fault: str = ""  # why its properties cannot be decoded; `properties` is empty then

    @classmethod
    def of(cls, raw: bytes, body: bytes) -> "DeadLetter":
        """Read a message, even a malformed one."""
        try:
            return cls(Properties.decode(raw), body)
        except MalformedProperties as error:
            return cls(Properties(), body, f"its properties cannot be read: {error}")

    def header(self, name: str) -> Any:
        """Return the value of a header; None if it is absent or unreadable."""
        try:
            return self.properties.header(name)
        except MalformedProperties:
            return None

    @property
    def headers(self) -> dict[str, Any]:
        """The headers for people to read; MalformedProperties if they are unreadable."""
        headers = self.properties.headers
        return {name: value for name, value in headers.items() if name != names.PROOF}  # a secret

    @property
    def id(self) -> str:
        """The workitem's id; "" if it has none."""
        return self.properties.message_id or ""

    @property
    def reason(self) -> str:
        """The reason for the failure or rejection; "" if it is unknown."""
        return self.fault or str(self.header(names.REASON) or "")

    @property
    def queue(self) -> str:
        """The name of its original queue; "" if it is unknown."""
        queue = self.header(names.QUEUE)
        return queue if isinstance(queue, str) else ""

    @property
    def worker_type(self) -> str:
        """The worker type; "" if it is unknown."""
        is_worker = self.queue.startswith(WORKER_PREFIX)
        return self.properties.type or (self.queue.removeprefix(WORKER_PREFIX) if is_worker else "")

    @property
    def attempts(self) -> int | None:
        """The number of runs; None if it never ran."""
        count = self.header(names.ATTEMPT)
        return count if isinstance(count, int) else None

    @property
    def when(self) -> float | None:
        """The time at which it became a dead letter, in seconds since 1970; None if it is unknown."""
        ended = self.header(names.ENDED)
        return float(ended) if isinstance(ended, int | float) else None

    @property
    def history(self) -> list[dict[str, Any]]:
        """The outcome of each attempt, oldest first."""
        entries = self.header(names.HISTORY)
        return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


Wanted = Callable[[DeadLetter], bool]


def origin(letter: DeadLetter, place: str) -> str:
    """Return the queue that a dead letter goes back to. Raises Unroutable if it is unknown.

    place -- the queue that holds it: FAILED_QUEUE or REJECTED_QUEUE
    """
    if letter.fault:
        raise Unroutable(letter.fault)
    if is_ours(letter.queue) and is_text(letter.queue):
        return letter.queue
    if place != FAILED_QUEUE:
        return TASKQUEUE
    if not letter.properties.type:
        raise Unroutable(
            f"neither the property type nor the header {names.QUEUE} names its worker type; "
            "submit its body anew: taskqueue submit TYPE BODY"
        )
    return worker_queue(checked_type(letter.properties.type))


def restored(properties: Properties, login: str) -> Properties:
    """Return the properties for sending a dead letter back, as if it had never run.

    Our headers are removed, except tenant, labels and those of a workflow, with the deadline, which a retry
    overrules. The publisher's name stays if one of our processes has attested it under the same login. The
    expiration is removed. All else is unchanged.

    login -- our user name at the broker
    """
    vouches = login_of(properties) == login
    publisher = properties.header(names.PUBLISHER) if vouches else None
    if properties.header_table:
        properties = properties.with_headers({names.PUBLISHER: publisher}, _is_spent)
    return properties.replace(delivery_mode=2, user_id=login if publisher else None, expiration=None)


def _is_spent(header: str) -> bool:
    is_ours = header.startswith(names.HEADER) and header not in _KEPT
    return is_ours or is_untravelable(header)


_KEPT: Final = (names.TENANT, names.LABELS, *OF_WORKFLOWS)
