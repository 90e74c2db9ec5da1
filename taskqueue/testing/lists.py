"""The bench's broker: a list, which confirms everything, in a time of its own."""

from typing import Any, Protocol

from taskqueue.amqp.properties import Properties
from taskqueue.broker.delays import Delays
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.publisher import Publication, Publisher, PublishResult
from taskqueue.broker.topology import Provider, Queue


class Queues(Protocol):
    """Where messages go."""

    @property
    def now(self) -> float:
        """The time there, in seconds since 1970."""

    def put(self, queue: str, properties: Properties, body: bytes, due: float = 0.0) -> None:
        """Take a message into a queue."""


class BenchMessage:
    """A message in a queue, not to be delivered before it is due (seconds since 1970)."""

    def __init__(self, queue: str, properties: Properties, body: bytes, due: float) -> None:
        self.queue, self.properties, self.body, self.due = queue, properties, body, due


class NoLoop(EventLoop):
    """Watches nothing: on a bench nothing has to be waited for."""

    def __init__(self) -> None:
        pass


class BenchPublisher(Publisher):
    """Publishes to a bench, which confirms everything."""

    def __init__(self, bench: Queues) -> None:
        self._bench = bench
        self._unsettled: list[Publication] = []

    @property
    def is_ready(self) -> bool:
        """Always."""
        return True

    def publish(self, publication: Publication) -> None:
        """Put a message into its queue."""
        self.publish_in(publication, 0.0)

    def publish_in(self, publication: Publication, seconds: float) -> None:
        """Put a message into its queue, to be delivered in so many seconds of the bench's time."""
        properties = Properties.decode(publication.properties)
        due = self._bench.now + seconds if seconds else 0.0
        self._bench.put(publication.queue, properties, publication.body, due)
        self._unsettled.append(publication)

    def confirm(self) -> None:
        """Confirm what was published; as in service, not before whoever published is through."""
        while self._unsettled:
            publication = self._unsettled.pop(0)
            publication.settled(publication, PublishResult.CONFIRMED, "")


class BenchDelays(Delays):
    """Holds back what is not due, in the bench's own time."""

    def __init__(self, publisher: BenchPublisher) -> None:
        self._to = publisher

    def publish(self, publication: Publication, wait: float) -> None:
        """Put a message into its queue, to be delivered in `wait` seconds."""
        self._to.publish_in(publication, wait)


class BenchProvider(Provider):
    """Has every queue."""

    def __init__(self) -> None:
        pass

    def provide(self, queue: Queue, *, done: Any, failed: Any) -> None:  # noqa: ARG002 -- as it is called
        """Have the queue."""
        done()
