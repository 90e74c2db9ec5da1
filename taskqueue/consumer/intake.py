"""The queues that a group's consumer receives from: that of each worker type, and its lanes."""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Final

from taskqueue.amqp.properties import Properties
from taskqueue.broker.errands import exists
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.session import Session
from taskqueue.broker.subscription import Delivery, Subscription
from taskqueue.broker.topology import lane_queue, type_of_lane, worker_queue
from taskqueue.config import GroupSettings
from taskqueue.consumer.in_flight import Assignment
from taskqueue.messages.forwarding import attributed
from taskqueue.messages.lanes import MOST_LANES
from taskqueue.worker.frames import Service

_MOST_AHEAD: Final = 600  # short workitems taken ahead from one lane
_RESERVE: Final = 8  # times what the workers need
_MOST_BYTES: Final = 64 * 1024 * 1024  # of their bodies
_SPARE: Final = 1  # workitems of a lane that wait while all workers are busy with others of it
_ROUND_TRIPS: Final = 2  # with the broker, after which a lane's first workitem has come
_ROUND_TRIP_TIMEOUT: Final = 1.0  # seconds; longer, and the workers take what has come
_UP_DELAY: Final = 1.0  # seconds until the first look, while the broker is away
_LOOK_DELAY: Final = 3600.0  # seconds between two looks for lanes that others have declared


