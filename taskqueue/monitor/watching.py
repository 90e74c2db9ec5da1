"""A record of what happens from now on, for a command where no monitor runs."""

import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from taskqueue.broker.broadcast import BroadcastConsumer
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.session import Session
from taskqueue.broker.topology import EVENTS
from taskqueue.config import AmqpSettings
from taskqueue.errors import (
    BrokerRefused,
    BrokerUnavailable,
    RecordDamaged,
    RecordUnavailable,
    TaskqueueError,
)
from taskqueue.messages.events import Batch, UnreadableBatch, decode
from taskqueue.monitor.store.store import Store
from taskqueue.monitor.times import Times

_WRITE_DELAY: Final = 0.2  # seconds between two writes
_CLOSE_TIMEOUT: Final = 10.0
_OLDEST: Final = 86400.0  # seconds; older events are not of its time
_MOST_WAITING: Final = 10_000  # batches that are not written; the oldest are dropped


class PassingRecord:
    """A record in a temporary directory, which a thread writes while the context lasts."""

    def __init__(self, amqp: AmqpSettings) -> None:
        """Prepare; the context manager connects."""
        self._amqp = amqp
        self._directory = tempfile.TemporaryDirectory(prefix="taskqueue-")
        self.directory = Path(self._directory.name)
        self.error = ""  # why nothing is heard now
        self._batches: list[tuple[int, Batch]] = []
        self._position = 0
        self._times = Times(_OLDEST)
        self._is_over = False
        self._is_begun = threading.Event()
        self._failure: TaskqueueError | None = None  # to begin
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)

    def __enter__(self) -> Self:
        """Begin; return once the record can be read. Raises RecordUnavailable if it cannot be made."""
        self._thread.start()
        self._is_begun.wait()
        if self._failure is not None:
            self._directory.cleanup()
            raise self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the thread, and remove the record."""
        self._is_over = True
        self._thread.join(_CLOSE_TIMEOUT)
        self._directory.cleanup()

    def _run(self) -> None:
        loop = EventLoop()
        session = Session(loop, self._amqp, "taskqueue top", on_error=self._failed)
        BroadcastConsumer(loop, session, EVENTS, on_message=self._received, on_settled=self._heard)
        try:
            store = Store(self.directory)
        except TaskqueueError as error:
            self._failure = error
            return
        finally:
            self._is_begun.set()
        with store:
            session.open()
            self._write(loop, session, store)
            loop.run()
        loop.close()

    def _received(self, _properties: bytes, body: bytes) -> None:
        try:
            batch = decode(body)
        except UnreadableBatch:
            return
        self._times.correct(batch)
        self._position += 1
        self._batches.append((self._position, batch))
        del self._batches[:-_MOST_WAITING]

    def _heard(self) -> None:
        self.error = ""

    def _failed(self, error: BrokerUnavailable | BrokerRefused) -> None:
        self.error = str(error)

    def _write(self, loop: EventLoop, session: Session, store: Store) -> None:
        """Write what has come; if that fails, as on a full disk, it is tried again."""
        try:
            store.write(self._batches)
            self._batches = []
        except (RecordUnavailable, RecordDamaged) as error:
            self.error = str(error)
        if self._is_over:
            session.close(loop.stop)
        else:
            loop.call_later(_WRITE_DELAY, lambda: self._write(loop, session, store))
