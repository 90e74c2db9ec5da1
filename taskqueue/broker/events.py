"""Publishes a process's events to the exchange `taskqueue_events`, in batches that the broker confirms."""

import logging
import os
import time
from collections.abc import Callable
from enum import Enum
from importlib import metadata
from typing import Final, Generic, TypeVar

from taskqueue.broker.batch import Batch
from taskqueue.broker.broadcast import BroadcastExchange
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.outbound import TOO_LARGE, Outbound
from taskqueue.broker.publisher import Publication, PublishResult
from taskqueue.broker.session import Session, SessionListener
from taskqueue.broker.topology import EVENTS
from taskqueue.messages import events
from taskqueue.messages.events import Emitter, Event, ProcessState
from taskqueue.messages.results import HOST
from taskqueue.process import relatives
from taskqueue.process.relatives import user_name
from taskqueue.process.usage import resident_memory

_PATIENCE: Final = 5.0  # seconds until work goes on without the confirm of a batch
_PAUSE: Final = 30.0  # seconds without events after nobody had bound a queue
_STARTING: Final = 1.0  # seconds after a connection in which a returned batch is published again
_RESEND_DELAY: Final = 0.5  # seconds until a returned batch is published again
_PROCESS_DELAY: Final = 5.0  # seconds between two events on the process itself
_SUPERVISOR_DELAY: Final = 20.0  # seconds between two events on its supervisor, of which several may tell
_LARGEST_BATCH: Final = 256 * 1024  # characters after which another batch begins
_MOST_FULL: Final = 16  # full batches that wait for the broker; beyond it, only events that work waits for
_MOST_UNCONFIRMED: Final = _MOST_FULL * _LARGEST_BATCH  # characters; beyond it, the same
_HEAD: Final = 32  # bytes by which the first line of a batch may grow with its number


T = TypeVar("T")


class _State(Enum):
    OFF = "off"  # nobody records; no event is made
    WAITING = "waiting"  # for the exchange; events are collected
    STARTING = "starting"  # so may the stream be, for a batch was returned; events are collected
    ON = "on"


