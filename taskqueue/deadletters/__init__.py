"""The messages that are kept, failed or rejected: read in place, sent back, removed."""

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
    """Show each kept message to `look`, oldest first; all stay where they are.

    Args:
        amqp: the broker's address.
        place: FAILED or REJECTED.
        look: returns True when it has seen enough.
        most: how many messages will be enough, where that is known.

    Raises:
        BrokerUnavailable: no connection, or it was lost.
        BrokerRefused: wrong user, password or virtual host, or the queue may not be read.
    """
    _run(Browsing(amqp, place, look, most), amqp, place)


def fetch(amqp: AmqpSettings, place: str, beginning: str) -> DeadLetter:
    """Return the message whose id is, or alone begins with, `beginning`; the oldest if it is kept twice.

    Raises NotKept, and what `browse` raises.
    """
    found: dict[str, DeadLetter] = {}

    def look(kept: DeadLetter) -> None:
        if _may_be(kept, beginning, found):
            found.setdefault(kept.id, kept)

    browse(amqp, place, look)
    return found[_only(beginning, found)]


def find(amqp: AmqpSettings, place: str, beginnings: Collection[str]) -> set[str]:
    """Return the ids that these are, or alone begin with; NotKept if one of them fits none, or several."""
    found: dict[str, set[str]] = {beginning: set() for beginning in beginnings}

    def look(kept: DeadLetter) -> None:
        for beginning, ids in found.items():
            if _may_be(kept, beginning, ids):
                ids.add(kept.id)

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


def _may_be(kept: DeadLetter, beginning: str, known: Collection[str]) -> bool:
    """Tell whether a message must be remembered; of those that only begin alike, two are enough to say so."""
    return bool(kept.id) and (kept.id == beginning or (kept.id.startswith(beginning) and len(known) < 2))


def _only(beginning: str, ids: Collection[str]) -> str:
    if beginning in ids:
        return beginning
    if not ids:
        raise NotKept(f"no message {beginning!r} is kept")
    if len(ids) > 1:
        raise NotKept(f"{beginning!r} fits several: {', '.join(sorted(ids))}")
    return next(iter(ids))


def retry(amqp: AmqpSettings, place: str, wanted: Wanted, *, at_least: int = 0) -> int:
    """Send messages back to where they came from; return how many.

    Each is removed after the broker has confirmed its copy: what interrupts it can double, not lose.

    Args:
        amqp: the broker's address.
        place: FAILED or REJECTED.
        wanted: tells which.
        at_least: how many are known to be there, even if the broker has not put them back yet.

    Raises:
        BrokerRefused: also where some cannot be sent back; these stay.
        BrokerUnavailable: no connection, or it was lost.
    """
    retrying = Retrying(amqp, place, wanted, at_least)
    _run(retrying, amqp, place)
    return retrying.done


def purge(amqp: AmqpSettings, place: str, wanted: Wanted) -> int:
    """Remove messages for good; return how many. It raises what `browse` raises."""
    purging = Purging(amqp, place, wanted)
    _run(purging, amqp, place)
    return purging.done


def _run(reading: Reading, amqp: AmqpSettings, place: str) -> None:
    """Read; then publish anew what a quorum queue would drop if it were read as often again."""
    reading.run()
    if not reading.has_worn:
        return
    try:
        Renewing(amqp, place, reading.left).run()
    except TaskqueueError as error:
        Log("kept").error(
            "queue %s may drop messages that are read more than 20 times; give it a policy with "
            "delivery-limit -1: they cannot be published anew: %s",
            place,
            error,
        )
