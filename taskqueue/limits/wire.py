"""Messages between consumers and the gate, and the entries of the gate's log: JSON objects."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self

from taskqueue.errors import BadLimitMessage
from taskqueue.limits.checks import age_of, count_of, keys_of, text_of
from taskqueue.limits.definition import Key

#: Kinds of messages: a consumer's report, a command's question, and in the log entries, snapshots and marks.
KIND: Final = "kind"
REPORT, LIST, ENTRY, SNAPSHOT, MARK = "report", "list", "entry", "snapshot", "mark"

_LARGEST: Final = 4 * 1024 * 1024  # bytes of a message to the gate
_LARGEST_OF_LOG: Final = 128 * 1024 * 1024  # bytes of a message in the gate's own log

Keys = tuple[Key, ...]


class Identity(NamedTuple):
    """The identity of a consumer.

    Args:
        seat: another one for each group of each supervisor: a seat's next consumer starts only after the
            workers of the last one are dead.
        machine: the boot and the process namespace in which `supervisor` has a meaning.
        supervisor: the process id of the supervisor and when it started.
        host: the host's name.
        group: the group's name.
    """

    seat: str
    machine: str
    supervisor: str
    host: str
    group: str


class Asked(NamedTuple):
    """Asks for permits of the same keys."""

    keys: Keys
    numbers: tuple[int, ...]
    waiting: int  # workitems that wait for them in the consumer


class Held(NamedTuple):
    """A permit that a consumer has."""

    number: int
    keys: Keys
    age: float | None  # seconds since its run started; None: it has not
    workitem: str  # the id; "" before the start


class Ended(NamedTuple):
    """A permit or an ask that a consumer gives back."""

    number: int
    age: float | None  # seconds since its run started; None: it never did


@dataclass(frozen=True, slots=True)
class Report:
    """A report of a consumer to the gate.

    Args:
        consumer: its id.
        number: counts the reports of this consumer.
        identity: who it is.
        capacity: number of workitems that its workers can hold.
        asks: new asks; in a whole report all of them.
        ends: what it gives back.
        held: permits whose run has started; in a whole report all that it has.
        is_whole: whether it has no asks and no permits but these.
    """

    consumer: str
    number: int
    identity: Identity
    capacity: int
    asks: Sequence[Asked] = ()
    ends: Sequence[Ended] = ()
    held: Sequence[Held] = ()
    is_whole: bool = False

    def encode(self) -> bytes:
        """Return the report as a message's body."""
        plain = {
            KIND: REPORT,
            "consumer": self.consumer,
            "number": self.number,
            "identity": self.identity,
            "capacity": self.capacity,
            "asks": self.asks,
            "ends": self.ends,
            "held": self.held,
            "whole": self.is_whole,
        }
        return json.dumps(plain).encode()

    @classmethod
    def of_json(cls, plain: Mapping[str, Any]) -> Self:
        """Return the report that `encode` wrote; raise BadLimitMessage if it is none."""
        try:
            return cls(
                text_of(plain["consumer"]),
                count_of(plain["number"]),
                Identity(*map(text_of, plain["identity"])),
                count_of(plain["capacity"]),
                [
                    Asked(keys_of(keys), tuple(map(count_of, numbers)), count_of(waiting))
                    for keys, numbers, waiting in plain["asks"]
                ],
                [Ended(count_of(number), age_of(age)) for number, age in plain["ends"]],
                [
                    Held(count_of(number), keys_of(keys), age_of(age), text_of(workitem))
                    for number, keys, age, workitem in plain["held"]
                ],
                plain["whole"] is True,
            )
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            raise BadLimitMessage(f"a report to the gate cannot be read: {error!r:.200}") from None


class Reply(NamedTuple):
    """The gate's reply to a report."""

    consumer: str
    term: int  # of the gate that leads; the next one has a higher one
    number: int  # of the last report of this consumer that it has taken
    granted: tuple[int, ...]

    def encode(self) -> bytes:
        """Return the reply as a message's body."""
        return json.dumps(self._asdict()).encode()

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Return the reply in a body; raise BadLimitMessage if it is none."""
        plain = decode(body)
        if "error" in plain:
            raise BadLimitMessage(f"the gate refuses a report: {plain['error']!s:.300}")
        try:
            granted = tuple(map(count_of, plain["granted"]))
            return cls(str(plain["consumer"]), count_of(plain["term"]), count_of(plain["number"]), granted)
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            raise BadLimitMessage(f"a reply of the gate cannot be read: {error!r:.200}") from None


def encode(message: Mapping[str, Any]) -> bytes:
    """Return a message as its body."""
    return json.dumps(message).encode()


def decode(body: bytes, *, is_ours: bool = False) -> dict[str, Any]:
    """Return a message; raise BadLimitMessage if it is none, or too large.

    is_ours -- whether it is of the gate's log
    """
    if len(body) > (_LARGEST_OF_LOG if is_ours else _LARGEST):
        raise BadLimitMessage(f"a message of {len(body)} bytes")
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        raise BadLimitMessage("a message that is no JSON") from None
    if not isinstance(message, dict):
        raise BadLimitMessage("a message that is no JSON object")
    return message
