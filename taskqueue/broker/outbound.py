"""The outbound path: publishes messages, at once or delayed, until the broker confirms each of them."""

import re
import time
from collections.abc import Callable
from typing import Final

from taskqueue.broker.declaration import Provider, always_allowed
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.publisher import Publication, Publisher, PublishResult, Settled
from taskqueue.broker.session import Session, SessionListener
from taskqueue.broker.topology import Queue, delay_queue, is_temporary, queue_named
from taskqueue.messages.forwarding import with_wait

#: How RabbitMQ refuses a message that is larger than its max_message_size.
TOO_LARGE: Final = re.compile(r"is larger than (?:configured )?max size (\d+)")
_TRY_AGAIN: Final = 5.0  # seconds after a failed declaration, or after a delay queue was missing


class OutboundListener:
    """The owner of an outbound path; it is called when the path's state changes."""

    def outbound_ready(self) -> None:
        """Publications are sent at once. Unsettled ones are published again after this call."""

    def outbound_lost(self) -> None:
        """The connection is lost. Publications that are not forgotten are sent again over the next one."""

    def outbound_progress(self) -> None:
        """The broker has settled some publications."""


class Outbound(SessionListener):
    """Publishes over a session until the broker confirms or refuses each publication.

    If a publication is returned as unroutable, its queue is declared and it is published again. If the
    connection is lost, unconfirmed publications are published again over the next one. A delayed
    publication goes to a delay queue, which holds it for a fixed time, at most the remaining time; a process
    that receives it early publishes it once more. Its target queue is declared first: a message without one
    stays in the delay queue and blocks others there.
    """

    def __init__(
        self,
        loop: EventLoop,
        session: Session,
        listener: OutboundListener,
        *,
        on_reply: Callable[[bytes, bytes], None] | None = None,
        may_declare: Callable[[str], str] = always_allowed,
    ) -> None:
        """Publish over `session` while it is up.

        on_reply -- takes properties and body of direct replies
        may_declare -- returns why a missing queue of that name must not be declared; "" if it may
        """
        self.session = session
        self.publisher = Publisher(
            loop,
            session,
            on_ready=self._publisher_ready,
            on_lost=self._publisher_lost,
            on_batch=listener.outbound_progress,
            on_reply=on_reply,
        )
        self.provider = Provider(loop, session, may_declare)
        self._loop = loop
        self._listener = listener
        self._open: dict[Publication, Settled] = {}  # in the order of `send`
        self._lost: dict[Publication, None] = {}  # those of them that were open when the connection was lost
        self._known: set[str] = (
            set()
        )  # declared queues: delay queues, and the targets of delayed publications
        self._epoch = 0  # counts the sessions
        session.attach(self)

    @property
    def is_ready(self) -> bool:
        """Whether publications are sent at once."""
        return self.publisher.is_ready

    @property
    def unsettled(self) -> int:
        """Number of unsettled publications."""
        return len(self._open)

    def send(self, publication: Publication, settled: Settled, wait: float | None = None) -> None:
        """Publish a message so that it reaches its queue in about `wait` seconds; None: at once.

        settled -- called once: CONFIRMED; REFUSED; UNDECLARED if its queue is missing and cannot be declared;
            RETURNED if its queue is missing and `publication.declares` is false
        """
        self._open[publication] = settled
        publication.settled = self._published
        if wait is None:
            self.publisher.publish(publication)
        else:
            publication.due = time.monotonic() + wait
            self._send_delayed(publication, wait)

    def send_later(self, publication: Publication, settled: Settled) -> None:
        """Publish a message again, some seconds after it could not be published."""
        self._open[publication] = settled
        self._later(publication)

    def declare_and_send(self, publication: Publication, settled: Settled) -> None:
        """Declare the queue of a returned publication and publish it again."""
        self._open[publication] = settled
        self._known.discard(publication.queue)
        self._provide([queue_named(publication.queue)], publication)

    def is_open(self, publication: Publication) -> bool:
        """Tell whether a publication is unsettled."""
        return publication in self._open

    def forget(self, publication: Publication) -> None:
        """Do not publish a message again, and do not call its `settled`."""
        self._open.pop(publication, None)
        self._lost.pop(publication, None)

    def withdraw(self, publication: Publication) -> None:
        """Forget a publication, and do not send it if it is not sent yet."""
        self.forget(publication)
        self.publisher.withdraw(publication)

    def forget_all(self) -> None:
        """Forget the publications that result from deliveries: the broker redelivers those."""
        self._open = {each: settled for each, settled in self._open.items() if each.is_own}
        self._lost = {each: None for each in self._lost if each.is_own}

    # --- the session's state ---

    def session_down(self) -> None:
        """Forget which queues are declared."""
        self._known.clear()
        self._epoch += 1

    def _publisher_lost(self) -> None:
        self._lost = dict.fromkeys(self._open)
        self._listener.outbound_lost()

    def _publisher_ready(self) -> None:
        self._listener.outbound_ready()
        lost, self._lost = self._lost, {}
        for publication in lost:
            self._send_again(publication)

    # --- results ---

    def _published(self, publication: Publication, result: PublishResult, reason: str) -> None:
        settled = self._open.pop(publication, None)
        if settled is None:
            return
        is_unroutable = result is PublishResult.RETURNED
        if is_unroutable and publication.due is not None:  # the delay queue does not exist
            self._known.clear()
            self.send_later(publication, settled)
        elif is_unroutable and publication.declares:
            self.declare_and_send(publication, settled)
        else:
            settled(publication, result, reason)

    def _undeclared(self, queue: Queue, publication: Publication, reason: str) -> None:
        if publication not in self._open:
            return
        if is_temporary(reason):
            self._later(publication)
        else:
            why = reason if queue.name == publication.queue else f"queue {queue.name}: {reason}"
            self._published(publication, PublishResult.UNDECLARED, why)

    # --- publishing later ---

    def _send_again(self, publication: Publication) -> None:
        if publication not in self._open:
            return
        if publication.due is None:
            self.publisher.publish(publication)
        else:
            self._send_delayed(publication, max(0.0, publication.due - time.monotonic()))

    def _later(self, publication: Publication) -> None:
        epoch = self._epoch
        self._loop.call_later(_TRY_AGAIN, lambda: self._send_again_in(epoch, publication))

    def _send_again_in(self, epoch: int, publication: Publication) -> None:
        if epoch == self._epoch:  # else the reconnect has published it again
            self._send_again(publication)

    def _send_delayed(self, publication: Publication, wait: float) -> None:
        delaying = delay_queue(wait)
        publication.exchange = delaying.name
        publication.properties = with_wait(
            publication.properties, wait - delaying.arguments["x-message-ttl"] / 1000
        )
        self._provide([Queue(publication.queue), delaying], publication)

    def _provide(self, queues: list[Queue], publication: Publication) -> None:
        """Declare the queues that are not known to exist, one after the other; then publish."""
        missing = next((queue for queue in queues if queue.name not in self._known), None)
        if missing is None:
            self.publisher.publish(publication)
            return
        self.provider.provide(
            missing,
            done=lambda: self._provided(missing, queues, publication),
            failed=lambda reason: self._undeclared(missing, publication, reason),
        )

    def _provided(self, queue: Queue, queues: list[Queue], publication: Publication) -> None:
        self._known.add(queue.name)
        if publication in self._open:  # else it was forgotten meanwhile: the broker redelivers its origin
            self._provide(queues, publication)
