"""The books of a feed: which jobs are finished, which failed, and the state that is saved of that."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from taskqueue.broker.subscription import Delivery
from taskqueue.errors import JobUnwritable
from taskqueue.feed.chunks import ChunkName, Job, Outbox
from taskqueue.feed.codec import Codec
from taskqueue.feed.frontier import Frontier
from taskqueue.feed.receipt import Report
from taskqueue.feed.state import FailureLog, Pass, State, StateFile

_SAVE_EVERY: Final = 1.0  # seconds


class Books:
    """Kept in memory, and saved once a second; a receipt is acknowledged when what it says is saved."""

    def __init__(self, state: State, going: Pass, file: StateFile, codec: Codec, out: Outbox) -> None:
        """Go on with a state.

        Args:
            state: all of it.
            going: the pass that is fed.
            file: where it is saved.
            codec: how jobs are written.
            out: the jobs that are out.
        """
        self.frontier = going.frontier
        self._state = state
        self._pass = going
        self._file = file
        self._codec = codec
        self._out = out
        self._failures = FailureLog(file.failed_path, state.failed_size)
        self._receipts: list[Delivery] = []  # to be acknowledged when what they say is saved
        self._saved = time.monotonic()

    @property
    def failed(self) -> int:
        """How many jobs are recorded as failed."""
        return self._state.failed

    @property
    def newly_failed(self) -> int:
        """How many of them since this start."""
        return self._failures.count

    def enter(self, delivery: Delivery) -> None:
        """Note that a receipt came; what it says follows."""
        self._receipts.append(delivery)

    def finish(self, numbers: Iterable[int]) -> None:
        """Note that jobs are done."""
        _finish(self.frontier, numbers)

    def record(self, job: Job, error: str, trace: str) -> None:
        """Write down that a job failed for good; it is finished."""
        entry = {
            "index": job.origin,
            "job": self._codec.to_plain(job.value),
            "error": error,
            "traceback": trace + error,
            "runs": max(1, self._out.forget(job.number)),
            "when": time.time(),
        }
        self._failures.append(entry)
        self._state.failed += 1
        self.frontier.add(job.number, job.number + 1)

    def honour(self, name: ChunkName, report: Report) -> None:
        """Take note of what an earlier run of this feed sent out, and was not there to hear of.

        Jobs that failed then are sent again, for only this run counts how often.
        """
        if (name.feed, name.run) == (self._state.feed, self._state.run):
            return
        frontier = self._frontier_of(name)
        if frontier is not None and report.error is None:
            failed = {failure.position for failure in report.failures}
            _finish(frontier, _without(name.numbers, failed))

    def _frontier_of(self, name: ChunkName) -> Frontier | None:
        """Return where a chunk's jobs are entered; None for another feed's, and for a pass that is over."""
        passes = [self._state.jobs, *([self._state.again] if self._state.again else [])]
        if name.feed != self._state.feed:
            return None
        return next((each.frontier for each in passes if each.name == name.jobs), None)

    def end(self) -> None:
        """Note that the iterator has ended, and all that it yielded is finished."""
        self._pass.is_finished = True

    # --- saving ---

    @property
    def is_due(self) -> bool:
        """Whether there is something to save, and the last time is long enough ago."""
        return bool(self._receipts) and time.monotonic() - self._saved >= _SAVE_EVERY

    def save(self, peek: Callable[[], tuple[int, Any]]) -> list[Delivery]:
        """Write down what is finished; return the receipts that may be acknowledged now.

        peek -- returns number and value of the next job that was not sent; IndexError where it is not known
        """
        self._locate(peek)
        self._state.failed_size = self._failures.sync()
        self._file.write(self._state)
        self._saved = time.monotonic()
        saved, self._receipts = self._receipts, []
        return saved

    def _locate(self, peek: Callable[[], tuple[int, Any]]) -> None:
        """Note the first unfinished job, where that is known; else one before it stays noted."""
        end = self.frontier.end
        if end == self._pass.at or self._pass is not self._state.jobs:
            return
        job = self._out.find(end)
        try:
            number, value = (end, job.value) if job is not None else peek()
            self._codec.encode([value])
        except (JobUnwritable, IndexError):
            return
        if number == end:
            self._pass.at, self._pass.last = end, self._codec.to_plain(value)

    def close(self) -> None:
        """Close the file of what failed."""
        self._failures.close()


def _finish(frontier: Frontier, numbers: Iterable[int]) -> None:
    if isinstance(numbers, range):
        frontier.add(numbers.start, numbers.stop)
        return
    for number in numbers:
        frontier.add(number, number + 1)


def _without(numbers: Sequence[int], positions: set[int]) -> Sequence[int]:
    if not positions:
        return numbers
    return [number for at, number in enumerate(numbers) if at not in positions]
