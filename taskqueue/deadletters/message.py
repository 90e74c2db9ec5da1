"""One kept message: what it says of itself, and how it goes back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import MalformedProperties
from taskqueue.broker.topology import FAILED_QUEUE, TASKQUEUE, WORKER_PREFIX, is_ours, is_text, worker_queue
from taskqueue.errors import Unroutable
from taskqueue.messages import names
from taskqueue.messages.forwarding import is_untravelable, login_of
from taskqueue.messages.routing import checked_type


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that is kept."""

    properties: Properties
    body: bytes
    fault: str = ""  # why its properties cannot be read; they are then empty

    @classmethod
    def of(cls, raw: bytes, body: bytes) -> "DeadLetter":
        """Read a message, whoever wrote it."""
        try:
            return cls(Properties.decode(raw), body)
        except MalformedProperties as error:
            return cls(Properties(), body, f"its properties cannot be read: {error}")

    def header(self, name: str) -> Any:
        """Return a header; None where it is absent or cannot be read."""
        try:
            return self.properties.header(name)
        except MalformedProperties:
            return None

    @property
    def id(self) -> str:
        """The id; "" where it has none."""
        return self.properties.message_id or ""

    @property
    def reason(self) -> str:
        """Why it is kept; "" if nobody says."""
        return self.fault or str(self.header(names.REASON) or "")

    @property
    def queue(self) -> str:
        """Where it came from; "" if nobody says."""
        queue = self.header(names.QUEUE)
        return queue if isinstance(queue, str) else ""

    @property
    def worker_type(self) -> str:
        """The worker type; "" if nobody says."""
        is_worker = self.queue.startswith(WORKER_PREFIX)
        return self.properties.type or (self.queue.removeprefix(WORKER_PREFIX) if is_worker else "")

    @property
    def attempts(self) -> int | None:
        """How often it ran; None if it never did."""
        count = self.header(names.ATTEMPT)
        return count if isinstance(count, int) else None

    @property
    def when(self) -> float | None:
        """When it was given up, in seconds since 1970."""
        ended = self.header(names.ENDED)
        return float(ended) if isinstance(ended, int | float) else None

    @property
    def history(self) -> list[dict[str, Any]]:
        """The outcome of each attempt, oldest first."""
        entries = self.header(names.HISTORY)
        return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


Wanted = Callable[[DeadLetter], bool]


def origin(kept: DeadLetter, place: str) -> str:
    """Return the queue that a kept message goes back to; Unroutable if that cannot be told.

    place -- where it is kept: FAILED_QUEUE or REJECTED
    """
    if kept.fault:
        raise Unroutable(kept.fault)
    if is_ours(kept.queue) and is_text(kept.queue):
        return kept.queue
    return worker_queue(checked_type(kept.properties.type)) if place == FAILED_QUEUE else TASKQUEUE


def restored(properties: Properties, login: str) -> Properties:
    """Return the properties with which a kept message goes back, as if it had never run.

    Our headers are taken out; so is the deadline, which a retry overrules. Its publisher stays where a
    process of ours vouched for that under the same login. All else is still what it was; expiration was taken
    out when it was kept, and stays out.

    login -- our name at the broker
    """
    vouches = login_of(properties) == login
    publisher = properties.header(names.PUBLISHER) if vouches else None
    kept = properties
    if properties.header_table:
        kept = properties.with_headers({names.PUBLISHER: publisher}, _is_spent)
    return kept.replace(delivery_mode=2, user_id=login if publisher else None, expiration=None)


def _is_spent(header: str) -> bool:
    return header.startswith(names.HEADER) or is_untravelable(header)
