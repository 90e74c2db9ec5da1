"""One start of `taskqueue feed`: checks the state, continues from there, and reports a summary."""

import os.path
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from taskqueue.config import AmqpSettings
from taskqueue.errors import ExitStatus, JobUnwritable, TargetError
from taskqueue.feed.chunker import Outbox
from taskqueue.feed.feeder import Feeder, FeedOptions, Watch
from taskqueue.feed.receipts import Books
from taskqueue.feed.state import Identity, Pass, State, StateFile, recorded
from taskqueue.feed.target import Begin, JobSource, MainThread, Target, call, file_of, skip, takes_last
from taskqueue.feed.wire import Codec, codec

#: Types whose length is known at once; `len` of other types may raise, or load the result of a query.
_COUNTED: Final[tuple[type[Any], ...]] = (list, tuple, range, set, frozenset, dict, deque)


@dataclass(frozen=True, slots=True)
class Feeding:
    """The target of a feed and its options."""

    target: Target
    arguments: Mapping[str, str]
    state: Path
    options: FeedOptions
    key: bytes | None = field(default=None, repr=False)  # None: jobs travel as JSON
    reset: bool = False  # start over
    only_failed: bool = False  # feed the jobs that failed

    def run(
        self,
        get_jobs: Callable[..., Any],
        main: MainThread,
        amqp: AmqpSettings,
        watch: Watch,
        say: Callable[[str], None],
    ) -> ExitStatus:
        """Feed; return the exit status.

        Args:
            get_jobs: the target, loaded.
            main: runs the user's code.
            amqp: the broker's address.
            watch: called often with the progress.
            say: shows a line to the user.

        Raises:
            TargetError: the user's code raised.
            StateError: the state cannot be read, written, or is not this feed's.
            AlreadyRunning: another feeder uses the state file.
        """
        coding = codec(self.key, self.options.worker_type)
        with StateFile(self.state) as file:
            if self.reset:
                file.remove()
            identity = self._identity(file_of(get_jobs), coding)
            state = file.read(identity) or file.begin(identity)
            file.complete(state)
            state.run += 1
            begin = (
                _failed_jobs(coding, state, file) if self.only_failed else self._jobs(get_jobs, coding, state)
            )
            if begin is None:
                say(f"nothing is left to do: {_summary(state, file)}")
                return ExitStatus.FAILED if state.failed else ExitStatus.OK
            file.commit(state)
            going = state.again if self.only_failed and state.again else state.jobs
            books = Books(state, going, file, Outbox(coding))
            feeder = Feeder(JobSource(begin, main.run), books, self.options, watch, main.signals)
            status = _run(feeder, amqp, file, state)
            say(_summary(state, file))
            return status

    def _identity(self, path: str, coding: Codec) -> Identity:
        place = os.path.relpath(path, self.state.absolute().parent) if path else self.target.module
        return Identity(f"{place}:{self.target.function}", dict(self.arguments), coding.content_type)

    def _jobs(self, get_jobs: Callable[..., Any], coding: Codec, state: State) -> Begin | None:
        """Return the function that yields the jobs where the feed continues; None if none is left."""
        if state.jobs.is_finished:
            return None
        arguments, at = dict[str, Any](self.arguments), 0
        if state.jobs.at and takes_last(get_jobs):
            arguments["last"], at = coding.from_plain(state.jobs.last), state.jobs.at

        def begin(first: int) -> tuple[Iterable[Any], int | None]:
            jobs = call(get_jobs, arguments)
            total = at + len(jobs) if isinstance(jobs, Sized) and type(jobs) in _COUNTED else None
            return skip(jobs, first - at), total

        return begin


def _failed_jobs(coding: Codec, state: State, file: StateFile) -> Begin | None:
    """Return the function that yields the failed jobs, each with its number; None if there are none.

    Their file is renamed first: jobs that fail again are recorded in a new one.
    """
    if state.again is None:
        if not state.failed:
            return None
        file.check_failed()
        state.again, state.failed, state.failed_size = Pass(f"again{state.run}"), 0, 0

    def begin(first: int) -> tuple[Iterable[Any], int | None]:
        total = sum(1 for _ in recorded(file.again_path))
        entries = skip(recorded(file.again_path), first)
        return ((each["index"], coding.from_plain(each["job"])) for each in entries), total

    return begin


def _summary(state: State, file: StateFile) -> str:
    through = (
        "all jobs are done"
        if state.jobs.is_finished
        else "not all jobs are done; start it again without --reset to continue"
    )
    failed = f", {state.failed} of them failed, see {file.failed_path}" if state.failed else ""
    return f"{len(state.jobs.frontier)} jobs done{failed}; {through}"


def _run(feeder: Feeder, amqp: AmqpSettings, file: StateFile, state: State) -> ExitStatus:
    try:
        status = feeder.run(amqp)
    except (TargetError, JobUnwritable):
        if state.is_untouched:  # else the corrected command would be refused as that of another feed
            file.remove()
        raise
    if state.again is not None and state.again.is_finished:
        state.again = None
        file.commit(state)
    return status
