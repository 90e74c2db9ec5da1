"""The feeder: keeps a bounded number of jobs out until all are finished."""

import time
from typing import Final

from taskqueue.broker.loop import EventLoop
from taskqueue.broker.subscription import Delivery
from taskqueue.config import AmqpSettings
from taskqueue.errors import ExitStatus, JobUnwritable, TargetError, TaskqueueError
from taskqueue.feed.books import Books
from taskqueue.feed.chunk_publisher import ChunkPublisher
from taskqueue.feed.chunker import PATIENCE, Chunker, Pace
from taskqueue.feed.chunks import Chunk, Outbox
from taskqueue.feed.codec import Codec
from taskqueue.feed.options import FeedOptions, FeedProgress, Watch
from taskqueue.feed.receipt_consumer import ReceiptConsumer
from taskqueue.feed.source import Begin, MainThread, Source
from taskqueue.feed.state import Pass, State, StateFile
from taskqueue.process.logs import Log

_TICK: Final = 0.5  # seconds between two looks at everything
_SILENCE: Final = (
    30.0  # seconds without a receipt for a chunk, after the broker was lost, that mean something
)
_MOST_BYTES: Final = 64 * 1024 * 1024  # of chunks that are out
_WORDS: Final = {
    ExitStatus.OK: "finished",
    ExitStatus.FAILED: "finished",
    ExitStatus.PAUSED: "paused",
    ExitStatus.STOPPED: "stopped",
}


