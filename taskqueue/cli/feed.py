"""`taskqueue feed`, and how it shows its progress: on a terminal, as lines, and as JSON lines in a file."""

import contextlib
import json
import logging
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict
from io import FileIO
from typing import Any, Final

import click

from taskqueue.address import Source
from taskqueue.cli import jobs, options
from taskqueue.config import LoggingSettings
from taskqueue.errors import ConfigError, TargetError
from taskqueue.feed.feeder import FeedOptions, FeedProgress, Watch
from taskqueue.feed.feeding import Feeding
from taskqueue.feed.target import GET_JOBS, MainThread, Target, worker_type
from taskqueue.process import logs, startup


@click.command(short_help="Feed jobs from an iterator to workers.")
@click.argument("target")
@jobs.given_argument
@jobs.feeding_options
@jobs.type_option
@jobs.pickle_options
@jobs.log_level_option("warning")
@options.broker_options
@click.option("--workers", type=int, default=0, hidden=True)
def feed(
    target: str,
    given: dict[str, str],
    *,
    source: Source,
    progress_file: str | None,
    no_progress: bool,
    **values: Any,
) -> None:
    """Feed the jobs of TARGET to the workers that `taskqueue work` runs, and wait until all are done.

    TARGET is MODULE, FILE.py, MODULE:FUNCTION or FILE.py:FUNCTION; without FUNCTION get_jobs is meant. It is
    called with the KEY=VALUE arguments and yields the jobs. Started again, the feed goes on where it ended,
    however it ended.

    Exit status: 0 all jobs are done; 1 all are done and some failed; 3 stopped by --max-failures; 65 TARGET
    cannot be used; 69 the broker cannot be reached; 73 the state cannot be used; 130 paused by Ctrl-C or
    SIGTERM.
    """
    logs.set_up(LoggingSettings(level=values["log_level"].lower()), "feed")
    feeding = _feeding(target, given, values)
    amqp = source.find()
    main = MainThread()
    try:
        get_jobs = feeding.target.load()

        def work() -> int:
            with watching(progress_file, is_shown=not no_progress) as (watch, say):
                return feeding.run(get_jobs, main, amqp, watch, say)

        status = main.serve(work)
    except TargetError as error:
        if error.__cause__ is not None:
            startup.complain("".join(traceback.format_exception(error.__cause__)))
        raise
    sys.exit(status)


def _feeding(text: str, given: dict[str, str], values: dict[str, Any]) -> Feeding:
    target = Target.parse(text, GET_JOBS)
    numbers = {name: values[name] for name in ("size", "chunk_max", "retries", "total", "workers")}
    return Feeding(
        target,
        given,
        jobs.state_path(target, values["state"]),
        FeedOptions(
            worker_type(values["type"] or target.module),
            max_failures=values["max_failures"] or 0,
            **numbers,
        ),
        jobs.find_key(values["key_file"], pickle=values["pickle"]),
        reset=values["reset"],
        only_failed=values["only_failed"],
    )


_RATE_TIME: Final = 5.0  # seconds over which the rate is taken
_LINE_EVERY: Final = 10.0  # seconds between two plain lines
_RECORD_EVERY: Final = 1.0  # seconds between two lines in the file

_log = logging.getLogger(__name__)


class Rate:
    """The recent rate of finished jobs."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, int]] = deque()

    def note(self, progress: FeedProgress) -> float:
        """Add the newest progress; return jobs per second."""
        self._points.append((progress.elapsed, progress.done))
        while len(self._points) > 2 and self._points[0][0] < progress.elapsed - _RATE_TIME:
            self._points.popleft()
        (begun, before), (ended, after) = self._points[0], self._points[-1]
        return (after - before) / (ended - begun) if ended > begun else 0.0


def describe(progress: FeedProgress, rate: float) -> str:
    """Return progress in a line."""
    share = (
        f" of {progress.total:,} ({min(1.0, progress.done / progress.total):.1%})" if progress.total else ""
    )
    left = _left(progress, rate)
    return (
        f"{progress.state}: {progress.done:,}{share}, {f'{left} left, ' if left else ''}{rate:,.0f}/s, "
        f"{progress.out:,} in flight, {progress.failed:,} failed, {progress.workers} workers"
    )


def _left(progress: FeedProgress, rate: float) -> str:
    """Return the time that is left; "" if it is unknown."""
    if not progress.total or not rate or progress.done >= progress.total:
        return ""
    minutes, seconds = divmod(int((progress.total - progress.done) / rate), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def _display(stack: contextlib.ExitStack) -> Callable[[FeedProgress, float], None]:
    """Return a function that updates a line on the terminal, and a bar if the total is known."""
    from rich.console import Console, Group  # noqa: PLC0415 -- it takes long to import
    from rich.live import Live  # noqa: PLC0415
    from rich.progress_bar import ProgressBar  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    live = stack.enter_context(Live(console=Console(stderr=True), refresh_per_second=4))

    def display(progress: FeedProgress, rate: float) -> None:
        line = Text(describe(progress, rate), no_wrap=True, overflow="ellipsis")
        bar = [ProgressBar(total=progress.total, completed=progress.done)] if progress.total else []
        live.update(Group(line, *bar))

    return display


class _Lines:
    """Writes a line every ten seconds."""

    def __init__(self) -> None:
        self._due = time.monotonic() + _LINE_EVERY

    def __call__(self, progress: FeedProgress, rate: float) -> None:
        if time.monotonic() >= self._due:
            self._due += _LINE_EVERY
            startup.complain(describe(progress, rate) + "\n")


class _Records:
    """Appends JSON lines to a file."""

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self._is_refused = False
        self._line_end = b""  # of a line that was written in part
        self._due = 0.0
        self._last = ""

    def __call__(self, progress: FeedProgress, rate: float) -> None:
        if time.monotonic() >= self._due or progress.state != self._last:
            self._due, self._last = time.monotonic() + _RECORD_EVERY, progress.state
            self._write(json.dumps({"time": time.time(), **asdict(progress), "rate": rate}) + "\n")

    def _write(self, line: str) -> None:
        """Append a line; on a full disk the feed continues, and logs that once."""
        data = self._line_end + line.encode()
        try:
            self._line_end = b"" if self._file.write(data) == len(data) else b"\n"
            self._is_refused = False
        except OSError as error:
            if not self._is_refused:
                place = f"progress file {self._file.name}"
                _log.error(
                    "%s: %s; the feed continues without writing its progress there", place, error.strerror
                )
            self._is_refused = True


@contextlib.contextmanager
def watching(path: str | None, *, is_shown: bool) -> Iterator[tuple[Watch, Callable[[str], None]]]:
    """Yield a function that shows progress, and one that shows a line at the end; both write to stderr.

    path -- the file that JSON lines are appended to, or None
    """
    lines: list[str] = []
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: startup.complain("".join(f"{line}\n" for line in lines)))
        watches: list[Callable[[FeedProgress, float], None]] = []
        lately = Rate()
        if path is not None:
            try:
                watches.append(_Records(stack.enter_context(FileIO(path, "a"))))
            except OSError as error:
                raise ConfigError([f"progress file {path}: {error.strerror}"]) from None
        if is_shown and sys.stderr.isatty():
            watches.append(_display(stack))
        elif is_shown:
            watches.append(_Lines())

        def watch(progress: FeedProgress) -> None:
            rate = lately.note(progress)
            for each in watches:
                each(progress, rate)

        yield watch, lines.append
