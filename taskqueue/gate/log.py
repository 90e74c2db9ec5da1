"""The gate's log: a queue on the broker with the changes of its state, which elects who leads.

It is a quorum queue with a single active consumer, as that of schedules (scheduler/register.py). The active
one gets all messages and keeps them unacknowledged: it leads. A change is published as an entry, and counts
once the leader has received that entry itself: the entry is in the queue, and its writer was the active
consumer, so that the next leader gets it, too. A snapshot of the whole state replaces all entries before it;
it has several parts if it is too large for a message, and counts once all of them are there.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from taskqueue.amqp.properties import Properties
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.outbound import Outbound
from taskqueue.broker.publisher import Publication, PublishResult
from taskqueue.broker.session import Session
from taskqueue.broker.subscription import Delivery, Subscription
from taskqueue.broker.topology import GATE
from taskqueue.broker.trust import Trust
from taskqueue.errors import BadLimitMessage
from taskqueue.limits.checks import count_of
from taskqueue.limits.occupancy import WRONG, Occupancy
from taskqueue.limits.parts import chunks, merged, parts_of
from taskqueue.limits.wire import ENTRY, KIND, MARK, SNAPSHOT, decode, encode
from taskqueue.messages.content import JSON
from taskqueue.messages.forwarding import new_id
from taskqueue.process.logs import Log

_ALL: Final = 65_535  # the largest prefetch
_PROPERTIES: Final = Properties(content_type=JSON, delivery_mode=2).encode()
_MOST_ENTRIES: Final = 2000  # after which a snapshot is due
_FEW_CHANGES: Final = 100  # that fit into a message, however long their keys are
_FEWEST_BYTES: Final = 1024 * 1024  # of entries before that, or as many as four snapshots have
#: Seconds after which a snapshot is due in any case: the broker closes the channel of a consumer that holds a
#: message for longer than consumer_timeout, 30 minutes by default.
_LONGEST: Final = 300.0
#: How far a term may be ahead of the seconds since 1970, with which the first one begins. Without a bound
#: that grows, a forged term would be the last one that can be read.
_MOST_AHEAD: Final = 2**40

Message = Mapping[str, Any]


class LogListener:
    """The owner of a log."""

    def log_open(self) -> None:
        """This gate stands by."""

    def log_leads(self, term: int, snapshot: Message | None, entries: list[list[Any]]) -> None:
        """This gate leads; the state is that of `snapshot` and the changes after it."""

    def log_lost(self) -> None:
        """This gate leads no more; nothing that was written goes on."""


class GateLog:
    """Keeps the changes on the broker, while this gate leads."""

    def __init__(self, loop: EventLoop, session: Session, outbound: Outbound, listener: LogListener) -> None:
        """Prepare; `open` begins to consume.

        outbound -- over the same session, so that a leader without a connection cannot write
        """
        self.is_leading = False
        self.term = 0
        self.unread = 0  # entries that this leader has written and not received yet
        self._outbound, self._listener = outbound, listener
        self._me = ""  # the id of this leader, and of its mark; "" until the first delivery
        self._found: list[tuple[int, int, Message]] = []  # before the mark, with term and number
        self._old: list[Delivery] = []  # of what the next snapshot replaces
        self._written: deque[Callable[[], None]] = deque()  # to be called when each message comes back
        self._count = 0  # messages of this term
        self._entries = self._bytes = self._snapshot_bytes = 0  # since the last snapshot, and of it
        self._since = 0.0  # monotonic; of the last snapshot
        self._log = Log("gate")
        self._trust = Trust(outbound, self._log)
        self._subscription = Subscription(
            loop,
            session,
            GATE.name,
            _ALL,
            on_delivery=self._take,
            on_lost=self._lost,
            on_consuming=self._open,
            arguments=GATE.arguments,
        )

    def open(self) -> None:
        """Stand by, and lead when the broker says so."""
        self._subscription.resume()

    @property
    def is_long(self) -> bool:
        """Whether a snapshot is due."""
        if self._entries >= _MOST_ENTRIES or self._bytes >= max(_FEWEST_BYTES, 4 * self._snapshot_bytes):
            return True
        return time.monotonic() - self._since >= _LONGEST

    def write(self, changes: list[list[Any]], then: Callable[[], None]) -> None:
        """Write changes; call back once they count."""
        *first, last = chunks(changes) if len(changes) > _FEW_CHANGES else [changes]
        for some in first:
            self._write_entry(some, _nothing)
        self._write_entry(last, then)

    def _write_entry(self, changes: list[list[Any]], then: Callable[[], None]) -> None:
        def read() -> None:
            self.unread -= 1
            then()

        self.unread += 1
        self._entries += 1
        self._bytes += self._publish({KIND: ENTRY, "changes": changes}, read)

    def write_snapshot(self, state: Message) -> None:
        """Write the whole state, after all changes were written; it replaces them."""
        old, self._old = self._old, []
        parts = list(parts_of(state))
        self._entries = self._bytes = 0
        self._since = time.monotonic()

        def read() -> None:
            begin = len(self._old) - len(parts)
            replaced, self._old = self._old[:begin], self._old[begin:]
            for delivery in (*old, *replaced):
                self._subscription.settle(delivery)

        self._snapshot_bytes = 0
        for number, part in enumerate(parts):
            message = {KIND: SNAPSHOT, "part": number, "parts": len(parts), "state": part}
            is_last = number == len(parts) - 1
            self._snapshot_bytes += self._publish(message, read if is_last else _nothing)

    def _publish(self, message: Message, then: Callable[[], None]) -> int:
        self._count += 1
        about = {"leader": self._me, "term": self.term, "number": self._count}
        body = encode({**message, **about})
        self._written.append(then)
        self._outbound.send(_to_log(body), self._published)
        return len(body)

    def _published(self, _publication: Publication, result: PublishResult, reason: str) -> None:
        if result is not PublishResult.CONFIRMED:
            self._log.error("the log cannot be written: %s", reason or result.value)
            self._subscription.restart()  # from what the broker has

    # --- what the broker delivers ---

    def _open(self) -> None:
        """Send a message, so that the active consumer has a first delivery."""
        self._send_mark(new_id())
        self._listener.log_open()

    def _send_mark(self, name: str) -> None:
        body = encode({KIND: MARK, "id": name})
        self._outbound.send(_to_log(body), _ignore)

    def _take(self, delivery: Delivery) -> None:
        """Take a delivery; the first one tells that this gate is the active consumer.

        The mark that is sent then comes after everything that was in the queue.
        """
        if self._trust.fault(delivery):
            self._subscription.settle(delivery)
            return
        if not self._me:
            self._me = new_id()
            self._send_mark(self._me)
        try:
            message = decode(delivery.body, is_ours=True)
            delivery.body = b""  # it is held for long
            self._sort(message, delivery)
        except BadLimitMessage as error:
            self._log.error("dropped from the log of the gate: %s", error)
            self._subscription.settle(delivery)

    def _sort(self, message: Message, delivery: Delivery) -> None:
        kind = message.get(KIND)
        if kind == MARK:
            self._subscription.settle(delivery)
            if message.get("id") == self._me and not self.is_leading:
                self._lead()
        elif kind not in (ENTRY, SNAPSHOT):
            raise BadLimitMessage(f"a message of kind {str(kind)[:100]!r}")
        elif not self.is_leading:
            _check(message)
            self._found.append((_number(message, "term"), _number(message, "number"), message))
            self._old.append(delivery)
        elif message.get("leader") == self._me:
            self._old.append(delivery)
            self._written.popleft()()
        else:  # of a leader before this one, which has never received it and so has granted nothing
            self._subscription.settle(delivery)

    def _lead(self) -> None:
        found = sorted(self._found, key=lambda each: each[:2])
        self._found = []
        messages = [message for _, _, message in found]
        # A log that was deleted begins anew; consumers must not take its leader for an earlier one.
        self.term = max(found[-1][0] + 1 if found else 1, int(time.time()))
        self._count, self.is_leading = 0, True
        begin, parts = _last_snapshot(messages)
        snapshot = _whole(parts)
        changes = [change for message in messages[begin:] for change in message.get("changes", ())]
        self._listener.log_leads(self.term, snapshot, changes)

    def _lost(self) -> None:
        was_leading, self.is_leading = self.is_leading, False
        self._me = ""
        self._found.clear()
        self._old.clear()
        self._written.clear()
        self.unread = 0
        self._outbound.forget_all()
        if was_leading:
            self._listener.log_lost()


def _number(message: Message, name: str) -> int:
    value = message.get(name)
    if type(value) is not int or not 0 <= value <= time.time() + _MOST_AHEAD:
        raise BadLimitMessage(f"a message without its {name}")
    return value


def _check(message: Message) -> None:
    """Raise BadLimitMessage for an entry or a snapshot that no gate has written."""
    try:
        if message[KIND] == SNAPSHOT:
            _part_of(message)
            Occupancy({}).restore(message["state"])
        elif not isinstance(message["changes"], list):
            raise TypeError("expected a list")
    except WRONG as error:
        raise BadLimitMessage(f"{message[KIND]!r} cannot be read: {error!r:.100}") from None


def _last_snapshot(messages: list[Message]) -> tuple[int, list[Message]]:
    """Return where the entries after the last whole snapshot begin, and the states of its parts."""
    begin = 0
    whole, parts = list[Message](), list[Message]()
    leader: Any = None
    for place, message in enumerate(messages):
        if message[KIND] != SNAPSHOT:
            continue
        number, count = _part_of(message)
        if number == 0:
            leader, parts = message.get("leader"), []
        if message.get("leader") == leader and number == len(parts):
            parts.append(message["state"])
        if len(parts) == count:
            begin, whole, parts = place + 1, parts, []
    return begin, whole


def _whole(parts: list[Message]) -> Message | None:
    """Return the state of these parts; None if there are none, or they contradict each other."""
    state = merged(parts)
    try:
        Occupancy({}).restore(state)
    except WRONG:
        return None
    return state if parts else None


def _part_of(message: Message) -> tuple[int, int]:
    """Return the number of a part of a snapshot, and how many there are."""
    number, count = count_of(message.get("part", 0)), count_of(message.get("parts", 1))
    if not number < count:
        raise ValueError("expected a part of a snapshot")
    return number, count


def _nothing() -> None:
    pass


def _to_log(body: bytes) -> Publication:
    return Publication(GATE.name, _PROPERTIES, body, declares=False, is_signed=True)


def _ignore(_publication: Publication, _result: PublishResult, _reason: str) -> None:
    pass
