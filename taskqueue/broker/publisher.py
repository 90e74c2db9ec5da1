"""Publishing with confirms: the window of unconfirmed messages, and the result of each."""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from taskqueue.amqp.frames import NOT_FOUND
from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import MalformedProperties, as_bytes
from taskqueue.broker.connection import RawProperties
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.session import Session, SessionListener
from taskqueue.broker.signing import signed
from taskqueue.messages.names import DIRECT_REPLY

_FIRST_RETRY: Final = 0.5  # seconds until a nacked message is sent again
_LONGEST_RETRY: Final = 30.0
_MOST_CLOSES: Final = 2  # connections that one message, alone in flight, may cost before it is refused
_STALE: Final = 1.0  # seconds; when a refused message is sent again, its channel is at most so old


class PublishResult(Enum):
    """The outcome of a publication."""

    CONFIRMED = "confirmed"  # the broker has it; on disk if it is persistent and the queue durable
    RETURNED = "returned"  # no such queue, or no such exchange
    REFUSED = "refused"  # the broker will never take it; for the given reason
    UNDECLARED = "undeclared"  # a queue that it needs cannot be declared; for the given reason


#: Takes a publication, its result, and the reason of a refusal.
Settled = Callable[["Publication", PublishResult, str], None]


def _ignore(_publication: "Publication", _result: PublishResult, _reason: str) -> None:
    pass


@dataclass(slots=True, eq=False)
class Publication:
    """One message on its way to a queue. `settled` is called once with its result."""

    queue: str
    properties: bytes  # as Properties.encode returns them
    body: bytes
    settled: Settled = _ignore
    exchange: str = ""  # the default exchange, or that of a delay queue
    mandatory: bool = True  # whether the broker returns it, and does not drop it, if it is unroutable
    declares: bool = True  # whether a missing queue is declared
    is_signed: bool = False  # whether it gets our user_id: for internal queues
    is_own: bool = False  # whether it results from no delivery, so that the broker redelivers no origin
    due: float | None = field(default=None, init=False)  # monotonic; None: at once
    returned: bool = field(default=False, init=False)  # unroutable; its confirm is no delivery
    maybe_returned: bool = field(default=False, init=False)  # perhaps returned; its confirm proves nothing
    retries: int = field(default=0, init=False)
    is_suspect: bool = field(default=False, init=False)  # in flight when the broker closed a connection
    closes: int = field(default=0, init=False)  # number of those connections on which it was alone in flight
    refusal: str = field(default="", init=False)  # set once it is known as the cause


