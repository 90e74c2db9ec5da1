"""The log of claims: a queue on the broker, whose single active consumer keeps the claims.

The active keeper reads the entries in the order in which the broker has them, and leaves them unacknowledged.
When it ends, or loses its connection, the broker gives them to the next one, which comes to the same claims.
A snapshot replaces entries: the keeper writes a message that begins it; when it reads that, it writes the
claims as they are then, and the results that followers have not got yet; when it has read these, it
acknowledges everything before the beginning.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from taskqueue.amqp.tables import MalformedProperties
from taskqueue.broker.claims import to_log
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.outbound import Outbound
from taskqueue.broker.publisher import Publication, PublishResult
from taskqueue.broker.session import Session
from taskqueue.broker.subscription import Delivery, Subscription
from taskqueue.broker.topology import CLAIMS
from taskqueue.broker.trust import Trust
from taskqueue.errors import BadClaim
from taskqueue.messages.forwarding import new_id
from taskqueue.process.logs import Log
from taskqueue.unique.claims import Claims, Effect
from taskqueue.unique.wire import (
    ASK,
    CHUNK,
    COMMAND,
    KIND,
    MARK,
    OWED,
    SNAPSHOT,
    TOLD,
    Follower,
    Message,
    Scope,
    decode,
    encode,
    encode_owed,
    followers_in,
    scope_of,
)

#: Seconds after which entries are replaced. The broker closes the channel of a consumer that holds a message
#: for longer than consumer_timeout, 30 minutes by default.
RENEW_AFTER: Final = 600.0
_MOST_ENTRIES: Final = 5000  # beside the messages of the last snapshot
#: Claims for which one entry more is held: a snapshot of many claims takes longer.
_CLAIMS_PER_ENTRY: Final = 4
_MOST_AHEAD: Final = 3600.0  # seconds that a dispatcher's clock may be ahead of the keeper's
_CHUNK: Final = 500  # claims and their followers in a message, unless one claim has more
_ALL: Final = 65_535  # the largest prefetch

#: Exceptions that a damaged message raises.
_WRONG: Final = (
    AttributeError,
    IndexError,
    MalformedProperties,
    KeyError,
    OverflowError,
    TypeError,
    ValueError,
)

#: Followers of a workitem that is over, with the message that has its result.
Untold = tuple[Message, tuple[Follower, ...]]


class LogListener:
    """The owner of a log."""

    def log_open(self) -> None:
        """This keeper stands by."""

    def log_leads(self) -> None:
        """This keeper has every claim, and answers."""

    def log_lost(self) -> None:
        """This keeper has no claims any more."""

    def log_entry(self, message: Message, effect: Effect) -> None:
        """An entry has been applied. Only while this keeper leads."""

    def log_command(self, message: Message, delivery: Delivery) -> None:
        """Act on a command; `done` ends it. Only while this keeper leads."""


@dataclass(slots=True, eq=False)
class Held:
    """A message of the log that is not acknowledged."""

    delivery: Delivery
    message: Message | None  # None once it is applied
    since: float  # monotonic


class ClaimsLog:
    """Reads the log and applies its entries, while this keeper is the active consumer."""

    def __init__(
        self,
        loop: EventLoop,
        session: Session,
        outbound: Outbound,
        listener: LogListener,
        *,
        renew_after: float = RENEW_AFTER,
        most_entries: int = _MOST_ENTRIES,
    ) -> None:
        """Prepare; `open` begins to consume.

        outbound -- over the same session, so that a keeper without a connection cannot answer
        renew_after -- seconds that an entry is held
        most_entries -- entries that are held before a snapshot replaces them
        """
        self.claims = Claims()
        #: Followers of workitems whose result is known, by scope and id.
        self.untold: dict[tuple[Scope, str], Untold] = {}
        self.is_leading = False
        self._outbound, self._listener = outbound, listener
        self._renew_after, self._most_entries = renew_after, most_entries
        self._held: list[Held] = []
        self._mark = self._snapshot = ""  # the ids of those that this keeper has written, "" for none
        self._chunks = 0  # of the last snapshot
        self._missing = 0  # messages of the snapshot that are not read yet
        self._begins = 0  # where in `_held` the snapshot begins
        self._log = Log("keeper")
        self._trust = Trust(outbound, self._log)
        self._subscription = Subscription(
            loop,
            session,
            CLAIMS.name,
            _ALL,
            on_delivery=self._take,
            on_lost=self._lost,
            on_consuming=listener.log_open,
            arguments=CLAIMS.arguments,
        )

    def open(self) -> None:
        """Stand by, and keep the claims when the broker says so."""
        self._subscription.resume()

    def write(self, body: bytes) -> None:
        """Append a message."""
        self._outbound.send(to_log(body), self._written)

    def told(self, key: tuple[Scope, str]) -> None:
        """Note that the followers of a workitem have its result."""
        if self.untold.pop(key, None) is not None:
            self.write(encode({KIND: TOLD, "scope": key[0], "id": key[1]}))

    def done(self, delivery: Delivery) -> None:
        """Acknowledge a message."""
        self._subscription.settle(delivery)

    def replace_old(self) -> None:
        """Begin a snapshot if the entries are many or old."""
        if not self.is_leading or self._snapshot or not self._held:
            return
        is_old = self._held[0].since < time.monotonic() - self._renew_after
        most = self._most_entries + len(self.claims) // _CLAIMS_PER_ENTRY
        if is_old or len(self._held) - self._chunks > most:
            self._snapshot = new_id()
            self.write(encode({KIND: SNAPSHOT, "id": self._snapshot}))

    # --- reading ---

    def _take(self, delivery: Delivery) -> None:
        """Take a message; the first one tells that this keeper is active.

        The mark that is written then comes after everything that was in the queue.
        """
        if self._trust.fault(delivery):
            self.done(delivery)
            return
        if not self._mark:
            self._mark = new_id()
            self.write(encode({KIND: MARK, "id": self._mark}))
        try:
            message = decode(delivery.body)
            delivery.body = b""  # it may be held for long
            self._sort(message, delivery)
        except (BadClaim, *_WRONG) as error:
            text = str(error) if isinstance(error, BadClaim) else f"it lacks something: {error!r:.100}"
            self._log.error("dropped from the log of claims: %s", text)
            self.done(delivery)

    def _sort(self, message: Message, delivery: Delivery) -> None:
        if message.kind == ASK:
            _check_times(message)
        if message.kind == MARK:
            self.done(delivery)
            if message.head["id"] == self._mark and not self.is_leading:
                self._lead()
        elif not self.is_leading:
            _check(message)
            self._hold(delivery, message)
        elif message.kind == COMMAND:
            self._listener.log_command(message, delivery)
        elif message.kind in (SNAPSHOT, CHUNK):
            self._take_snapshot(message, delivery)
        else:
            self._apply(message, delivery)

    def _hold(self, delivery: Delivery, message: Message | None = None) -> None:
        self._held.append(Held(delivery, message, time.monotonic()))

    def _apply(self, message: Message, delivery: Delivery) -> None:
        """Apply an entry; one without consequences is acknowledged at once."""
        effect = self._applied(message)
        if effect.is_change:
            self._hold(delivery)
        else:
            self.done(delivery)
        self._listener.log_entry(message, effect)

    def _applied(self, message: Message) -> Effect:
        """Apply an entry, and note who waits for a result."""
        if message.kind == TOLD:
            self.untold.pop((scope_of(message.head["scope"]), message.head["id"]), None)
            return Effect(is_change=True)
        if message.kind == OWED:
            followers = followers_in(message.head)
            if not self.is_leading:  # else this keeper has written it, and tells them
                self.untold[scope_of(message.head["scope"]), message.head["id"]] = message, followers
            return Effect(is_change=True)
        effect = self.claims.apply(message.head)
        if effect.followers:
            self.untold[scope_of(message.head["scope"]), message.head["id"]] = message, effect.followers
        return effect

    # --- the beginning and the end of leading ---

    def _lead(self) -> None:
        """Come to the claims that the entries give, from the last whole snapshot on."""
        held, self._held = self._held, []
        commands: list[tuple[Message, Delivery]] = []
        unread: list[tuple[Message, Effect]] = []
        begin, chunks = _last_snapshot([each.message for each in held])
        for chunk in chunks:
            self._restore(chunk)
        for number, each in enumerate(held):
            message, each.message = each.message, None
            if message is None or number < begin:
                self.done(each.delivery)
            elif message.kind == COMMAND:
                commands.append((message, each.delivery))
            else:
                self._held.append(each)
                effect = None if message.kind in (SNAPSHOT, CHUNK) else self._replay(message)
                if effect is not None and not each.delivery.redelivered:
                    unread.append((message, effect))
        self._chunks = len(chunks)
        self.is_leading = True
        self._listener.log_leads()
        for message, effect in unread:  # no keeper before this one has answered them
            self._listener.log_entry(message, effect._replace(followers=()))  # log_leads has told these
        for command in commands:  # the first messages in a log that was empty may be commands
            self._listener.log_command(*command)

    def _restore(self, chunk: Message) -> None:
        for plain in chunk.head["claims"]:
            try:
                self.claims.add_json(plain)
            except _WRONG as error:
                self._log.error("a claim cannot be read, and is forgotten: %s", f"{error!r:.100}")

    def _replay(self, message: Message) -> Effect | None:
        try:
            return self._applied(message)
        except _WRONG as error:
            self._log.error("ignored in the log of claims: it lacks something: %s", f"{error!r:.100}")
            return None

    def _lost(self) -> None:
        was_leading, self.is_leading = self.is_leading, False
        self._mark = self._snapshot = ""
        self._held, self.claims = [], Claims()
        self.untold.clear()
        self._chunks = self._missing = 0
        self._outbound.forget_all()
        if was_leading:
            self._listener.log_lost()

    # --- snapshots ---

    def _take_snapshot(self, message: Message, delivery: Delivery) -> None:
        """Write the claims at the place where the snapshot begins; replace entries once they are all read."""
        if message.head["id"] != self._snapshot:
            self.done(delivery)  # of a keeper before this one, which has read more since
            return
        if message.kind == SNAPSHOT:
            self._begins = len(self._held)
            self._write_claims()
        else:
            self._missing -= 1
        self._hold(delivery)
        if not self._missing:
            self._replace()

    def _write_claims(self) -> None:
        self.claims.purge(time.time())
        for end, followers in self.untold.values():
            self.write(encode_owed(end, followers))
        chunks = list(_chunks_of(self.claims.as_json())) or [[]]
        self._chunks = self._missing = len(chunks)
        for chunk in chunks:
            self.write(encode({KIND: CHUNK, "id": self._snapshot, "chunks": len(chunks), "claims": chunk}))

    def _replace(self) -> None:
        replaced, self._held = self._held[: self._begins], self._held[self._begins :]
        self._snapshot = ""
        self._log.debug("a snapshot replaces entries: %d", len(replaced))
        for each in replaced:
            self.done(each.delivery)
        if not self.claims and len(self._held) == 1 + self._chunks:
            for each in self._held:  # there is nothing to be known
                self.done(each.delivery)
            self._held, self._chunks = [], 0

    def _written(self, _publication: Publication, result: PublishResult, reason: str) -> None:
        if result is not PublishResult.CONFIRMED:
            self._log.error("the log of claims cannot be written: %s", reason or result.value)
            self._subscription.restart()  # from what the broker has


def _chunks_of(claims: Iterable[list[Any]]) -> Iterator[list[list[Any]]]:
    """Divide claims into what messages can hold."""
    chunk: list[list[Any]] = []
    room = _CHUNK
    for claim in claims:
        room -= 1 + len(claim[2]["followers"])
        if room < 0 and chunk:
            yield chunk
            chunk, room = [], _CHUNK - 1 - len(claim[2]["followers"])
        chunk.append(claim)
    if chunk:
        yield chunk


def _check_times(message: Message) -> None:
    """Raise BadClaim for questions from the future: they would free keys whose time is not over."""
    ahead = max((float(each["time"]) for each in message.head["asks"]), default=0.0) - time.time()
    if ahead > _MOST_AHEAD:
        raise BadClaim(f"questions whose time is {ahead:.0f} s ahead; is the clock of a dispatcher wrong?")


def _check(message: Message) -> None:
    """Raise KeyError, TypeError or ValueError for a message of a snapshot that lacks something."""
    if message.kind in (SNAPSHOT, CHUNK):
        str(message.head["id"])
    if message.kind == CHUNK:
        int(message.head["chunks"])
        list(message.head["claims"])


def _last_snapshot(messages: list[Message | None]) -> tuple[int, list[Message]]:
    """Return where the last whole snapshot begins, and its messages; 0 and none if there is none."""
    found: dict[str, list[Message]] = {}
    begins: dict[str, int] = {}
    place, whole = 0, list[Message]()
    for number, message in _those_of_snapshots(messages):
        name = str(message.head["id"])
        if message.kind == SNAPSHOT:
            begins[name] = number
        elif name in begins:
            chunks = found.setdefault(name, [])
            chunks.append(message)
            if len(chunks) == message.head["chunks"] and begins[name] >= place:
                place, whole = begins[name], chunks
    return place, whole


def _those_of_snapshots(messages: list[Message | None]) -> Iterator[tuple[int, Message]]:
    for number, message in enumerate(messages):
        if message is not None and message.kind in (SNAPSHOT, CHUNK):
            yield number, message
