"""What receipts say, and what follows from that for the jobs of a chunk."""

from collections.abc import Callable

from taskqueue.broker.subscription import Delivery
from taskqueue.errors import ConfigError, TaskqueueError, WorkitemUnreadable
from taskqueue.feed import receipt as receipts
from taskqueue.feed.books import Books
from taskqueue.feed.chunks import Chunk
from taskqueue.feed.outbox import Outbox
from taskqueue.feed.pace import Pace
from taskqueue.feed.receipt import JobFailure
from taskqueue.logs import Log
from taskqueue.properties import Properties
from taskqueue.results import SUCCEEDED
from taskqueue.workitem import ENDED, STARTED, STATUS


class Inbox:
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
    ) -> None:
        """Begin.

        Args:
            out: the jobs that are out.
            books: what becomes of them.
            pace: learns from receipts.
            retries: how often a job that failed is run again.
            divide: sends the jobs of a chunk in two chunks.
            give_up: takes why nothing more can come of this feed.
        """
        self.is_closing = False  # set when nothing is to be sent again
        self._out = out
        self._books = books
        self._pace = pace
        self._retries = retries
        self._divide = divide
        self._give_up = give_up
        self._log = Log("feed")

    def take(self, delivery: Delivery) -> Chunk | None:
        """Act on a receipt; return its chunk, None if that was not out."""
        self._books.enter(delivery)
        properties = Properties.decode(delivery.properties)
        id_ = properties.correlation_id or ""
        chunk = self._out.remove(id_)
        if chunk is None:
            self._books.honour(id_, properties, delivery.body)
            return None
        headers, receipt = properties.headers, receipts.read(delivery.body)
        if headers.get(STATUS) == SUCCEEDED:
            seconds = headers[ENDED] - headers[STARTED]
            self._pace.note(receipt["worker"], receipt["threads"], len(chunk.numbers), seconds)
            self._settle(chunk, list(receipts.failures(receipt)))
        elif not self.is_closing:  # else its jobs are not finished, and come again
            self._failed(chunk, receipt["error"])
        return chunk

    def refused(self, chunk: Chunk, reason: str) -> None:
        """Act on a chunk that the broker does not take: it is too large."""
        if self._out.remove(chunk.id) is None or self.is_closing:
            return
        if len(chunk.numbers) > 1:
            self._divide(chunk)
        else:
            self._books.record(self._out.jobs_of(chunk)[0], f"the broker refuses it: {reason}", "")

    def _settle(self, chunk: Chunk, failures: list[JobFailure]) -> None:
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

    def _failed(self, chunk: Chunk, error: dict[str, str]) -> None:
        """Divide a chunk that failed as a whole, until the job that is to blame is alone."""
        text = f"{error['type']}: {error['message']}"
        if error["type"] == WorkitemUnreadable.__name__:
            self._give_up(ConfigError([f"the workers cannot read the jobs: {error['message']}"]))
        elif len(chunk.numbers) > 1:
            self._log.warning("a chunk of %d jobs failed and is divided: %s", len(chunk.numbers), text)
            self._divide(chunk)
        else:
            job = self._out.jobs_of(chunk)[0]
            # Who dies with a job alone need not have died of it, so that one more worker has to.
            if not self._out.run_again(job, max(self._retries, 1) + 1):
                self._books.record(job, text, "")