class Intake:
    """Consumes several queues over one session; each assignment is settled on its own subscription."""

    def __init__(
        self,
        loop: EventLoop,
        session: Session,
        workers: int,
        *,
        on_delivery: Callable[[GroupSettings, Delivery], None],
        on_lost: Callable[[], None],
        on_consuming: Callable[[], None],
    ) -> None:
        """Begin without a queue.

        workers -- the number of workers to receive workitems for
        on_delivery -- takes each delivery, with the settings for its worker type
        on_lost -- a channel is lost: the broker will redeliver its unacknowledged messages
        on_consuming -- the broker delivers from one more queue, or has delivered the first of all lanes
        """
        self._loop = loop
        self._session = session
        self._workers = workers
        self._on_delivery = on_delivery
        self._on_lost, self._on_consuming = on_lost, on_consuming
        self._is_wanted = False
        self._prefetch = 1
        self._consumers: dict[str, int] = {}  # the number of AMQP consumers by queue
        self._ahead: dict[str, int] = {}  # by queue, beside one for each of its AMQP consumers
        self._subscriptions: dict[str, Subscription] = {}  # by queue
        self._types: dict[str, str] = {}  # worker type by queue
        self._left_out: frozenset[str] = frozenset()  # worker types of which nothing is received
        self._lane_queues: set[str] = set()  # the lanes, and the queues of their worker types
        self._size = 0  # bytes; a decaying maximum of the size of bodies, where there are lanes
        self._unheard: set[str] = set()  # the lanes whose first workitem may be on its way
        self._rounds = 0  # counts the times that they were listened to
        self.has_lanes = False

    def serve(self, groups: Iterable[GroupSettings]) -> None:
        """Receive from the queues of these worker types, too."""
        for group in groups:
            lanes = [lane_queue(group.worker_type, number) for number in range(group.lanes)]
            for queue in (worker_queue(group.worker_type), *lanes):
                self._subscribe(group, queue)
            self._look_for_lanes(group)
        self.set_prefetch(self._prefetch)

    def _subscribe(self, group: GroupSettings, queue: str) -> None:
        """Receive from one queue. A lane has one AMQP consumer: all lanes together have enough workitems."""
        take: Callable[[Delivery], None] = partial(self._on_delivery, group)
        self.has_lanes |= bool(type_of_lane(queue))
        self._types[queue] = group.worker_type
        consumers = self._consumers[queue] = 1 if group.lanes else self._workers
        self._lane_queues.update([queue] if group.lanes else [])
        self._ahead[queue] = 0
        subscription = self._subscriptions[queue] = Subscription(
            self._loop,
            self._session,
            queue,
            1,
            consumers=consumers,
            on_delivery=partial(self._take, take) if group.lanes else take,
            on_consuming=self._on_consuming,
            on_lost=self._on_lost,
        )
        if self._is_wanted and group.worker_type not in self._left_out:
            subscription.resume()

    def leave_out(self, worker_types: frozenset[str]) -> None:
        """Receive nothing of these worker types, and again of all others."""
        self._left_out = worker_types
        if self._is_wanted:
            self._is_wanted = False
            self.resume()

    def resize(self, workers: int) -> None:
        """Receive workitems for another number of workers."""
        self._workers = workers
        for queue in self._subscriptions.keys() - self._lane_queues:
            self._consumers[queue] = workers
            self._subscriptions[queue].set_consumers(workers)
        self.set_prefetch(self._prefetch)

    def __len__(self) -> int:
        return len(self._subscriptions)

    def queues(self) -> list[str]:
        """Return the names of the queues."""
        return list(self._subscriptions)

    @property
    def worker_types(self) -> list[str]:
        """The worker types."""
        return sorted(set(self._types.values()))

    @property
    def types(self) -> int:
        """The number of worker types."""
        return len(set(self._types.values()))

    @property
    def is_consuming(self) -> bool:
        """Whether the broker may deliver from any of the queues."""
        return any(each.is_consuming for each in self._subscriptions.values())

    @property
    def unserved(self) -> list[str]:
        """The worker types with a queue that is not consumed, for another reason than leased workitems."""
        subscriptions = self._subscriptions.items()
        queues = [name for name, one in subscriptions if not (one.is_consuming or one.is_all_withheld)]
        types = dict.fromkeys(self._types[queue] for queue in queues)
        return [name for name in types if name not in self._left_out]

    @property
    def takes_work(self) -> bool:
        """Whether every queue is consumed, except those that leased workitems hold back."""
        return bool(self._subscriptions) and not self.unserved

    @property
    def ack_timeout(self) -> float | None:
        """The broker's acknowledgement timeout in seconds; None until the broker has named it."""
        told = [each.ack_timeout for each in self._subscriptions.values() if each.ack_timeout is not None]
        return min(told, default=None)

    def resume(self) -> None:
        """Consume as soon as the session is up."""
        is_new, self._is_wanted = not self._is_wanted, True
        for queue, each in self._subscriptions.items():
            if self._types[queue] in self._left_out:
                each.pause()
            else:
                each.resume()
        if is_new and self.has_lanes and self._prefetch == 1:
            self._listen()

    def pause(self) -> None:
        """Stop receiving; workitems that were delivered can still be settled."""
        self._is_wanted = False
        for each in self._subscriptions.values():
            each.pause()

    def flush(self) -> None:
        """Send the acknowledgements of settled deliveries now."""
        for each in self._subscriptions.values():
            each.flush()

    def discard(self, delivery: Delivery) -> None:
        """Settle a delivery that needs no run."""
        self._subscriptions[delivery.queue].settle(delivery)

    def source(self, assignment: Assignment) -> Subscription:
        """Return the subscription that delivered a workitem."""
        return self._subscriptions[assignment.delivery.queue]

    @property
    def is_plenty(self) -> bool:
        """Whether the queues deliver more than can begin soon, if workers are busy for a second.

        One queue does not. Short workitems of lanes begin soon, and are many to send back and forth.
        """
        return len(self) > 1 and (self._prefetch == 1 or not self.has_lanes)

    def is_surplus(self, waiting: int, ready: int) -> bool:
        """Tell whether more workitems wait than workers are being replaced; fewer would come again at once.

        Short workitems wait only for a moment, and lanes offer more than can begin: something to choose from.

        waiting -- number of workitems without a worker
        ready -- number of workers that are not being replaced
        """
        offers_few = self._prefetch == 1 and not self.has_lanes
        return offers_few and waiting + ready > self._workers * len(self)

    def withhold(self, assignment: Assignment) -> None:
        """Receive one workitem less at a time, as a leased one takes long; no lane is."""
        if not assignment.group.lanes:
            self.source(assignment).withhold(assignment.delivery)

    def restore(self, assignment: Assignment) -> None:
        """Take back `withhold`."""
        if not assignment.group.lanes:
            self.source(assignment).restore()

    # --- the prefetch ---

    @property
    def prefetch(self) -> int:
        """The number of workitems that the broker delivers at most before any is settled."""
        return sum(self._consumers.values()) + sum(self._ahead.values())

    def set_prefetch(self, prefetch: int) -> None:
        """Set the prefetch, in workitems a worker; all queues share the workitems taken ahead."""
        self._prefetch = prefetch
        if self.has_lanes:
            self._balance()
        elif self._subscriptions:
            for queue in self._subscriptions:
                self._take_ahead(queue, math.ceil((prefetch - 1) * self._workers / len(self)))

    def balance(self) -> None:
        """Adapt what the lanes take ahead to the size of bodies; called regularly during work."""
        if self.has_lanes:
            self._size = max(self._size and 1, self._size * 9 // 10)
            self._balance()

    def _take(self, take: Callable[[Delivery], None], delivery: Delivery) -> None:
        """Take a delivery of a type with lanes; large bodies reduce what is taken ahead."""
        if len(delivery.body) >= 2 * self._size:
            self._size = len(delivery.body) + 1
            self._loop.at_round_end(self._balance)
        take(delivery)

    def _balance(self) -> None:
        """Adapt what each lane takes ahead, unless it is near enough: a change costs a new consumer."""
        wanted = lane_prefetch(self._prefetch, self._workers, len(self), self._size)
        for queue, now in self._ahead.items():
            if not now < 4 * wanted < 8 * now:
                self._take_ahead(queue, wanted)

    def _take_ahead(self, queue: str, number: int) -> None:
        self._ahead[queue] = number
        self._subscriptions[queue].set_prefetch(number)

    # --- the first workitem of each lane ---

    @property
    def is_listening(self) -> bool:
        """Whether the first workitem of a lane may be on its way, so that none goes to a worker."""
        return bool(self._unheard)

    def _listen(self) -> None:
        """Wait for the broker's answers, behind which are the first workitems of the lanes.

        Only where workitems are long: of short ones, a worker has soon done what it should not have begun.
        """
        self._rounds += 1
        usable = [name for name, each in self._subscriptions.items() if each.is_usable]
        self._unheard = set(usable)
        for queue in usable:
            self._ask(queue, self._rounds, _ROUND_TRIPS)
        self._loop.call_later(_ROUND_TRIP_TIMEOUT, partial(self._heard_enough, self._rounds))

    def _ask(self, queue: str, number: int, left: int) -> None:
        if left:
            then = partial(self._ask, queue, number, left - 1)
            self._subscriptions[queue].after_deliveries(then)
        elif number == self._rounds:
            self._unheard.discard(queue)
            if not self._unheard:
                self._on_consuming()

    def _heard_enough(self, number: int) -> None:
        if number == self._rounds and self._unheard:
            self._unheard.clear()
            self._on_consuming()

    # --- lanes that this group does not have, or has no more ---

    def _look_for_lanes(self, group: GroupSettings) -> None:
        """Receive from further lanes that exist, too; look again after an hour.

        The group had more lanes once, or has more on another host: nobody else may empty them.
        """
        is_up = self._session.is_up
        self._loop.call_later(_LOOK_DELAY if is_up else _UP_DELAY, partial(self._look_for_lanes, group))
        if is_up:
            self._look_for_next(group)

    def _look_for_next(self, group: GroupSettings) -> None:
        number = sum(name == group.worker_type for name in self._types.values()) - 1
        if number < MOST_LANES:
            queue = lane_queue(group.worker_type, number)
            found = partial(self._looked, group, queue)
            exists(self._session, queue, done=found, failed=lambda _reason: None)

    def _looked(self, group: GroupSettings, queue: str, is_there: bool) -> None:  # noqa: FBT001 -- a callback
        if is_there and queue not in self._subscriptions:
            self._subscribe(group, queue)
            self.set_prefetch(self._prefetch)
            self._look_for_next(group)


def lane_prefetch(prefetch: int, workers: int, lanes: int, size: int) -> int:
    """Return the number of workitems that each lane takes ahead, beside its first one.

    Each lane can keep all workers busy, with one to spare, so that there is something to choose. Of short
    workitems, each lane takes several times what the workers need: its share may be any, and while the broker
    is slow, the others would get it. The number does not depend on the other lanes, since a lane that changes
    its number delivers nothing for a while.

    prefetch -- workitems a worker; 1 where they are long
    lanes -- their number, with the queue of the worker type
    size -- bytes of a body; 0 if none has come yet: then only the first ones are taken
    """
    if not size:
        return 0
    wanted = max(workers + _SPARE, min(_RESERVE * (prefetch - 1) * workers, _MOST_AHEAD))
    return max(math.ceil(workers / lanes), min(wanted, _MOST_BYTES // size // lanes))


def authenticated(delivery: Delivery, login: str) -> Properties:
    """Return a delivery's properties, with the publisher's name only if it is authenticated.

    login -- our login at the broker

    Raises MalformedProperties.
    """
    received = Properties.decode(delivery.properties)
    if received.user_id is None and received.header_table is None:
        return received  # the usual case
    properties = attributed(received, login)
    if properties is not received:
        delivery.properties = properties.encode()
    return properties


def groups_of(group: GroupSettings, services: tuple[Service, ...]) -> tuple[GroupSettings, ...]:
    """Return the settings for each worker type that a group's workers serve."""
    return tuple(
        replace(
            group,
            worker_type=service.worker_type,
            timeout=group.timeout if service.timeout is None else service.timeout,
            retries=group.retries if service.retries is None else service.retries,
        )
        for service in services or (Service(group.worker_type),)
    )
