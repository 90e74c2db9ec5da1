"""The numbers of messages in the broker's queues and of their consumers, for comparison with the record."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from taskqueue.broker.errands import QueueSize, measure
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.session import Session
from taskqueue.broker.topology import (
    FAILED_QUEUE,
    REJECTED_QUEUE,
    TASKQUEUE,
    lane_queue,
    type_of_lane,
    worker_queue,
)
from taskqueue.messages.events import Batch, Begun, Ended, Routed
from taskqueue.messages.routing import WORKER_TYPE

_MOST_TYPES: Final = 1000
_NEW_TYPE_DELAY: Final = 1.0  # seconds until the queue of a new worker type is counted, with all others
_MOST_LANES: Final = 10_000  # of all types
_OWN: Final = (TASKQUEUE, REJECTED_QUEUE, FAILED_QUEUE)


class Depths:
    """Counts the messages of taskqueue's queues; those of worker types that events have named.

    The messages in a type's lanes count as those of its queue.
    """

    def __init__(
        self, loop: EventLoop, session: Session, lanes: Mapping[str, int], on_found: Callable[[], None]
    ) -> None:
        """Ask nothing yet.

        lanes -- their numbers by worker type; under "DEFAULT" for all other types
        on_found -- called when all that was asked for is answered
        """
        self.found: dict[str, QueueSize] = {}  # by queue
        self.found_at: float | None = None  # when all of them were asked for; seconds since 1970
        self.found_until: float | None = None  # when all of them were answered
        self._loop = loop
        self._timer: object | None = None  # of the question for new worker types
        self._session = session
        self._on_found = on_found
        self._lanes = lanes
        self._types: set[str] = set()
        self._has_new = False  # whether one was added since they were asked for

    def note(self, batch: Batch) -> None:
        """Note the worker types of a batch; those that are new are asked for soon."""
        for event in batch.events:
            if isinstance(event, Routed | Ended | Begun):
                self.add(event.worker_type)
        if self._has_new and self._timer is None:
            self._timer = self._loop.call_later(_NEW_TYPE_DELAY, self._ask_for_new)

    def _ask_for_new(self) -> None:
        self._timer = None
        self.ask()

    def add_all(self, worker_types: Iterable[str]) -> None:
        """Count the queues of these worker types, too."""
        for worker_type in worker_types:
            self.add(worker_type)

    def add(self, worker_type: str) -> None:
        """Count the queue of this worker type, too."""
        is_new = worker_type not in self._types and len(self._types) < _MOST_TYPES
        if is_new and WORKER_TYPE.match(worker_type):
            self._types.add(worker_type)
            self._has_new = True

    def ask(self) -> None:
        """Ask the broker for all of them, if the session is up; they are `found` with the last answer."""
        if not self._session.is_up:
            return
        self._has_new = False
        queues = [*_OWN, *(queue for each in sorted(self._types) for queue in self._queues(each))]
        asked = _Asked(time.time(), set(queues))
        for queue in queues:
            measure(
                self._session,
                queue,
                done=partial(self._answered, asked, queue),
                failed=partial(self._refused, asked, queue),
            )

    def _queues(self, worker_type: str) -> Iterator[str]:
        yield worker_queue(worker_type)
        lanes = self._lanes.get(worker_type, self._lanes.get("DEFAULT", 0))
        for number in range(min(lanes, _MOST_LANES // len(self._types))):
            yield lane_queue(worker_type, number)

    def _answered(self, asked: "_Asked", queue: str, size: QueueSize) -> None:
        asked.found[queue] = size
        self._take(asked, queue)

    def _refused(self, asked: "_Asked", queue: str, _reason: str) -> None:
        self._take(asked, queue)

    def _take(self, asked: "_Asked", queue: str) -> None:
        asked.missing.remove(queue)
        if not asked.missing:
            self.found, self.found_at, self.found_until = _summed(asked.found), asked.at, time.time()
            self._on_found()


def _summed(found: Mapping[str, QueueSize]) -> dict[str, QueueSize]:
    """Return the sizes of queues with the messages of their lanes."""
    sums = {queue: size for queue, size in found.items() if not type_of_lane(queue)}
    for queue, size in found.items():
        if worker_type := type_of_lane(queue):
            whole = sums.get(worker_queue(worker_type), QueueSize())
            sums[worker_queue(worker_type)] = whole._replace(messages=whole.messages + size.messages)
    return sums


@dataclass(slots=True)
class _Asked:
    """A round of questions."""

    at: float
    missing: set[str]
    found: dict[str, QueueSize] = field(default_factory=dict)