class EventPublisher(SessionListener, Generic[T]):
    """Publishes the events of each round as one message, in one write with the messages that they describe.

    What must not be acknowledged before its event is recorded is passed with the event; the owner's function
    `on_recorded` gets it once the broker has confirmed the batch. If it has not done so after 5 s, work goes
    on and the events are counted as lost. If nobody has bound a queue to the exchange, no events are made for
    30 s; events on the process alone do not tell that.
    """

    def __init__(
        self, loop: EventLoop, session: Session, outbound: Outbound, kind: str, group: str = ""
    ) -> None:
        """Publish with `outbound`, whose session is `session`, as an emitter of a kind."""
        self.on_recorded: Callable[[T], None] = lambda _waiting: None
        self.on_given_up: Callable[[], None] = lambda: None  # after batches were abandoned
        self.emitter = Emitter(HOST, kind, group, os.getpid(), time.time())
        self.lost = 0  # events that found no room, or that the broker has not confirmed
        self._loop = loop
        self._session = session
        self._outbound = outbound
        self._exchange = BroadcastExchange(loop, session, EVENTS)
        self._state = _State.WAITING
        self._number = 1  # of the next event that is published
        self._batch = Batch[T]()
        self._full: list[Batch[T]] = []  # before it; not yet published
        self._open: dict[Publication, Batch[T]] = {}  # unconfirmed, in order
        self._abandoned: dict[Publication, Batch[T]] = {}  # unconfirmed, and nobody waits for them any more
        self._unconfirmed = 0  # characters of both
        self._largest = events.LARGEST_BATCH  # bytes of a message that the broker accepts, as far as is known
        self._was_recorded = False  # whether the broker has ever confirmed a batch
        self._up_since = 0.0  # monotonic
        self._asked = 0.0  # monotonic; when the exchange was last looked for
        self._is_flushing = False
        self._is_watching = False
        self._describe: Callable[[], ProcessState] | None = None  # this process
        self._has_ended = False  # whether its end was told
        self._supervisor_at = 0.0  # monotonic; when its supervisor is told of next
        self.user, self._version = user_name(os.geteuid()), own_version()
        self._log = logging.getLogger(__name__)
        session.attach(self)

    @property
    def is_on(self) -> bool:
        """Whether events are made."""
        return self._state is not _State.OFF

    @property
    def abandoned(self) -> int:
        """Number of unconfirmed batches that nobody waits for any more."""
        return len(self._abandoned)

    @property
    def dispensable(self) -> int:
        """Number of unconfirmed batches that a process need not wait for to end: under an alarm, all of them.

        Work that waits for one of them is not done either.
        """
        return len(self._abandoned) + (len(self._open) if self._session.is_blocked else 0)

    def emit(self, event: Event, waiting: T | None = None) -> bool:
        """Add an event to the batch of this round; return whether `on_recorded` will get `waiting`."""
        if self._state is _State.OFF:
            self.skip()
            return False
        if self._state is _State.STARTING and not self._was_recorded:  # perhaps nobody records
            waiting = None
        if waiting is None and not self._has_room:
            self._batch.dropped += 1
            self.lost += 1
            return False
        batch = self._batch
        batch.add(events.line(event), waiting)
        if batch.size > _LARGEST_BATCH:
            self._full.append(batch)
            self._batch = Batch[T]()
        if not self._is_flushing:
            self._is_flushing = True
            self._loop.at_round_end(self._flush)
        return waiting is not None

    @property
    def _has_room(self) -> bool:
        return len(self._full) < _MOST_FULL and self._unconfirmed < _MOST_UNCONFIRMED

    def skip(self) -> None:
        """Count an event that is not made because `is_on` is false."""
        self._number += 1

    def report_process(self, describe: Callable[[], ProcessState]) -> None:
        """Emit an event on this process every five seconds.

        describe -- returns what the owner knows, with the version of its plugin; the rest is added
        """
        self._describe = describe
        if self._state is _State.ON:
            self.report_state()
            self._report_relatives()
        self._loop.call_later(_PROCESS_DELAY, lambda: self.report_process(describe))

    def report_state(self) -> None:
        """Emit an event on this process now, after `report_process` was called: its state has changed."""
        if self._describe is not None and self._state is not _State.OFF:
            rss, cpu = _usage()
            is_blocked = int(self._session.is_blocked)
            told = self._describe()
            version = f"{self._version}, {told.version}" if told.version else self._version
            told = told._replace(rss=rss, cpu=cpu, is_blocked=is_blocked, lost=self.lost)
            broker_user = self._session.amqp.signature or ""
            told = told._replace(user=self.user, version=version, broker_user=broker_user)
            self.emit(told._replace(state=events.ENDED) if self._has_ended else told)

    def _report_relatives(self) -> None:
        """Emit events on the supervisor from time to time, and at first on processes that have ended."""
        now = time.monotonic()
        if now < self._supervisor_at:
            return
        if not self._supervisor_at:
            for gone in relatives.ended():
                self.emit(gone)
        self._supervisor_at = now + _SUPERVISOR_DELAY
        for told in relatives.supervisor(self._version):
            self.emit(told)

    def say_goodbye(self) -> None:
        """Emit the last event on this process, once, before its connection is closed."""
        is_sent = self._state is _State.ON and self._session.is_up and not self._session.is_blocked
        if is_sent and not self._has_ended:
            self._has_ended = True
            self.report_state()
            for told in relatives.supervisor(self._version, is_last=True):
                self.emit(told)
            self._flush()

    # --- batches ---

    def _flush(self) -> None:
        """Publish the collected events; they wait while the exchange is not declared."""
        self._is_flushing = False
        if self._state is _State.ON:
            for batch in self._take_collected():
                self._publish(batch)
            self._watch()

    def _take_collected(self) -> list[Batch[T]]:
        collected, self._full = self._full, []
        if self._batch.lines:
            collected.append(self._batch)
            self._batch = Batch[T]()
        return collected

    def _publish(self, batch: Batch[T]) -> None:
        batch.number = self._number
        self._number += len(batch.lines) + batch.dropped
        self._publish_parts(batch)

    def _publish_parts(self, batch: Batch[T]) -> None:
        """Publish a batch; in parts, if it is larger than the broker accepts.

        An event that is too large even alone is lost.
        """
        head = len(events.encode(self.emitter, batch.number, ())) + _HEAD
        for part in batch.parts(self._largest - head):
            body = events.encode(self.emitter, part.number, part.lines)
            if len(body) > self._largest:
                self._count_lost(part, f"the broker accepts at most {self._largest} bytes a message")
                self._release(part)
                continue
            publication = Publication("", _PROPERTIES, body, exchange=EVENTS, declares=False, is_own=True)
            part.sent = time.monotonic()
            self._unconfirmed += part.size
            self._open[publication] = part
            self._outbound.send(publication, self._published)

    def _published(self, publication: Publication, result: PublishResult, reason: str) -> None:
        late = self._abandoned.pop(publication, None)
        if late is not None:
            self.lost -= len(late.lines)
        batch = late or self._open.pop(publication)
        self._unconfirmed -= batch.size
        if result is PublishResult.RETURNED and self._may_be_bound_soon():
            self._publish_again_later(publication, batch)
            return
        if result is PublishResult.RETURNED:  # nobody records: nothing is lost
            if not batch.is_about_process:  # a monitor that starts just after this process misses no work
                self._turn_off()
        elif self._is_too_large(publication, reason):
            self._log.info("events are split: the broker accepts at most %d bytes a message", self._largest)
            self._publish_parts(batch)
            self._watch()
            return
        elif result is not PublishResult.CONFIRMED:  # each further one would cost the channel, too
            self._count_lost(batch, f"the broker refuses them: {reason}")
            self._turn_off()
        else:
            self._was_recorded = True
        self._release(batch)

    def _is_too_large(self, publication: Publication, reason: str) -> bool:
        """Whether the broker has refused a batch for its size; `_largest` is then known."""
        found = TOO_LARGE.search(reason)
        if found is not None:
            self._largest = min(self._largest, int(found[1]))
        return found is not None and self._largest < len(publication.body)

    def _publish_again_later(self, publication: Publication, batch: Batch[T]) -> None:
        """Keep a returned batch, and collect all further events until it is published again."""
        if not self._was_recorded:
            self._release(batch)
        self._open[publication], self._unconfirmed = batch, self._unconfirmed + batch.size
        if self._state is _State.ON:
            self._state = _State.STARTING
        self._loop.call_later(_RESEND_DELAY, lambda: self._publish_again(publication))

    def _publish_again(self, publication: Publication) -> None:
        self._outbound.send(publication, self._published)
        if self._state is _State.STARTING:
            self._turn_on()

    def _may_be_bound_soon(self) -> bool:
        """Whether a returned batch is published again: its stream may just be starting with the broker.

        RabbitMQ 3.10 routes nothing to a stream for up to a second after it accepts connections.
        """
        longest = _PATIENCE if self._was_recorded else _STARTING
        return time.monotonic() - self._up_since < longest

    def _release(self, batch: Batch[T]) -> None:
        waiting, batch.waiting = batch.waiting, []
        for _, each in waiting:
            self.on_recorded(each)

    def _watch(self) -> None:
        if not self._is_watching and self._open:
            self._is_watching = True
            self._loop.call_later(_PATIENCE / 5, self._give_up_old)

    def _give_up_old(self) -> None:
        """Let work go on without batches that the broker does not confirm: the stream's node is away."""
        self._is_watching = False
        latest = time.monotonic() - _PATIENCE
        for publication, batch in list(self._open.items()):
            if batch.sent > latest or not self._session.is_up or self._session.is_blocked:
                break
            del self._open[publication]
            self._abandoned[publication] = batch
            self._count_lost(batch, f"the broker has not confirmed them within {_PATIENCE:g} s")
            self._turn_off()
            self._release(batch)
        self._watch()
        self.on_given_up()

    def _wait_anew(self) -> None:
        now = time.monotonic()
        for batch in self._open.values():
            batch.sent = now

    def _count_lost(self, batch: Batch[T], why: str) -> None:
        self.lost += len(batch.lines)
        self._log.warning("%d events are not recorded: %s (%d so far)", len(batch.lines), why, self.lost)

    # --- on and off ---

    def session_up(self) -> None:
        """Find or declare the exchange; meanwhile, events are collected."""
        self._up_since = time.monotonic()
        self._wait_anew()
        self._find_exchange()

    def session_down(self) -> None:
        """Collect events until the session is up again."""
        self._state = _State.WAITING

    def session_unblocked(self) -> None:
        """Wait for the confirms from now on: an alarm stops them."""
        self._wait_anew()

    def _find_exchange(self) -> None:
        self._state = _State.WAITING
        self._asked = time.monotonic()
        self._exchange.provide(self._turn_on, lambda _reason: self._turn_off())
        self._loop.call_later(_PATIENCE, self._give_up_waiting)

    def _give_up_waiting(self) -> None:
        """Let work go on without events if the broker does not answer about the exchange."""
        is_late = time.monotonic() - self._asked >= _PATIENCE
        if self._state is _State.WAITING and is_late and self._session.is_up and not self._session.is_blocked:
            self._turn_off()
            self.on_given_up()

    def _turn_on(self) -> None:
        self._state = _State.ON
        self._flush()

    def _turn_off(self) -> None:
        """Make no events for a while: nobody records them."""
        if self._state is _State.OFF:
            return
        self._state = _State.OFF
        for batch in self._take_collected():
            self._number += len(batch.lines) + batch.dropped
            self._release(batch)
        self._loop.call_later(_PAUSE, self._try_again)

    def _try_again(self) -> None:
        if self._abandoned:  # the broker still confirms nothing
            self._loop.call_later(_PAUSE, self._try_again)
        elif self._state is _State.OFF:
            self._find_exchange()


_PROPERTIES: Final = events.message_properties()


def own_version() -> str:
    """Return the version of taskqueue, as events have it."""
    try:
        return f"taskqueue {metadata.version('taskqueue')}"
    except metadata.PackageNotFoundError:
        return "taskqueue"


def _usage() -> tuple[int, float]:
    """Return this process's resident memory in bytes and its processor time in seconds."""
    return resident_memory("self"), time.process_time()
