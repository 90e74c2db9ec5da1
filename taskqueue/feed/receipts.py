"""Receipts: finished and failed jobs are saved, the others run again."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import MalformedProperties
from taskqueue.broker.subscription import Delivery
from taskqueue.errors import ConfigError, JobUnwritable, TaskqueueError, WorkitemUnreadable
from taskqueue.feed.chunker import Chunk, Job, Outbox, Pace
from taskqueue.feed.state import FailureLog, Frontier, Pass, State, StateFile
from taskqueue.feed.wire import ChunkName, ReceiptUnreadable, Report, read
from taskqueue.messages.results import Failure
from taskqueue.process.logs import Log, Tally
from taskqueue.texts import shorten

_SAVE_EVERY: Final = 1.0  # seconds
_ANY_NUMBER: Final = 1 << 31  # of jobs; an earlier run's chunk has a number only where they follow each other

_log = Log("feed")


class Books:
    """The finished and the failed jobs, in memory and, saved once a second, in the feed's files.

    A receipt is acknowledged after its content is saved.
    """

    def __init__(self, state: State, going: Pass, file: StateFile, out: Outbox) -> None:
        """Continue with a state, and with the pass of it that is fed."""
        self.state = state
        self.going = going
        self.out = out
        self._file = file
        self.failures = FailureLog(file.failed_path, state.failed_size)
        self.receipts: list[Delivery] = []  # to be acknowledged after the next save
        self._saved = time.monotonic()

    def finish(self, numbers: Sequence[int], failed: Collection[int] = ()) -> None:
        """Record finished jobs, except the failed ones, which are given by their positions."""
        self.out.forget_all(numbers, failed)
        _finish(self.going.frontier, numbers, failed)

    def record(self, job: Job, error: str, trace: str = "") -> None:
        """Record that a job has failed for good, which finishes it."""
        entry = {
            "index": job.origin,
            "job": self.out.codec.to_plain(job.value),
            "error": error,
            "traceback": trace + error,
            "runs": max(1, self.out.forget(job.number)),
            "when": time.time(),
        }
        self.failures.append(entry)
        self.state.failed += 1
        self.going.frontier.add(job.number, job.number + 1)

    def apply_earlier(self, name: ChunkName, report: Report) -> None:
        """Apply the receipt of a chunk that an earlier run of this feed sent.

        Jobs that failed then are sent again, since only this run counts their runs.
        """
        if name.feed != self.state.feed or name.run == self.state.run or report.error is not None:
            return
        for each in (self.state.jobs, self.state.again):
            if each is not None and each.name == name.jobs:  # else it is of a pass that is over
                _finish(each.frontier, name.numbers, report.failures)

    @property
    def is_due(self) -> bool:
        """Whether there are receipts to save, and the last save is a second ago."""
        return bool(self.receipts) and time.monotonic() - self._saved >= _SAVE_EVERY

    def save(self, peek: Callable[[], tuple[int, Any]]) -> list[Delivery]:
        """Save the finished jobs; return the receipts that may be acknowledged now.

        peek -- returns number and value of the next unsent job; raises IndexError if it is unknown
        """
        self._locate(peek)
        self.state.failed_size = self.failures.sync()
        self._file.write(self.state)
        self._saved = time.monotonic()
        saved, self.receipts = self.receipts, []
        return saved

    def _locate(self, peek: Callable[[], tuple[int, Any]]) -> None:
        """Record the first unfinished job if it is known; else an earlier one stays recorded."""
        going, end = self.going, self.going.frontier.end
        if end == going.at or going is not self.state.jobs:
            return
        job = self.out.find(end)
        try:
            number, value = (end, job.value) if job is not None else peek()
            self.out.codec.encode([value])
        except (JobUnwritable, IndexError):
            return
        if number == end:
            going.at, going.last = end, self.out.codec.to_plain(value)


def _finish(frontier: Frontier, numbers: Sequence[int], failed: Collection[int]) -> None:
    if isinstance(numbers, range):
        start = numbers.start
        for number in [numbers[at] for at in sorted(failed) if at < len(numbers)]:
            frontier.add(start, number)
            start = number + 1
        frontier.add(start, numbers.stop)
        return
    for at, number in enumerate(numbers):
        if at not in failed:
            frontier.add(number, number + 1)


class ReceiptListener(Protocol):
    """Acts on receipts that the consumer cannot settle alone."""

    def divide(self, chunk: Chunk) -> None:
        """Send the jobs of a chunk in two chunks."""

    def give_up(self, error: TaskqueueError) -> None:
        """End the feed with an error."""

    def drop(self, message: Delivery) -> None:
        """Acknowledge a message that is not a receipt."""


@dataclass(slots=True)
class ReceiptConsumer:
    """Takes receipts: enters finished jobs in the books, and runs the others again."""

    books: Books
    pace: Pace
    retries: int  # maximum number of further runs of a failed job
    listener: ReceiptListener
    is_closing: bool = False  # whether nothing is sent again
    dropped: Tally = field(
        default_factory=lambda: Tally(_log, "dropped %d messages that are not receipts; the last: %s")
    )

    def take(self, delivery: Delivery) -> Chunk | None:
        """Apply a receipt; return its chunk, None if that was not in flight."""
        try:
            properties = Properties.decode(delivery.properties)
            id_ = properties.correlation_id or ""
            name = ChunkName.parse(id_)
            if name is None:
                raise ReceiptUnreadable(f"correlation id {shorten(id_, 60)!r} is not that of a chunk")
        except (MalformedProperties, ReceiptUnreadable) as error:
            self.listener.drop(delivery)
            self.dropped.count(str(error))
            return None
        self.books.receipts.append(delivery)
        chunk = self.books.out.remove(id_)
        if chunk is None:
            self._apply_earlier(name, properties, delivery.body)
        else:
            self._settle(chunk, properties, delivery.body)
        return chunk

    def _apply_earlier(self, name: ChunkName, properties: Properties, body: bytes) -> None:
        """Apply the receipt of a chunk that is not in flight."""
        try:
            report = read(properties, body, len(name.numbers) or _ANY_NUMBER)
        except ReceiptUnreadable as error:
            self.dropped.count(str(error))
        else:
            self.books.apply_earlier(name, report)

    def _settle(self, chunk: Chunk, properties: Properties, body: bytes) -> None:
        try:
            report = read(properties, body, len(chunk.numbers))
        except ReceiptUnreadable as error:  # it is unknown which of its jobs are done
            report = Report(Failure("ReceiptUnreadable", str(error)))
        if report.error is None:
            self.pace.note(report.worker, report.threads, len(chunk.numbers), report.seconds)
            self._finish(chunk, report)
        elif not self.is_closing:  # else the next start sends its unfinished jobs
            self._find_culprit(chunk, report.error)

    def _finish(self, chunk: Chunk, report: Report) -> None:
        self.books.finish(chunk.numbers, report.failures)
        jobs = self.books.out.jobs_of(chunk) if report.failures else []
        for position, failure in report.failures.items():
            self._run_again(jobs[position], self.retries, str(failure), failure.traceback)

    def _find_culprit(self, chunk: Chunk, error: Failure) -> None:
        """Divide a chunk that failed as a whole, until the job that causes this is alone."""
        if error.type == WorkitemUnreadable.__name__:
            self.listener.give_up(ConfigError([f"the workers cannot read the jobs: {error.message}"]))
        elif len(chunk.numbers) > 1:
            _log.warning("a chunk of %d jobs failed; dividing it: %s", len(chunk.numbers), error)
            self.listener.divide(chunk)
        else:
            # The job need not be the cause of the worker's death, so it gets a second run.
            (job,) = self.books.out.jobs_of(chunk)
            self._run_again(job, max(self.retries, 1), str(error))

    def _run_again(self, job: Job, retries: int, error: str, trace: str = "") -> None:
        if not self.books.out.run_again(job, retries + 1):
            self.books.record(job, error, trace)

    def refused(self, chunk: Chunk, reason: str) -> None:
        """Divide a chunk that the broker refuses as too large; a single job has failed."""
        if self.books.out.remove(chunk.id) is None or self.is_closing:
            return
        if len(chunk.numbers) > 1:
            self.listener.divide(chunk)
        else:
            self.books.record(self.books.out.jobs_of(chunk)[0], f"the broker refused the message: {reason}")