class Feeder:
    """Feeds one pass of a feed: through all its jobs, or through those that failed before."""

    def __init__(
        self,
        main: MainThread,
        amqp: AmqpSettings,
        options: FeedOptions,
        codec: Codec,
        *,
        state: State,
        going: Pass,
        file: StateFile,
        begin: Begin,
        watch: Watch,
    ) -> None:
        """Prepare; `run` does the work.

        Args:
            main: runs the user's code, and notes signals.
            amqp: the broker's address.
            options: how to feed.
            codec: how jobs travel.
            state: what is saved.
            going: that part of it which is fed: all jobs, or those that failed before.
            file: where the state is saved, and beside it what failed.
            begin: returns the jobs from where to go on; called in the main thread. Each of those that failed
                before comes after its number in the iterator.
            watch: called often, and at the end, with how it goes.
        """
        self._signals = main.signals
        self._options = options
        self._watch = watch
        self._source = Source(begin, main.run)
        self._out = Outbox(codec)
        self._pace = Pace(options.size, options.chunk_max, options.workers)
        self._books = Books(state, going, file, codec, self._out)
        is_again = going is state.again
        self._chunker = Chunker(
            self._source,
            self._books.frontier,
            self._out,
            self._pace,
            codec,
            size=options.size,
            prefix=(state.feed, state.run, going.name),
            has_origins=is_again,
            look_again=self._look_again,
        )
        self._total = None if is_again else options.total
        self._begin()
        self._open_line(amqp, codec.content_type)

    def _begin(self) -> None:
        self._before = len(self._books.frontier)
        self._begun = time.monotonic()
        self._doubtful: list[Chunk] = []  # what was out when the broker was lost,
        self._doubted = 0.0  # monotonic; when it came back
        self._is_looking = False
        self._withdrawn = 0  # chunks that no worker was given, while draining
        self._ending: ExitStatus | None = None  # set while only what is out is waited for
        self._is_leaving = False
        self._error: TaskqueueError | None = None
        self._word = "connecting"

    def _open_line(self, amqp: AmqpSettings, content_type: str) -> None:
        self._log = Log("feed")
        self._loop = EventLoop()
        self._line = ChunkPublisher(
            self._loop,
            amqp,
            self._options.worker_type,
            content_type,
            on_open=self._opened,
            on_ready=self._feed,
            on_receipt=self._take,
            on_refused=self._refused,
            on_error=self._fail,
        )
        self._inbox = ReceiptConsumer(
            self._out,
            self._books,
            self._pace,
            self._options.retries,
            divide=self._divide,
            give_up=self._give_up,
            drop=self._line.drop,
        )

    def run(self) -> ExitStatus:
        """Feed until all is done, or until SIGINT or SIGTERM; return how it ended.

        Raises what kept it from going on; nothing is lost by that.
        """
        self._loop.watch(self._signals, self._heed_signals)
        self._line.open()
        self._tick()
        try:
            self._loop.run()
        finally:
            self._loop.close()
            self._books.close()
            self._inbox.dropped.tell()
        status = ExitStatus.PAUSED if self._ending is None else self._ending
        self._word = "failed" if self._error else _WORDS[status]
        self._tell()
        if self._error is not None:
            raise self._error
        return status

    # --- jobs out ---

    def _opened(self) -> None:
        self._word = "feeding"
        self._chunker.start()
        self._loop.watch(self._source, self._source_speaks)
        self._feed()

    def _source_speaks(self) -> None:
        self._source.acknowledge()
        self._feed()

    def _feed(self) -> None:
        """Send chunks while there are jobs, and room for more of them out."""
        while self._has_room():
            try:
                chunk = self._chunker.next()
            except JobUnwritable as error:
                self._give_up(error)
                return
            if chunk is None:
                break
            self._send(chunk)
        self._finish_if_done()

    def _has_room(self) -> bool:
        out = self._out
        return (
            self._ending is None
            and self._line.is_ready
            and len(out.chunks) < self._pace.chunks
            and (out.jobs < self._options.size or bool(out.again))
            and out.bytes < _MOST_BYTES
        )

    def _send(self, chunk: Chunk) -> None:
        self._out.add(chunk)
        self._line.send(chunk)

    def _look_again(self) -> None:
        """Come back when jobs that are too few for a chunk have waited long enough."""
        if not self._is_looking:
            self._is_looking = True
            self._loop.call_later(PATIENCE, self._look)

    def _look(self) -> None:
        self._is_looking = False
        self._feed()

    # --- receipts in ---

    def _take(self, delivery: Delivery) -> None:
        chunk = self._inbox.take(delivery)
        if chunk is not None:
            self._line.forget(chunk)
            self._went_on()

    def _refused(self, chunk: Chunk, reason: str) -> None:
        self._inbox.refused(chunk, reason)
        self._went_on()

    def _went_on(self) -> None:
        if self._options.max_failures and self._books.newly_failed >= self._options.max_failures:
            self._drain(ExitStatus.STOPPED)
        self._feed()

    def _divide(self, chunk: Chunk) -> None:
        for half in self._chunker.halves(chunk):
            self._send(half)

    # --- now and then ---

    def _tick(self) -> None:
        self._pace.forget()
        if self._books.is_due:
            self._save()
        if self._ending is not None and not self._is_leaving:
            self._line.withdraw(self._count_withdrawn)
        elif len(self._out.chunks) >= self._pace.chunks and self._out.jobs < self._options.size:
            self._line.count_waiting(self._waiting)
        self._look_for_lost()
        self._feed()
        self._tell()
        self._loop.call_later(_TICK, self._tick)

    def _waiting(self, chunks: int) -> None:
        """Let more chunks out where workers wait, and jobs need not."""
        if not chunks and len(self._source):
            self._pace.starve()
            self._feed()

    def _look_for_lost(self) -> None:
        """Send once more what was out when the broker was lost, where it came back without that.

        RabbitMQ 3 that is killed forgets the queues of its last moments, with all in them. Nobody
        tells: an empty queue, and no receipts for long, are the signs.
        """
        now, patience = time.monotonic(), max(_SILENCE, 20 * self._pace.chunk_time)
        if self._line.was_lost:
            self._line.was_lost = False
            self._doubtful = list(self._out.chunks.values())
        if not self._line.is_ready:
            self._doubted = now
        elif self._doubtful and self._ending is None and now - self._doubted > patience:
            self._line.count_waiting(self._send_lost)

    def _send_lost(self, waiting: int) -> None:
        lost = [chunk for chunk in self._doubtful if chunk.id in self._out.chunks]
        if lost and not waiting:
            self._log.warning(
                "no receipts for %d chunks since the broker was lost; sent once more", len(lost)
            )
            for chunk in lost:
                self._line.send(chunk)
        if not waiting:
            self._doubtful = []

    def _save(self) -> None:
        self._line.acknowledge(self._books.save(self._chunker.peek))

    def _tell(self) -> None:
        self._watch(
            FeedProgress(
                self._word,
                len(self._books.frontier),
                self._books.failed,
                self._source.total if self._total is None else self._total,
                self._out.jobs,
                self._pace.workers,
                self._pace.length,
                time.monotonic() - self._begun,
                self._before,
            )
        )

    # --- the end ---

    def _finish_if_done(self) -> None:
        if self._ending is not None:
            if len(self._out.chunks) <= self._withdrawn:
                self._leave(is_finished=False)
        elif self._chunker.has_ended and not self._out.chunks:
            self._end()

    def _end(self) -> None:
        """The iterator has ended, in its way, and nothing is out."""
        if self._source.error is not None:
            self._error = _unfit(self._source.error, self._chunker.next_number)
            self._ending = ExitStatus.PLUGIN
        else:
            self._books.end()
            self._ending = ExitStatus.FAILED if self._books.failed else ExitStatus.OK
        self._leave(is_finished=self._source.error is None)

    def _heed_signals(self) -> None:
        for number in self._signals.pending():
            if self._ending is None and self._word == "feeding":
                self._log.warning(
                    "%s: waiting for what workers have begun; once more ends at once", number.name
                )
                self._drain(ExitStatus.PAUSED)
            else:
                self._loop.stop()

    def _drain(self, status: ExitStatus) -> None:
        """Send nothing more, take back what no worker has been given, and leave when the rest is done."""
        if self._ending is None:
            self._ending, self._word = status, "draining"
            self._inbox.is_closing = True
            self._out.again.clear()
            self._line.withdraw(self._count_withdrawn)

    def _count_withdrawn(self, chunks: int) -> None:
        self._withdrawn += chunks
        self._finish_if_done()

    def _give_up(self, error: TaskqueueError) -> None:
        self._error = self._error or error
        self._drain(ExitStatus.PLUGIN)

    def _fail(self, error: TaskqueueError) -> None:
        self._error = self._error or error
        self._loop.stop()

    def _leave(self, *, is_finished: bool) -> None:
        if not self._is_leaving:
            self._is_leaving = True
            self._source.close()
            self._save()
            self._line.close(self._loop.stop, is_finished=is_finished)


def _unfit(error: BaseException, number: int) -> TaskqueueError:
    """Describe what the iterator raised."""
    if isinstance(error, TaskqueueError):
        return error
    told = TargetError(
        f"get_jobs raised {type(error).__name__} after {number} jobs: {error}; those are done, "
        "and the feed goes on there when it is started again"
    )
    told.__cause__ = error
    return told
