"""The register: a queue on the broker that holds one message for each schedule, and elects who leads.

It is a quorum queue with a single active consumer
(https://www.rabbitmq.com/docs/consumers#single-active-consumer). The active one gets all messages and keeps
them unacknowledged: it leads. When it ends, or loses its connection, the broker gives them to the next one. A
change of a schedule is published as a new message; once that is confirmed, the old one is acknowledged. If
the leader ends between the two, its successor gets both and keeps the higher version.
"""

import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any, Final

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import MalformedProperties
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.outbound import Outbound
from taskqueue.broker.publisher import Publication, PublishResult
from taskqueue.broker.scheduling import DEFINE, OVER
from taskqueue.broker.session import Session
from taskqueue.broker.subscription import Delivery, Subscription
from taskqueue.broker.topology import REJECTED_QUEUE, SCHEDULES
from taskqueue.broker.trust import Trust
from taskqueue.errors import BadSchedule
from taskqueue.messages.content import JSON
from taskqueue.messages.forwarding import new_id, rejected
from taskqueue.process.logs import Log
from taskqueue.scheduler.state import (
    COMMAND,
    KIND,
    MARK,
    MOST_SCHEDULES,
    SCHEDULE,
    State,
    decode,
    encode,
)

#: Seconds after which a message is published anew. The broker closes the channel of a consumer that holds one
#: for longer than consumer_timeout, 30 minutes by default; and its log begins with the oldest message.
RENEW_AFTER: Final = 600.0
_MOST_RENEWED: Final = 100  # in a round
_MOST_WAITING: Final = 1_000  # messages that are held before the mark, which else might never come
#: The prefetch: what is held, and as much again as a few rounds of the loop take. Not more: at each
#: acknowledgement a channel of RabbitMQ looks through all older messages that are unacknowledged.
_MOST_HELD: Final = MOST_SCHEDULES + 4 * _MOST_WAITING

_PROPERTIES: Final = Properties(content_type=JSON, delivery_mode=2).encode()


class RegisterListener:
    """The owner of a register."""

    def register_open(self) -> None:
        """This scheduler stands by; messages can be sent to the register."""

    def register_leads(self) -> None:
        """This scheduler leads: it has every schedule."""

    def register_lost(self) -> None:
        """This scheduler leads no more, and nothing that it began goes on."""

    def register_message(self, message: Mapping[str, Any], delivery: Delivery) -> None:
        """Act on a message that is no schedule; `done` ends it. Only while this scheduler leads."""


@dataclass(slots=True, eq=False)
class Slot:
    """A schedule in the register."""

    state: State
    stored: int  # the highest version that the broker has
    since: float = 0.0  # monotonic; when its oldest message came here, or was published
    deliveries: list[tuple[int, Delivery]] = field(default_factory=list)  # with their versions
    removed: Callable[[], None] | None = None  # called once its messages are acknowledged


