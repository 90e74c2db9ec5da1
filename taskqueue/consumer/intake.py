"""The queues that a group's consumer takes from: one for each worker type that its workers serve."""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

from taskqueue.broker.loop import EventLoop
from taskqueue.broker.session import Session
from taskqueue.broker.subscription import Delivery, Subscription
from taskqueue.broker.topology import worker_queue
from taskqueue.config import GroupSettings
from taskqueue.consumer.assignment import Assignment
from taskqueue.worker.frames import Service


class Intake:
    """Consumes some queues over one session; each assignment is settled where it came from."""

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

        workers -- for how many there are workitems to be taken
        on_delivery -- takes each delivery, with what holds for workitems of its worker type
        on_lost -- a channel is gone: the broker will deliver again what was not acknowledged on it
        on_consuming -- the broker delivers from another of the queues
        """
        self._loop = loop
        self._session = session
        self._workers = workers
        self._on_delivery = on_delivery
        self._on_lost, self._on_consuming = on_lost, on_consuming
        self._is_wanted = False
        self._prefetch = 1
        self._subscriptions: dict[str, Subscription] = {}  # by worker type

    def serve(self, groups: Iterable[GroupSettings]) -> None:
        """Take from the queues of these worker types, too."""
        for group in groups:
            subscription = self._subscriptions[group.worker_type] = Subscription(
                self._loop,
                self._session,
                worker_queue(group.worker_type),
                1,
                consumers=self._workers,
                on_delivery=partial(self._on_delivery, group),
                on_consuming=self._on_consuming,
                on_lost=self._on_lost,
            )
            if self._is_wanted:
                subscription.resume()
        self.set_prefetch(self._prefetch)

    def __len__(self) -> int:
        return len(self._subscriptions)

    @property
    def is_consuming(self) -> bool:
        """Whether the broker may deliver."""
        return any(each.is_consuming for each in self._subscriptions.values())

    @property
    def unserved(self) -> list[str]:
        """The worker types that nothing is taken of, and no long workitem is why."""
        subscriptions = self._subscriptions.items()
        return [name for name, one in subscriptions if not (one.is_consuming or one.is_all_withheld)]

    @property
    def takes_work(self) -> bool:
        """Whether every queue is consumed, as far as no long workitem forbids it."""
        return bool(self._subscriptions) and not self.unserved

    @property
    def ack_timeout(self) -> float | None:
        """How long the broker waits for an acknowledgement, in seconds, once it has told."""
        told = [each.ack_timeout for each in self._subscriptions.values() if each.ack_timeout is not None]
        return min(told, default=None)

    def resume(self) -> None:
        """Consume from now on, or as soon as the session is up."""
        self._is_wanted = True
        for each in self._subscriptions.values():
            each.resume()

    def set_prefetch(self, prefetch: int) -> None:
        """Have so many workitems for each worker delivered; all queues share what is taken ahead."""
        self._prefetch = prefetch
        for each in self._subscriptions.values():
            each.set_prefetch(math.ceil((prefetch - 1) * self._workers / len(self)))

    def pause(self) -> None:
        """Take nothing new; what was delivered can still be settled."""
        self._is_wanted = False
        for each in self._subscriptions.values():
            each.pause()

    def flush(self) -> None:
        """Acknowledge what is settled, now."""
        for each in self._subscriptions.values():
            each.flush()

    # --- one assignment ---

    def settle(self, assignment: Assignment) -> None:
        """Note that the broker has confirmed what became of a workitem."""
        self._source(assignment).settle(assignment.delivery)

    def leave(self, assignment: Assignment) -> None:
        """Leave a workitem unacknowledged for good, and take another in its place."""
        self._source(assignment).leave(assignment.delivery)

    def give_back(self, assignment: Assignment) -> None:
        """Return a workitem to its queue, for whoever can start it."""
        self._source(assignment).give_back(assignment.delivery)

    def is_current(self, assignment: Assignment) -> bool:
        """Tell whether a workitem's delivery can be acknowledged."""
        return self._source(assignment).is_current(assignment.delivery)

    def is_lost(self, assignment: Assignment) -> bool:
        """Tell whether the channel of a workitem's delivery is gone: it may be delivered again."""
        return self._source(assignment).is_lost(assignment.delivery)

    def acknowledge(self, assignment: Assignment) -> None:
        """Acknowledge a workitem's delivery now, although the workitem is not done with."""
        self._source(assignment).acknowledge(assignment.delivery)

    def withhold(self, assignment: Assignment) -> None:
        """Have one consumer fewer on a workitem's queue from now on."""
        self._source(assignment).withhold(assignment.delivery)

    def restore(self, assignment: Assignment) -> None:
        """Have one consumer more on a workitem's queue again."""
        self._source(assignment).restore()

    def discard(self, group: GroupSettings, delivery: Delivery) -> None:
        """Settle what needs no run."""
        self._subscriptions[group.worker_type].settle(delivery)

    def _source(self, assignment: Assignment) -> Subscription:
        return self._subscriptions[assignment.group.worker_type]


def groups_of(group: GroupSettings, services: tuple[Service, ...]) -> tuple[GroupSettings, ...]:
    """Return what holds for each worker type that a group's workers serve."""
    return tuple(
        replace(
            group,
            worker_type=service.worker_type,
            timeout=group.timeout if service.timeout is None else service.timeout,
            retries=group.retries if service.retries is None else service.retries,
        )
        for service in services or (Service(group.worker_type),)
    )
