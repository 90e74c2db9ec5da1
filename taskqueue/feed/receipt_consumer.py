"""Receipts, and what follows from them for the jobs of a chunk."""

from collections.abc import Callable, Collection, Mapping
from typing import Final

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import MalformedProperties
from taskqueue.broker.subscription import Delivery
from taskqueue.errors import ConfigError, TaskqueueError, WorkitemUnreadable
from taskqueue.feed import receipt as receipts
from taskqueue.feed.books import Books
from taskqueue.feed.chunker import Pace
from taskqueue.feed.chunks import Chunk, ChunkName, Outbox
from taskqueue.feed.receipt import JobFailure
from taskqueue.process.logs import Log, Tally
from taskqueue.texts import shorten

_ANY_NUMBER: Final = 1 << 31  # of jobs; an earlier run's chunk has a number only where they follow each other


class ReceiptConsumer:
    """Takes receipts: enters in the books what is finished, and has run again what is not."""

    def __init__(
        self,
        out: Outbox,
        books: Books,
        pace: Pace,
        retries: int,
        *,
        divide: Callable[[Chunk], None],
        give_up: Callable[[TaskqueueError], None],
        drop: Callable[[Delivery], None],
    ) -> None:
        """Begin.

        Args:
            out: the jobs that are out.
            books: what becomes of them.
            pace: learns from receipts.
            retries: how often a job that failed is run again.
            divide: sends the jobs of a chunk in two chunks.
            give_up: takes why nothing more can come of this feed.
            drop: acknowledges what is no receipt.
        """
        self.is_closing = False  # set when nothing is to be sent again
        self._out = out
        self._books = books
        self._pace = pace
        self._retries = retries
        self._divide = divide
        self._give_up = give_up
        self._drop = drop
        self._log = Log("feed")
        self.dropped = Tally(self._log, "%d messages that are no receipts were dropped; the last: %s")

    def take(self, delivery: Delivery) -> Chunk | None:
        """Act on a receipt; return its chunk, None if that was not out."""
        try:
            properties = Properties.decode(delivery.properties)
            id_ = properties.correlation_id or ""
            name = ChunkName.parse(id_)
            if name is None:
                raise receipts.Unreadable(f"correlation id {shorten(id_, 60)!r} is no chunk's")
        except (MalformedProperties, receipts.Unreadable) as error:
            self._drop(delivery)
            self.dropped.count(str(error))
            return None
        self._books.enter(delivery)
        chunk = self._out.remove(id_)
        if chunk is None:
            self._honour(name, properties, delivery.body)
        else:
            self._settle(chunk, self._read(chunk, properties, delivery.body))
        return chunk

    def _honour(self, name: ChunkName, properties: Properties, body: bytes) -> None:
        """Take note of the receipt of a chunk that is not out."""
        try:
            report = receipts.read(properties, body, len(name.numbers) or _ANY_NUMBER)
        except receipts.Unreadable as error:
            self.dropped.count(str(error))
        else:
            self._books.honour(name, report)

    def _read(self, chunk: Chunk, properties: Properties, body: bytes) -> receipts.Report:
        """Read a chunk's receipt; without a readable one, nobody knows which of its jobs are done."""
        try:
            return receipts.read(properties, body, len(chunk.numbers))
        except receipts.Unreadable as error:
            return receipts.Report({"type": "ReceiptUnreadable", "message": str(error)})

    def refused(self, chunk: Chunk, reason: str) -> None:
        """Act on a chunk that the broker does not take: it is too large."""
        if self._out.remove(chunk.id) is None or self.is_closing:
            return
        if len(chunk.numbers) > 1:
            self._divide(chunk)
        else:
            self._books.record(self._out.jobs_of(chunk)[0], f"the broker refuses it: {reason}", "")

    def _settle(self, chunk: Chunk, report: receipts.Report) -> None:
        if report.error is None:
            self._pace.note(report.worker, report.threads, len(chunk.numbers), report.seconds)
            self._finish(chunk, report.failures)
        elif not self.is_closing:  # else its jobs are not finished, and come again
            self._failed(chunk, report.error)

    def _finish(self, chunk: Chunk, failures: Collection[JobFailure]) -> None:
        failed = {failure.position for failure in failures}
        done = (
            [number for at, number in enumerate(chunk.numbers) if at not in failed]
            if failed
            else chunk.numbers
        )
        self._out.forget_all(done)
        self._books.finish(done)
        jobs = self._out.jobs_of(chunk) if failed else []
        for failure in failures:
            job = jobs[failure.position]
            if not self._out.run_again(job, self._retries + 1):
                self._books.record(job, failure.error, failure.traceback)

    def _failed(self, chunk: Chunk, error: Mapping[str, str]) -> None:
        """Divide a chunk that failed as a whole, until the job that is to blame is alone."""
        text = f"{error['type']}: {error['message']}"
        if error["type"] == WorkitemUnreadable.__name__:
            self._give_up(ConfigError([f"the workers cannot read the jobs: {error['message']}"]))
        elif len(chunk.numbers) > 1:
            self._log.warning("a chunk of %d jobs failed and is divided: %s", len(chunk.numbers), text)
            self._divide(chunk)
        else:
            job = self._out.jobs_of(chunk)[0]
            # A worker that dies with a single job need not have died of it, so one more worker has to.
            if not self._out.run_again(job, max(self._retries, 1) + 1):
                self._books.record(job, text, "")
