"""The feeder: keeps a bounded number of jobs in flight until all are finished."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from taskqueue.broker.loop import EventLoop
from taskqueue.broker.subscription import Delivery
from taskqueue.config import AmqpSettings
from taskqueue.errors import ExitStatus, JobUnwritable, TargetError, TaskqueueError
from taskqueue.feed.chunk_publisher import ChunkPublisher
from taskqueue.feed.chunker import GATHER_TIME, Chunk, Chunker, Pace
from taskqueue.feed.receipts import Books, ReceiptConsumer
from taskqueue.feed.target import JobSource
from taskqueue.messages.events import ProcessState
from taskqueue.process.daemon import Signals
from taskqueue.process.logs import Log

_TICK: Final = 0.5  # seconds between two checks
_SILENCE: Final = 30.0  # seconds without a receipt, after a lost connection, until chunks count as lost
_MOST_BYTES: Final = 64 * 1024 * 1024  # of the chunks in flight
_STATES: Final = {
    ExitStatus.OK: "finished",
    ExitStatus.FAILED: "finished",
    ExitStatus.PAUSED: "paused",
    ExitStatus.STOPPED: "stopped",
}


@dataclass(frozen=True, slots=True)
class FeedProgress:
    """The progress of a feed."""

    state: str  # connecting, feeding, draining, or how it ended
    done: int  # jobs since the first start, including those that failed for good
    failed: int  # jobs that are recorded as failed
    total: int | None  # jobs; None if it is unknown
    out: int  # jobs in flight
    workers: int  # that have lately sent a receipt
    chunk: int  # jobs
    elapsed: float  # seconds since this start
    before: int  # jobs that were done at this start


Watch = Callable[[FeedProgress], None]


@dataclass(frozen=True, slots=True)
class FeedOptions:
    """The options of a feed."""

    worker_type: str
    size: int = 10_000  # jobs in flight
    chunk_max: int = 10_000  # maximum number of jobs in a chunk
    retries: int = 0
    max_failures: int = 0  # 0: any number
    total: int | None = None
    workers: int = 0  # expected; 0: unknown


class Feeder:
    """Feeds one pass: through all jobs of a feed, or through those that failed before."""

    def __init__(
        self, source: JobSource, books: Books, options: FeedOptions, watch: Watch, signals: Signals
    ) -> None:
        """Prepare; `run` does the work.

        Args:
            source: yields the jobs; not started yet. In a pass through failed jobs, it yields pairs of
                number in the iterator and job.
            books: the finished jobs, and their state file.
            options: the options of the feed.
            watch: called twice a second, and at the end, with the progress.
            signals: the source of SIGINT and SIGTERM, which pause the feed.
        """
        self._source = source
        self._books = books
        self._out = books.out
        self._options = options
        self._watch = watch
        self._signals = signals
        self._log = Log("feed")
        self._loop = EventLoop()
        self._pace = Pace(options.size, options.chunk_max, options.workers)
        self._chunker = Chunker(source, self._out, self._pace, books.state, books.going, options.size)
        self._inbox = ReceiptConsumer(books, self._pace, options.retries, self)
        self._before = len(books.going.frontier)
        self._begun = time.monotonic()
        self._maybe_lost: list[Chunk] = []  # chunks in flight when the connection was lost
        self._reconnected = 0.0  # monotonic; when the connection was open again
        self._is_feed_due = False
        self._withdrawn = 0  # chunks removed from the queue while draining
        self._ending: ExitStatus | None = None  # set while the feeder only waits for the chunks in flight
        self._is_closing = False
        self._error: TaskqueueError | None = None
        self._state = "connecting"

    def run(self, amqp: AmqpSettings) -> ExitStatus:
        """Feed until all jobs are done, or until SIGINT or SIGTERM; return the exit status.

        Raises the error that ended the feed; the next start continues without losing a job.
        """
        self._publisher = ChunkPublisher(
            self._loop,
            amqp,
            self._options.worker_type,
            self._out.codec.content_type,
            self,
        )
        self._loop.watch(self._signals, self._act_on_signals)
        self._publisher.events.report_process(self._described)
        self._publisher.open()
        self._tick()
        try:
            self._loop.run()
        finally:
            self._loop.close()
            self._books.failures.close()
            self._inbox.dropped.tell()
        status = ExitStatus.PAUSED if self._ending is None else self._ending
        self._state = "failed" if self._error else _STATES[status]
        self._report()
        if self._error is not None:
            raise self._error
        return status

    # --- jobs ---

    def publisher_opened(self) -> None:
        """Start to draw jobs, and send the first ones."""
        self._state = "feeding"
        self._chunker.start()
        self._loop.watch(self._source, self._source_readable)
        self._feed()

    def _source_readable(self) -> None:
        self._source.acknowledge()
        self._feed()

    def publisher_ready(self) -> None:
        """Send chunks."""
        self._feed()

    def _feed(self) -> None:
        """Send chunks while there are jobs, and room for more in flight."""
        while self._has_room():
            try:
                chunk = self._chunker.next()
            except JobUnwritable as error:
                self.give_up(error)
                return
            if chunk is None:
                self._feed_later()
                break
            self._send(chunk)
        self._finish_if_done()

    def _has_room(self) -> bool:
        out = self._out
        return (
            self._ending is None
            and self._publisher.is_ready
            and len(out.chunks) < self._pace.chunks
            and (out.jobs < self._options.size or bool(out.again))
            and out.bytes < _MOST_BYTES
        )

    def _send(self, chunk: Chunk) -> None:
        self._out.add(chunk)
        self._publisher.send(chunk)

    def _feed_later(self) -> None:
        """Try again once the jobs in stock, too few for a chunk, have waited long enough."""
        if not self._is_feed_due and not self._source.has_ended:
            self._is_feed_due = True
            self._loop.call_later(GATHER_TIME, self._feed_after_wait)

    def _feed_after_wait(self) -> None:
        self._is_feed_due = False
        self._feed()

    # --- receipts ---

    def receipt_received(self, delivery: Delivery) -> None:
        """Enter a receipt in the books, and send more chunks."""
        chunk = self._inbox.take(delivery)
        if chunk is not None:
            self._publisher.forget(chunk)
            self._after_receipt()

    def chunk_refused(self, chunk: Chunk, reason: str) -> None:
        """Divide a chunk that is too large for the broker, or record its job as failed."""
        self._inbox.refused(chunk, reason)
        self._after_receipt()

    def _after_receipt(self) -> None:
        if self._options.max_failures and self._books.failures.count >= self._options.max_failures:
            self._drain(ExitStatus.STOPPED)
        self._feed()

    def divide(self, chunk: Chunk) -> None:
        """Send the jobs of a chunk again, in two chunks."""
        for half in self._chunker.halves(chunk):
            self._send(half)

    def drop(self, message: Delivery) -> None:
        """Acknowledge a message that is not a receipt."""
        self._publisher.drop(message)

    # --- twice a second ---

    def _tick(self) -> None:
        self._pace.forget()
        if self._books.is_due:
            self._save()
        if self._ending is not None and not self._is_closing:
            self._publisher.withdraw(self._count_withdrawn)
        elif len(self._out.chunks) >= self._pace.chunks and self._out.jobs < self._options.size:
            self._publisher.count_waiting(self._waiting)
        self._resend_lost()
        self._feed()
        self._report()
        self._loop.call_later(_TICK, self._tick)

    def _waiting(self, chunks: int) -> None:
        """Allow more chunks in flight if none waits although there are jobs: workers are idle."""
        if not chunks and len(self._source):
            self._pace.workers_idle()
            self._feed()

    def _resend_lost(self) -> None:
        """Send chunks again that were in flight when the connection was lost, if the broker has lost them.

        A killed RabbitMQ 3 loses recently declared queues with their messages and reports no error. The signs
        are an empty queue and a long time without receipts.
        """
        now, silence = time.monotonic(), max(_SILENCE, 20 * self._pace.chunk_time)
        if self._publisher.was_lost:
            self._publisher.was_lost = False
            self._maybe_lost = list(self._out.chunks.values())
        if not self._publisher.is_ready:
            self._reconnected = now
        elif self._maybe_lost and self._ending is None and now - self._reconnected > silence:
            self._publisher.count_waiting(self._send_lost)

    def _send_lost(self, waiting: int) -> None:
        lost = [chunk for chunk in self._maybe_lost if chunk.id in self._out.chunks]
        if lost and not waiting:
            self._log.warning(
                "no receipts for %d chunks since the connection was lost; sending them again", len(lost)
            )
            for chunk in lost:
                self._publisher.send(chunk)
        if not waiting:
            self._maybe_lost = []

    def _save(self) -> None:
        self._publisher.acknowledge(self._books.save(self._chunker.peek))

    def _described(self) -> ProcessState:
        return ProcessState(time.time(), self._state, self._options.size, self._out.jobs)

    def _report(self) -> None:
        self._watch(
            FeedProgress(
                self._state,
                len(self._books.going.frontier),
                self._books.state.failed,
                self._total,
                self._out.jobs,
                self._pace.workers,
                self._pace.length,
                time.monotonic() - self._begun,
                self._before,
            )
        )

    @property
    def _total(self) -> int | None:
        is_again = self._books.going is self._books.state.again  # its number of jobs is known to the source
        return self._source.total if is_again or self._options.total is None else self._options.total

    # --- the end ---

    def _finish_if_done(self) -> None:
        if self._ending is not None:
            if len(self._out.chunks) <= self._withdrawn:
                self._close(is_finished=False)
        elif self._chunker.has_ended and not self._out.chunks:
            self._end()

    def _end(self) -> None:
        """End the feed: the iterator has ended or raised, and no chunk is in flight."""
        if self._source.error is not None:
            self._error = _iterator_error(self._source.error, self._chunker.next_number)
            self._ending = ExitStatus.PLUGIN
        else:
            self._books.going.is_finished = True
            self._ending = ExitStatus.FAILED if self._books.state.failed else ExitStatus.OK
        self._close(is_finished=self._source.error is None)

    def _act_on_signals(self) -> None:
        for number in self._signals.pending():
            if self._ending is None and self._state == "feeding":
                self._log.warning(
                    "%s: waiting for running chunks; a second signal ends the feed at once", number.name
                )
                self._drain(ExitStatus.PAUSED)
            else:
                self._loop.stop()

    def _drain(self, status: ExitStatus) -> None:
        """Send nothing more, remove the waiting chunks from the queue, and end when the others are done."""
        if self._ending is None:
            self._ending, self._state = status, "draining"
            self._inbox.is_closing = True
            self._out.again.clear()
            self._publisher.withdraw(self._count_withdrawn)

    def _count_withdrawn(self, chunks: int) -> None:
        self._withdrawn += chunks
        self._finish_if_done()

    def give_up(self, error: TaskqueueError) -> None:
        """End with this error once the workers have performed their chunks."""
        self._error = self._error or error
        self._drain(ExitStatus.PLUGIN)

    def publisher_failed(self, error: TaskqueueError) -> None:
        """End the feed at once with this error."""
        self._error = self._error or error
        self._loop.stop()

    def _close(self, *, is_finished: bool) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._source.close()
            self._save()
            self._publisher.close(self._loop.stop, is_finished=is_finished)


def _iterator_error(error: BaseException, number: int) -> TaskqueueError:
    """Return the error for an exception of the iterator."""
    if isinstance(error, TaskqueueError):
        return error
    told = TargetError(
        f"get_jobs raised {type(error).__name__} after {number} jobs: {error}; "
        "the next start continues after these jobs"
    )
    told.__cause__ = error
    return told
