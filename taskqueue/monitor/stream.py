"""The stream of events as the recorder reads it: batches with numbers that only grow."""

import time
from typing import Final, Protocol

from taskqueue.broker.declaration import Declaration
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.session import Session, SessionListener
from taskqueue.broker.stream import StreamReader, StreamReaderListener
from taskqueue.broker.topology import events_stream
from taskqueue.config import AmqpSettings, MonitorSettings
from taskqueue.messages.events import Batch, UnreadableBatch, decode
from taskqueue.process.logs import Log, Tally

_DECLARE_TIMEOUT: Final = 5.0  # seconds
_PREFETCH: Final = 1000  # messages; a batch has the events of a round, which may be one

#: A position is the number of the stream, which grows when it is declared again, and the offset in it.
_OFFSET_BITS: Final = 44


class EventStreamListener(Protocol):
    """Takes what comes by the stream."""

    def batch_came(self, position: int, batch: Batch, size: int) -> None:
        """Take a batch, with its position in the stream and the bytes of its message."""

    def message_skipped(self) -> None:
        """Acknowledge soon: a message came that is no batch."""

    def batches_lost(self) -> None:
        """Forget the batches that are not recorded: they come again after the next `start`."""

    def stream_read(self) -> None:
        """The broker delivers."""


class EventStream(StreamReaderListener):
    """Reads batches from a position on; counts and skips all other messages."""

    def __init__(
        self, loop: EventLoop, session: Session, settings: MonitorSettings, listener: EventStreamListener
    ) -> None:
        self.unreadable = 0  # messages
        self.unreadable_at: float | None = None  # when the last of them came; seconds since 1970
        self._listener = listener
        queue = events_stream(settings.stream_max_age, settings.stream_max_size, settings.stream_segment_size)
        self._reader = StreamReader(loop, session, queue, _PREFETCH, self)
        self._stream = 0
        self._last = -1  # offset; of an ordinary queue, a count
        self._tally = Tally(Log("recorder"), "skipped %d messages that are no events; the last: %s")

    def start(self, position: int | None) -> None:
        """Read what follows a position, now or once the session is up; None: from the beginning."""
        self._stream, self._last = (0, -1) if position is None else divmod(position, 1 << _OFFSET_BITS)
        self._reader.start(None if position is None else self._last)

    def stop(self) -> None:
        """Read nothing; what was not acknowledged comes again."""
        self._reader.stop()

    def acknowledge(self) -> None:
        """Acknowledge all batches so far."""
        self._reader.acknowledge()

    def stream_message(self, offset: int | None, body: bytes) -> None:
        """Number and decode a message."""
        self._last = self._last + 1 if offset is None else offset
        try:
            batch = decode(body)
        except UnreadableBatch as error:
            self._skip(error)
            return
        self._listener.batch_came((self._stream << _OFFSET_BITS) + self._last, batch, len(body))

    def stream_lost(self) -> None:
        """Have the batches forgotten."""
        self._listener.batches_lost()

    def stream_began_anew(self) -> None:
        """Number what follows after everything before."""
        self._stream, self._last = self._stream + 1, -1

    def stream_read(self) -> None:
        """Pass it on."""
        self._listener.stream_read()

    def _skip(self, error: UnreadableBatch) -> None:
        self.unreadable += 1
        self.unreadable_at = time.time()
        self._tally.count(str(error))
        self._listener.message_skipped()


def declare_stream(amqp: AmqpSettings, settings: MonitorSettings) -> None:
    """Declare the stream now, so that it takes the events of daemons that start before their monitor.

    A broker that does not answer, or refuses, is left to the monitor, which says so.
    """
    loop = EventLoop()
    session = Session(loop, amqp, "taskqueue monitor declares", on_error=lambda _error: loop.stop())
    queue = events_stream(settings.stream_max_age, settings.stream_max_size, settings.stream_segment_size)

    def close(_reason: str = "") -> None:
        session.close(loop.stop)

    class Declarer(SessionListener):
        def session_up(self) -> None:
            Declaration(loop, session, queue, done=close, failed=close)

    session.attach(Declarer())
    session.open()
    loop.call_later(_DECLARE_TIMEOUT, loop.stop)
    loop.run()
    loop.close()
