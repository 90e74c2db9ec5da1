"""One start of `taskqueue feed`: whose state it is, where to go on, and what was fed when it ends."""

import os.path
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from taskqueue.config import AmqpSettings
from taskqueue.errors import ExitStatus, JobUnwritable, StateError, TargetError
from taskqueue.feed.codec import Codec, codec
from taskqueue.feed.feeder import Feeder
from taskqueue.feed.options import FeedOptions, Watch
from taskqueue.feed.source import Begin, MainThread, skip
from taskqueue.feed.state import Identity, Pass, State, StateFile, recorded
from taskqueue.feed.target import Target, call, file_of, takes_last

#: Next step when a feed is through, as `Feeding.run` may find.
NOTHING: Final = "nothing is left to do"

#: Types whose length is known at once. That of others, derived ones too, may raise, or load a whole query.
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
        """Feed; return how it ended.

        Args:
            get_jobs: the target, loaded.
            main: runs the user's code.
            amqp: the broker's address.
            watch: called often with how it goes.
            say: takes a line for the user.

        Raises:
            TargetError: the user's code raised.
            StateError: the state cannot be read, written, or is not this feed's.
            AlreadyRunning: another feeder is at it.
        """
        coding = codec(self.key, self.options.worker_type)
        with StateFile(self.state) as file:
            if self.reset:
                file.remove()
            identity = self._identity(file_of(get_jobs), coding)
            state = file.read(identity) or _new(identity, file)
            _complete(file, state)
            state.run += 1
            begin = self._begin(get_jobs, coding, state, file)
            if begin is None:
                say(f"{NOTHING}: {self._summary(state, file)}")
                return ExitStatus.FAILED if state.failed else ExitStatus.OK
            file.write(state)
            _complete(file, state)
            going = state.again if self.only_failed and state.again else state.jobs
            feeder = Feeder(
                main,
                amqp,
                self.options,
                coding,
                state=state,
                going=going,
                file=file,
                begin=begin,
                watch=watch,
            )
            status = _run(feeder, file, state)
            say(self._summary(state, file))
            return status

    def _begin(
        self, get_jobs: Callable[..., Any], coding: Codec, state: State, file: StateFile
    ) -> Begin | None:
        return self._failed_jobs(file, state) if self.only_failed else self._jobs(get_jobs, coding, state)

    def _identity(self, path: str, coding: Codec) -> Identity:
        place = os.path.relpath(path, self.state.absolute().parent) if path else self.target.module
        return Identity(f"{place}:{self.target.function}", dict(self.arguments), coding.content_type)

    def _summary(self, state: State, file: StateFile) -> str:
        done = len(state.jobs.frontier)
        through = (
            "all jobs are done"
            if state.jobs.is_finished
            else "not all jobs are done; started again, without --reset, it goes on"
        )
        failed = f", {state.failed} of them failed, see {file.failed_path}" if state.failed else ""
        return f"{done} jobs done{failed}; {through}"

    def _jobs(self, get_jobs: Callable[..., Any], coding: Codec, state: State) -> Begin | None:
        """Return what begins to iterate where the feed goes on; None if it is through."""
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

    def _failed_jobs(self, file: StateFile, state: State) -> Begin | None:
        """Return what reads the jobs that failed, each after its number in the iterator; None if none did.

        They are put aside before, so that what fails again is recorded anew.
        """
        if state.again is None:
            if not state.failed:
                return None
            _check_is_there(file.failed_path)
            state.again, state.failed, state.failed_size = Pass(f"again{state.run}"), 0, 0
        coding = codec(self.key, self.options.worker_type)

        def begin(first: int) -> tuple[Iterable[Any], int | None]:
            total = sum(1 for _ in recorded(file.again_path))
            entries = skip(recorded(file.again_path), first)
            return ((each["index"], coding.from_plain(each["job"])) for each in entries), total

        return begin


def _new(identity: Identity, file: StateFile) -> State:
    """Return the state of a feed that begins."""
    if file.failed_path.exists() and file.failed_path.stat().st_size:
        raise StateError(
            f"{file.failed_path} is there without its state; move it away, or start over by --reset"
        )
    return State(identity)


def _check_is_there(path: Path) -> None:
    """Raise StateError where the file of the jobs that failed is missing, before the state says otherwise."""
    if not path.exists():
        raise StateError(
            f"{path}, which has the jobs that failed, is not there: put it back, or start over by --reset"
        )


def _run(feeder: Feeder, file: StateFile, state: State) -> ExitStatus:
    try:
        status = feeder.run()
    except (TargetError, JobUnwritable):
        if state.is_untouched:  # else the command, once put right, would be refused as another's
            file.remove()
        raise
    if state.again is not None and state.again.is_finished:
        state.again = None
        file.write(state)
        _complete(file, state)
    return status


def _complete(file: StateFile, state: State) -> None:
    """Have the files beside the state be as it says, wherever a feeder was killed between the two."""
    try:
        if state.again is None:
            file.again_path.unlink(missing_ok=True)
        elif not file.again_path.exists():
            _check_is_there(file.failed_path)
            file.failed_path.rename(file.again_path)
    except OSError as error:
        raise StateError(f"{error.filename}: {error.strerror}") from None