class Publisher(SessionListener):
    """Publishes on one channel and keeps the window of unconfirmed messages.

    A lost connection empties the window. It is unknown which messages the broker had taken; the owner is told
    by `on_lost` and publishes again.

    If the broker closed the connection because of a message, the messages of that window are published one at
    a time until the cause is found; that message is refused.
    """

    def __init__(
        self,
        loop: EventLoop,
        session: Session,
        *,
        on_ready: Callable[[], None],
        on_lost: Callable[[], None],
        on_batch: Callable[[], None],
        on_reply: Callable[[bytes, bytes], None] | None = None,
    ) -> None:
        """Publish over `session` while it is up.

        on_ready -- the channel is open, publications are sent
        on_lost -- the session is down, the window is empty
        on_batch -- some publications have been settled
        on_reply -- takes properties and body of direct replies, which arrive only on the request's channel
        """
        self._loop = loop
        self._session = session
        self._on_ready = on_ready
        self._on_lost = on_lost
        self._on_batch = on_batch
        self._on_reply = on_reply
        self._channel: Any = None
        self._confirms = False
        self._last_tag = 0
        self._room = 0  # maximum bytes of a message's properties
        self._window: dict[int, Publication] = {}  # by delivery tag, in order
        self._waiting: deque[Publication] = deque()  # for a channel, or for the end of an alarm
        self._refused: set[Publication] = (
            set()
        )  # nacked by a full queue, or perhaps returned; each has a timer
        self._suspects: deque[Publication] = deque()  # one of them made the broker close the channel
        self._is_trying = False  # a suspect is in flight, and is the only message that may be
        self._closes = 0  # consecutive closes of the channel without a confirm between them
        self._opened = 0.0  # monotonic time of the channel's opening
        self._is_stale = False  # the channel is replaced as soon as the window is empty
        self._log = logging.getLogger(__name__)
        session.attach(self)

    @property
    def is_ready(self) -> bool:
        """Whether the channel is open and in confirm mode."""
        return self._confirms and bool(self._channel.is_open)

    @property
    def unsettled(self) -> int:
        """Number of publications that are not sent or not confirmed."""
        return len(self._window) + len(self._waiting) + len(self._suspects) + len(self._refused)

    def publish(self, publication: Publication) -> None:
        """Send a message, now or once that is possible."""
        is_ready = self._confirms and self._channel.is_open  # inlined `is_ready`: this runs for each workitem
        is_open = not (self._suspects or self._is_trying or self._session.is_blocked or self._is_stale)
        if publication.is_suspect:
            self._publish_suspect(publication)
        elif is_ready and is_open:
            self._send(publication)
        else:
            self._waiting.append(publication)

    def _publish_suspect(self, publication: Publication) -> None:
        if publication.refusal:
            self._loop.call_later(
                0, lambda: self._settle_alone(publication, PublishResult.REFUSED, publication.refusal)
            )
        else:
            self._suspects.append(publication)
            self._send_waiting()

    def withdraw(self, publication: Publication) -> None:
        """Do not send a message that is not sent yet; no effect on a message in flight."""
        for row in (self._waiting, self._suspects):
            if publication in row:
                row.remove(publication)
        self._refused.discard(publication)

    # --- sending ---

    def _send(self, publication: Publication) -> None:
        if publication.is_signed:
            publication.properties = signed(publication.properties, self._session.amqp.signature)
        if len(publication.properties) > self._room:
            reason = (
                f"the properties have {len(publication.properties)} bytes; the broker accepts {self._room}"
            )
            self._loop.call_later(0, lambda: self._settle_alone(publication, PublishResult.REFUSED, reason))
            return
        self._last_tag += 1
        self._window[self._last_tag] = publication
        publication.returned = publication.maybe_returned = False
        self._channel.connection.publish(
            self._channel.channel_number,
            publication.exchange,
            publication.queue,
            publication.properties,
            publication.body,
            mandatory=publication.mandatory,
        )

    def _send_waiting(self) -> None:
        """Send the waiting messages; after a channel error one at a time, to find the cause."""
        if not self.is_ready or self._session.is_blocked:
            return
        if self._is_stale:
            self._renew()
            return
        if self._suspects or self._is_trying:
            if self._window:
                return
            self._is_trying = bool(self._suspects)
            if self._is_trying:
                self._send(self._suspects.popleft())
                return
        while self._waiting and self.is_ready:
            self._send(self._waiting.popleft())

    def _send_again(self, publication: Publication) -> None:
        if publication in self._refused:
            self._refused.remove(publication)
            self.publish(publication)

    # --- the broker's answers ---

    def _confirmed(self, tag: int, multiple: bool) -> None:  # noqa: FBT001 -- as the frame has it
        for publication in self._take(tag, multiple=multiple):
            if publication.returned:
                publication.settled(publication, PublishResult.RETURNED, "no such queue")
            elif publication.maybe_returned:
                self._send_later(publication)
            else:
                publication.settled(publication, PublishResult.CONFIRMED, "")
        self._after_answer()

    def _nacked(self, frame: Any) -> None:
        """Send nacked messages again later. The connection leaves basic.nack to pika."""
        for publication in self._take(frame.method.delivery_tag, multiple=frame.method.multiple):
            self._retry(publication)
        # Direct replies arrive only on the request's channel.
        self._is_stale = self._on_reply is None and time.monotonic() - self._opened > _STALE
        self._after_answer()

    def _after_answer(self) -> None:
        self._closes = 0
        self._on_batch()
        self._send_waiting()

    def _take(self, tag: int, *, multiple: bool) -> list[Publication]:
        window = self._window
        if not multiple:
            publication = window.pop(tag, None)
            return [publication] if publication else []
        confirmed = []
        for sent in window:
            if sent > tag:
                break
            confirmed.append(sent)
        return [window.pop(sent) for sent in confirmed]

    def _retry(self, publication: Publication) -> None:
        """Send a message again later; its queue is full (x-overflow: reject-publish) or has no leader."""
        delay = self._send_later(publication)
        self._log.log(
            logging.WARNING if publication.queue else logging.DEBUG,  # who publishes events tells their loss
            "queue %s refused a message (full, or its node is down); trying again in %.1f s",
            publication.queue or publication.exchange,
            delay,
        )

    def _send_later(self, publication: Publication) -> float:
        """Send a message again after a delay that doubles each time; return it in seconds."""
        delay = min(_LONGEST_RETRY, _FIRST_RETRY * 2.0 ** min(publication.retries, 10))
        publication.retries += 1
        self._refused.add(publication)
        self._loop.call_later(delay, lambda: self._send_again(publication))
        return delay

    def _on_return(self, _channel: Any, method: Any, properties: RawProperties, body: bytes) -> None:
        """Mark the message that was returned as unroutable; its confirm follows.

        A return has no delivery tag. If it matches several messages, all of them count as returned and are
        published again: a message may arrive twice, but the confirm of a returned one never counts as a
        delivery.
        """
        sent = [
            publication
            for publication in self._window.values()
            if (publication.exchange, publication.queue) == (method.exchange, method.routing_key)
        ]
        meant = _equal_messages(sent, properties.raw, body) or sent
        if not meant:
            self._republish_window(method.routing_key)
        for publication in meant:
            publication.returned = True

    def _republish_window(self, queue: str) -> None:
        """Have every message in flight published again: it is unknown which of them was returned."""
        suspects = [publication for publication in self._window.values() if publication.mandatory]
        self._log.error(
            "returned message for %s matches nothing in flight; publishing %d messages again",
            queue,
            len(suspects),
        )
        for publication in suspects:
            publication.maybe_returned = True
            publication.returned = len(suspects) == 1

    def _settle_alone(self, publication: Publication, result: PublishResult, reason: str) -> None:
        publication.settled(publication, result, reason)
        self._on_batch()
        self._send_waiting()

    # --- the channel ---

    def session_up(self) -> None:
        """Open the channel."""
        self._session.channel(self._channel_open)

    def session_down(self) -> None:
        """Empty the window."""
        self._confirms, self._channel, self._is_trying = False, None, False
        if self._session.fault:
            self._suspect(tuple(self._window.values()), self._session.fault)
        self._window.clear()
        self._waiting.clear()
        self._refused.clear()
        self._suspects.clear()
        self._on_lost()

    def _suspect(self, in_flight: Sequence[Publication], fault: str) -> None:
        """Record that the broker closed the connection, perhaps because of one of these messages."""
        for publication in in_flight:
            publication.is_suspect = True
            publication.closes += len(in_flight) == 1
            if publication.closes >= _MOST_CLOSES:
                publication.refusal = f"it made the broker close the connection: {fault}"
                self._session.retry_soon()

    def session_unblocked(self) -> None:
        """Send the messages that waited for the alarm's end."""
        self._send_waiting()

    def _channel_open(self, channel: Any) -> None:
        if self._channel is not None:  # requested twice: after a channel error, and after a reconnect
            channel.close()
            return
        guard = self._loop.guard
        self._channel, self._last_tag, self._room = channel, 0, self._session.frame_room
        self._opened, self._is_stale = time.monotonic(), False
        channel.add_on_close_callback(guard(self._channel_closed))
        channel.add_on_return_callback(guard(self._on_return))
        channel.connection.take_confirms(channel, guard(self._confirmed))
        channel.confirm_delivery(guard(self._nacked), guard(self._confirms_on))

    def _confirms_on(self, _frame: Any) -> None:
        if not self._channel.is_open:
            return  # the connection is being closed
        if self._on_reply is not None:
            self._channel.basic_consume(DIRECT_REPLY, self._loop.guard(self._replied), auto_ack=True)
        self._confirms = True
        self._on_ready()
        self._send_waiting()

    def _replied(self, _channel: Any, _method: Any, properties: RawProperties, body: bytes) -> None:
        if self._on_reply is not None:
            self._on_reply(properties.raw, body)

    def _channel_closed(self, channel: Any, error: BaseException) -> None:
        """Find the refused message: the broker closes the channel without naming it."""
        if channel is not self._channel or not self._session.is_up:
            return
        alone = bool(self._suspects) or len(self._window) == 1
        open_ones = list(self._window.values())
        self._confirms, self._channel = False, None
        self._window.clear()
        self._closes += 1
        if alone and len(open_ones) == 1:
            culprit, reason = open_ones.pop(), str(getattr(error, "reply_text", error))
            is_missing = culprit.exchange and getattr(error, "reply_code", 0) == NOT_FOUND
            result = PublishResult.RETURNED if is_missing else PublishResult.REFUSED
            self._closes = 1  # the cause is found and not sent again
            self._log.debug("the broker refused a message for %s: %s", culprit.queue, reason)
            self._loop.call_later(0, lambda: self._settle_alone(culprit, result, reason))
        self._suspects.extendleft(reversed(open_ones))
        self._loop.call_later(min(_LONGEST_RETRY, 0.05 * 2 ** min(self._closes, 10)), self._reopen)

    def _renew(self) -> None:
        """Replace the channel once the window is empty.

        A quorum queue without a leader refuses messages until it has a new one, in less than a second. But if
        a channel's first message for the queue was refused in that time, all its later ones are refused, too,
        as long as the channel lives (seen with RabbitMQ 3.10.8).
        """
        if not self._window:
            channel, self._channel = self._channel, None
            self._confirms = False
            channel.close()
            self._reopen()

    def _reopen(self) -> None:
        if self._session.is_up and self._channel is None:
            self._session.channel(self._channel_open)


def _equal_messages(sent: Sequence[Publication], properties: bytes, body: bytes) -> list[Publication]:
    """Return the messages of `sent` that equal a returned one: by their bytes, else by message id and body.

    RabbitMQ 4 encodes the properties of a returned message again, with the headers in another order; every
    version replaces a reply_to that asks for direct replies.
    """
    same_body = [publication for publication in sent if publication.body == body]
    same = [publication for publication in same_body if publication.properties == properties]
    return same or _with_message_id(same_body, properties)


def _with_message_id(sent: Sequence[Publication], properties: bytes) -> list[Publication]:
    try:
        message_id = Properties.decode(properties).message_id
        pattern = as_bytes(message_id or "")  # avoids decoding the properties of all others
        return [
            publication
            for publication in sent
            if pattern in publication.properties
            and Properties.decode(publication.properties).message_id == message_id
        ]
    except MalformedProperties:
        return []
