"""Dead letters, failed or rejected: browse, retry and purge."""

from collections.abc import Callable, Collection
from typing import Any

from taskqueue.config import AmqpSettings
from taskqueue.deadletters.message import DeadLetter, Wanted
from taskqueue.deadletters.reading import Browsing, Purging, Reading, Renewing, Retrying
from taskqueue.errors import NotKept, TaskqueueError
from taskqueue.process.logs import Log

__all__ = ["DeadLetter", "browse", "fetch", "find", "purge", "retry"]


def browse(
    amqp: AmqpSettings, place: str, look: Callable[[DeadLetter], Any], *, most: int | None = None
) -> None:
    """Pass each dead letter to `look`, oldest first; all stay in their queue.

    Args:
        amqp: the broker's address.
        place: the queue, FAILED_QUEUE or REJECTED_QUEUE.
        look: returns True to end the reading.
        most: the number of messages that `look` needs at most, if known; no more are taken ahead.

    Raises:
        BrokerUnavailable: no connection, or it was lost.
        BrokerRefused: wrong user, password or virtual host, or the queue may not be read.
    """
    _run(Browsing(amqp, place, look, most))


def fetch(amqp: AmqpSettings, place: str, beginning: str) -> DeadLetter:
    """Return the message whose id is `beginning`, or the only one whose id begins with it.

    If two messages have this id, the older one is returned. Raises NotKept if no id or several ids begin with
    it, and else as `browse` does.
    """
    found: dict[str, DeadLetter] = {}

    def look(letter: DeadLetter) -> None:
        if _may_be(letter, beginning, found):
            found.setdefault(letter.id, letter)

    browse(amqp, place, look)
    return found[_only(beginning, found)]


def find(amqp: AmqpSettings, place: str, beginnings: Collection[str]) -> set[str]:
    """Return the ids for beginnings of ids. Raises NotKept if no id or several ids begin with one of them."""
    found: dict[str, set[str]] = {beginning: set() for beginning in beginnings}

    def look(letter: DeadLetter) -> None:
        for beginning, ids in found.items():
            if _may_be(letter, beginning, ids):
                ids.add(letter.id)

    browse(amqp, place, look)
    faults, ids = [], set()
    for beginning, candidates in found.items():
        try:
            ids.add(_only(beginning, candidates))
        except NotKept as error:
            faults.append(str(error))
    if faults:
        raise NotKept("\n".join(faults))
    return ids


def _may_be(letter: DeadLetter, beginning: str, known: Collection[str]) -> bool:
    """Return whether to remember a message: if its id is `beginning`, or if under two ids begin with it."""
    return bool(letter.id) and (
        letter.id == beginning or (letter.id.startswith(beginning) and len(known) < 2)
    )


def _only(beginning: str, ids: Collection[str]) -> str:
    if beginning in ids:
        return beginning
    if not ids:
        raise NotKept(f"no message has an id that begins with {beginning!r}")
    if len(ids) > 1:
        raise NotKept(f"several ids begin with {beginning!r}: {', '.join(sorted(ids))}")
    return next(iter(ids))


def retry(
    amqp: AmqpSettings, place: str, wanted: Wanted, *, at_least: int = 0, body: bytes | None = None
) -> int:
    """Send dead letters back to their original queues; return their number.

    Each is acknowledged after the broker has confirmed its copy: an interruption can double a message, but
    cannot lose it.

    Args:
        amqp: the broker's address.
        place: the queue, FAILED_QUEUE or REJECTED_QUEUE.
        wanted: returns whether to send a message back.
        at_least: number of messages known to be there, even if the broker has not requeued them yet.
        body: what replaces the body of each; None to keep it.

    Raises:
        NotRetried: some messages name no queue to go back to; these stay.
        BrokerRefused: as for `browse`, or the broker refuses some messages; these stay.
        BrokerUnavailable: no connection, or it was lost.
    """
    return _run(Retrying(amqp, place, wanted, at_least, body))


def purge(amqp: AmqpSettings, place: str, wanted: Wanted, *, at_least: int = 0) -> int:
    """Remove the messages that `wanted` selects for good; return their number. Raises as `browse` does.

    at_least -- as of `retry`
    """
    return _run(Purging(amqp, place, wanted, at_least))


def _run(reading: Reading) -> int:
    """Read, and return the number of removed messages.

    Messages near the delivery limit are published again, before a quorum queue drops them.
    """
    reading.run()
    if reading.has_others:
        text = "another process reads queue %s and has its messages; try again once it has ended"
        Log("deadletters").warning(text, reading.place)
    if reading.has_near_limit:
        try:
            Renewing(reading.amqp, reading.place, reading.left).run()
        except TaskqueueError as error:
            Log("deadletters").error(
                "messages near the delivery limit of queue %s cannot be published again: %s; RabbitMQ drops "
                "a message after 20 deliveries, unless a policy of the queue sets delivery-limit to -1",
                reading.place,
                error,
            )
    return reading.done
