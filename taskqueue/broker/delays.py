"""Publishing to a queue later: the message waits in the broker, on a ladder of queues with fixed times."""

from collections.abc import Callable
from typing import Final

from taskqueue.broker.loop import EventLoop
from taskqueue.broker.publisher import Publication, Publisher, PublishResult
from taskqueue.broker.session import Session, SessionListener
from taskqueue.broker.topology import Provider, Queue, may_come_back, rung
from taskqueue.messages.forwarding import with_wait

_TRY_AGAIN: Final = 5.0  # seconds after a rung could not be declared, or was gone


class Delays(SessionListener):
    """Sends publications up the ladder.

    A rung holds a message for a fixed time, at most as long as what remains; a process that gets it early
    sends it up again, so the message says when it is due. A message without a queue to go to stays on its
    rung and holds up others there, so the queue it is for is made first. Where that or the rung cannot be
    declared, the publication is settled as PublishResult.UNDECLARED.
    """

    def __init__(self, loop: EventLoop, session: Session, publisher: Publisher, provider: Provider) -> None:
        """Publish with `publisher`, and declare with `provider`, over `session`."""
        self._loop = loop
        self._publisher = publisher
        self._provider = provider
        self._known: set[str] = set()  # the queues that are there, as far as this session knows
        self._epoch = 0  # counts the sessions: what waited in one, its owner publishes again in the next
        session.attach(self)

    def session_down(self) -> None:
        """Know nothing; the session calls this."""
        self._known.clear()
        self._epoch += 1

    def publish(self, publication: Publication, wait: float) -> None:
        """Publish a message so that it comes to `publication.queue` in about `wait` seconds.

        A time of day would not do: the clock may be set before it is looked at here.
        """
        step = rung(wait)
        publication.exchange = step.name
        publication.properties = with_wait(
            publication.properties, wait - step.arguments["x-message-ttl"] / 1000
        )
        self._provide([Queue(publication.queue), step], publication)

    def publish_again(self, publication: Publication) -> None:
        """Publish once more, later, what came back because its rung is gone."""
        self._known.clear()
        self._later(lambda: self.publish(publication, 0.0))

    def _provide(self, queues: list[Queue], publication: Publication) -> None:
        missing = next((queue for queue in queues if queue.name not in self._known), None)
        if missing is None:
            self._publisher.publish(publication)
            return
        self._provider.provide(
            missing,
            done=lambda: self._provided(missing, queues, publication),
            failed=lambda reason: self._failed(missing, reason, queues, publication),
        )

    def _failed(self, queue: Queue, reason: str, queues: list[Queue], publication: Publication) -> None:
        if may_come_back(reason):
            self._later(lambda: self._provide(queues, publication))
        else:
            is_target = queue.name == publication.queue
            why = reason if is_target else f"queue {queue.name}: {reason}"
            publication.settled(publication, PublishResult.UNDECLARED, why)

    def _later(self, action: Callable[[], None]) -> None:
        epoch = self._epoch
        self._loop.call_later(_TRY_AGAIN, lambda: action() if epoch == self._epoch else None)

    def _provided(self, queue: Queue, queues: list[Queue], publication: Publication) -> None:
        self._known.add(queue.name)
        self._provide(queues, publication)
