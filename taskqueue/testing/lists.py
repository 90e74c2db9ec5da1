"""The bench's replacement for the broker: lists that confirm everything, with the bench's own clock."""

from collections.abc import Callable
from typing import Any, Protocol

from taskqueue.amqp.properties import Properties
from taskqueue.broker.events import EventPublisher
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.outbound import Outbound
from taskqueue.broker.publisher import Publication, Publisher, PublishResult, Settled
from taskqueue.consumer.in_flight import Assignment


class Queues(Protocol):
    """The queues of a bench."""

    @property
    def now(self) -> float:
        """The bench's time, in seconds since 1970."""

    def put(self, queue: str, properties: Properties, body: bytes, due: float = 0.0) -> None:
        """Put a message into a queue, due at `due` seconds since 1970."""


class BenchMessage:
    """A message in a queue; it is not delivered before `due` (seconds since 1970)."""

    def __init__(self, queue: str, properties: Properties, body: bytes, due: float) -> None:
        self.queue, self.properties, self.body, self.due = queue, properties, body, due


class BenchPublisher(Publisher):
    """Publishes to a bench and confirms everything."""

    def __init__(self, bench: Queues) -> None:
        self._bench = bench
        self._unsettled: list[Publication] = []

    @property
    def is_ready(self) -> bool:
        """Whether it can publish: always."""
        return True

    def publish(self, publication: Publication) -> None:
        """Put a message into its queue."""
        self.publish_in(publication, 0.0)

    def publish_in(self, publication: Publication, seconds: float) -> None:
        """Put a message into its queue, to be delivered after `seconds` of the bench's time."""
        properties = Properties.decode(publication.properties)
        due = self._bench.now + seconds if seconds else 0.0
        self._bench.put(publication.queue, properties, publication.body, due)
        self._unsettled.append(publication)

    def confirm(self) -> None:
        """Confirm all publications; as with a broker, only after `publish` has returned."""
        while self._unsettled:
            publication = self._unsettled.pop(0)
            publication.settled(publication, PublishResult.CONFIRMED, "")


class BenchOutbound(Outbound):
    """Publishes to a bench, and delays messages in the bench's own time."""

    def __init__(self, publisher: BenchPublisher) -> None:
        self._to = publisher

    def send(self, publication: Publication, settled: Settled, wait: float | None = None) -> None:
        """Put a message into its queue, to be delivered after `wait` seconds of the bench's time."""
        publication.settled = settled
        self._to.publish_in(publication, wait or 0.0)

    def forget(self, publication: Publication) -> None:
        """Do nothing: the bench confirms everything."""


class BenchLoop(EventLoop):
    """An event loop whose rounds end at once."""

    def __init__(self) -> None:
        """Wait for nothing."""

    def at_round_end(self, callback: Callable[[], Any]) -> None:
        """Call back now."""
        callback()


class BenchEvents(EventPublisher[Assignment]):
    """Events that nobody records."""

    def __init__(self) -> None:
        """Begin without a broker."""
        self.on_recorded = lambda _waiting: None
        self.user = ""

    @property
    def is_on(self) -> bool:
        """Whether events are made: never."""
        return False

    def skip(self) -> None:
        """Do nothing."""