class Register:
    """Keeps the schedules on the broker, while this scheduler leads."""

    def __init__(
        self,
        loop: EventLoop,
        session: Session,
        outbound: Outbound,
        listener: RegisterListener,
        *,
        renew_after: float = RENEW_AFTER,
    ) -> None:
        """Prepare; `open` begins to consume.

        outbound -- over the same session, so that a leader without a connection cannot fire
        renew_after -- seconds that a message is held
        """
        self.is_leading = False
        self._me = new_id()  # another one each time that this scheduler comes to lead
        self._slots: OrderedDict[str, Slot] = OrderedDict()  # in the order of `since`
        self._outbound = outbound
        self._listener = listener
        self._renew_after = renew_after
        self._mark = ""  # the id of the mark that this scheduler has sent, "" for none
        self._waiting: list[tuple[Mapping[str, Any], Delivery]] = []  # messages before the mark
        self._log = Log("scheduler")
        self._trust = Trust(outbound, self._log)
        self._subscription = Subscription(
            loop,
            session,
            SCHEDULES.name,
            _MOST_HELD,
            on_delivery=self._take,
            on_lost=self._lost,
            on_consuming=listener.register_open,
            arguments=SCHEDULES.arguments,
        )

    def __len__(self) -> int:
        return len(self._slots)

    def open(self) -> None:
        """Stand by, and lead when the broker says so."""
        self._subscription.resume()

    def states(self) -> Iterable[State]:
        """Return all schedules."""
        return [slot.state for slot in self._slots.values() if slot.removed is None]

    def find(self, name: str) -> State | None:
        """Return a schedule; None if there is none of that name."""
        slot = self._slots.get(name)
        return slot.state if slot is not None and slot.removed is None else None

    def write(self, state: State, then: Callable[[], None]) -> None:
        """Replace a schedule's state, or add a schedule; call back once the broker has it."""
        slot = self._slots.get(state.name)
        version = slot.state.version + 1 if slot is not None else 1
        state = replace(state, version=version, writer=self._me)
        if slot is None:
            slot = self._slots[state.name] = Slot(state, 0)
        slot.state, slot.since = state, time.monotonic()
        self._slots.move_to_end(state.name)
        publication = _to_register(_PROPERTIES, state.as_json())
        self._outbound.send(publication, partial(self._written, slot, version, then))

    def remove(self, name: str, then: Callable[[], None]) -> None:
        """Remove a schedule; call back once its messages are acknowledged."""
        slot = self._slots[name]
        slot.removed = then
        self._settle(slot)

    def done(self, delivery: Delivery) -> None:
        """Acknowledge a message that is no schedule."""
        self._subscription.settle(delivery)

    def send(self, message: Mapping[str, Any], *, lives: float | None = None) -> None:
        """Send a message to whoever leads.

        lives -- seconds after which the broker drops it; None: it waits for a leader
        """
        expiration = None if lives is None else str(int(lives * 1000))
        properties = Properties(content_type=JSON, delivery_mode=2, expiration=expiration).encode()
        publication = _to_register(properties, message)
        self._outbound.send(publication, _ignore)

    def renew(self) -> None:
        """Publish the messages anew that have been held for long."""
        before = time.monotonic() - self._renew_after
        for slot in list(islice(self._slots.values(), _MOST_RENEWED)):
            if slot.since > before:
                return
            self.write(slot.state, _nothing)

    # --- what the broker delivers ---

    def _take(self, delivery: Delivery) -> None:
        """Take a delivery; the first one tells that this scheduler is the active consumer.

        The mark that is sent then comes after everything that was in the queue.
        """
        if fault := self._trust.fault(delivery):
            self._refuse(delivery, fault)
            return
        if not self._mark:
            self._mark = new_id()
            self.send({KIND: MARK, "id": self._mark})
        try:
            message = decode(delivery.body)
            delivery.body = b""  # it may be held for long
            self._sort(message, delivery)
        except BadSchedule as error:
            self._log.error("dropped from the register: %s", error)
            self.done(delivery)

    def _refuse(self, delivery: Delivery, fault: str) -> None:
        """Drop a message of an untrusted user; a schedule is kept: perhaps the daemons' user has changed."""
        with contextlib.suppress(BadSchedule, MalformedProperties):
            if decode(delivery.body)[KIND] == SCHEDULE:
                user = self._outbound.session.amqp.user
                kept = rejected(Properties.decode(delivery.properties), fault, SCHEDULES.name, user)
                aside = Publication(REJECTED_QUEUE, kept.encode(), delivery.body)
                self._outbound.send(aside, lambda *_: self.done(delivery))
                return
        self.done(delivery)

    def _sort(self, message: Mapping[str, Any], delivery: Delivery) -> None:
        if message[KIND] == SCHEDULE:
            self._keep(State.of_json(message), delivery)
        elif message[KIND] == MARK:
            self.done(delivery)
            if message.get("id") == self._mark and not self.is_leading:
                self._lead()
        elif self.is_leading:
            self._listener.register_message(message, delivery)
        elif message[KIND] not in (COMMAND, DEFINE, OVER):
            self.done(delivery)  # the time of a HELLO says nothing after a wait
        else:
            self._wait(message, delivery)

    def _wait(self, message: Mapping[str, Any], delivery: Delivery) -> None:
        """Hold a message until this scheduler leads, or send it to the queue's end, behind the mark.

        Commands beyond the number are dropped: nobody waits for the answers of so many.
        """
        if len(self._waiting) < _MOST_WAITING:
            self._waiting.append((message, delivery))
            return
        if message[KIND] == COMMAND:
            self.done(delivery)
            return

        def moved(_publication: Publication, result: PublishResult, _reason: str) -> None:
            if result is PublishResult.CONFIRMED:
                self.done(delivery)
            elif self.is_leading:
                self._listener.register_message(message, delivery)
            else:
                self._waiting.append((message, delivery))

        self._outbound.send(_to_register(_PROPERTIES, message), moved)

    def _keep(self, state: State, delivery: Delivery) -> None:
        slot = self._slots.get(state.name)
        if slot is None:
            if len(self._slots) >= MOST_SCHEDULES:
                raise BadSchedule(f"schedule {state.name}: there are {MOST_SCHEDULES}")
            slot = self._slots[state.name] = Slot(state, state.version, time.monotonic())
        elif not self.is_leading and (state.version, state.last) <= (slot.state.version, slot.state.last):
            self.done(delivery)  # one message is held for each schedule: the mark must come
            return
        elif state.writer != self._me and (state.version, state.last) > (slot.state.version, slot.state.last):
            slot.state = state  # of the leader before us
        slot.stored = max(slot.stored, state.version)
        slot.deliveries.append((state.version, delivery))
        self._settle(slot)

    def _lead(self) -> None:
        self.is_leading = True
        self._listener.register_leads()
        waiting, self._waiting = self._waiting, []
        for message, delivery in waiting:
            self._listener.register_message(message, delivery)

    def _lost(self) -> None:
        was_leading, self.is_leading = self.is_leading, False
        self._mark, self._me = "", new_id()
        self._slots.clear()
        self._waiting.clear()
        self._outbound.forget_all()
        if was_leading:
            self._listener.register_lost()

    # --- what is published ---

    def _written(
        self,
        slot: Slot,
        version: int,
        then: Callable[[], None],
        _publication: Publication,
        result: PublishResult,
        reason: str,
    ) -> None:
        if result is not PublishResult.CONFIRMED:
            self._log.error("schedule %s cannot be written: %s", slot.state.name, reason or result.value)
            self._subscription.restart()  # from what the broker has
            return
        slot.stored = max(slot.stored, version)
        self._settle(slot)
        then()

    def _settle(self, slot: Slot) -> None:
        """Acknowledge the messages of a schedule but the newest, or all of one that is removed."""
        if slot.removed is not None and any(version == slot.state.version for version, _ in slot.deliveries):
            for _, delivery in slot.deliveries:
                self.done(delivery)
            del self._slots[slot.state.name]
            slot.removed()
            return
        old = [delivery for version, delivery in slot.deliveries if version < slot.stored]
        if old:
            slot.deliveries = [each for each in slot.deliveries if each[0] >= slot.stored]
            for delivery in old:
                self.done(delivery)


def _to_register(properties: bytes, message: Mapping[str, Any]) -> Publication:
    return Publication(SCHEDULES.name, properties, encode(message), declares=False, is_signed=True)


def _ignore(_publication: Publication, _result: PublishResult, _reason: str) -> None:
    pass


def _nothing() -> None:
    pass
