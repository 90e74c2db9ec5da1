"""Listens to the events of all hosts for a few seconds: their clocks, and their versions of taskqueue."""

import threading
import time
from typing import Final, Self

from taskqueue.broker.broadcast import BroadcastConsumer
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.question import run_session
from taskqueue.broker.session import Session
from taskqueue.broker.topology import EVENTS
from taskqueue.config import AmqpSettings
from taskqueue.doctor.times import Heard
from taskqueue.errors import BrokerRefused, BrokerUnavailable
from taskqueue.messages.events import Emitter, ProcessState, UnreadableBatch, decode

#: Seconds to listen: each process tells its state every five seconds.
LISTENS: Final = 6.0
_MOST: Final = 10_000  # processes


class Listener:
    """Listens in a thread of its own."""

    def __init__(self, amqp: AmqpSettings, seconds: float = LISTENS) -> None:
        """Prepare; `start` begins to listen."""
        self._amqp, self._seconds = amqp, seconds
        self._heard: dict[Emitter, Heard] = {}
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)

    def start(self) -> Self:
        """Begin to listen."""
        self._thread.start()
        return self

    def heard(self) -> tuple[Heard, ...]:
        """Wait until the time is over; return the processes that were heard of."""
        self._thread.join()
        return tuple(self._heard.values())

    def _run(self) -> None:
        loop = EventLoop()
        session = Session(
            loop, self._amqp, "taskqueue doctor", on_error=lambda error: self._fail(loop, error)
        )
        BroadcastConsumer(loop, session, EVENTS, on_message=self._take, on_settled=lambda: None)
        loop.call_later(self._seconds, loop.stop)
        run_session(loop, session)

    def _fail(self, loop: EventLoop, _error: BrokerUnavailable | BrokerRefused) -> None:
        loop.stop()

    def _take(self, _properties: bytes, body: bytes) -> None:
        now = time.time()
        try:
            batch = decode(body)
        except UnreadableBatch:
            return
        for event in batch.events:
            if isinstance(event, ProcessState) and len(self._heard) < _MOST:
                emitter = batch.emitter
                name = f"{emitter.kind} {emitter.group}".strip()
                version = event.version.partition(",")[0]
                before = self._heard.get(emitter)
                ahead = event.at - now if before is None else max(event.at - now, before.ahead)
                self._heard[emitter] = Heard(emitter.host, name, version, ahead, event.broker_user)
