"""Showing how a feed goes: on a terminal, as lines where there is none, and as JSON lines in a file."""

import contextlib
import json
import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict
from io import FileIO
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from taskqueue.errors import ConfigError
from taskqueue.feed.options import FeedProgress, Watch
from taskqueue.process import startup

_RATE_TIME: Final = 5.0  # seconds over which the rate is taken
_LINE_EVERY: Final = 10.0  # seconds between two plain lines
_RECORD_EVERY: Final = 1.0  # seconds between two lines in the file

_log = logging.getLogger(__name__)


class Rate:
    """How many jobs a second were done lately."""

    def __init__(self) -> None:
        """Begin with nothing known."""
        self._points: deque[tuple[float, int]] = deque()

    def note(self, progress: FeedProgress) -> float:
        """Take the newest progress in; return jobs a second."""
        self._points.append((progress.elapsed, progress.done))
        while len(self._points) > 2 and self._points[0][0] < progress.elapsed - _RATE_TIME:
            self._points.popleft()
        (begun, before), (ended, after) = self._points[0], self._points[-1]
        return (after - before) / (ended - begun) if ended > begun else 0.0


def describe(progress: FeedProgress, rate: float) -> str:
    """Return progress in a line."""
    share = f" of {progress.total:,} ({_share(progress):.1%})" if progress.total else ""
    left = _left(progress, rate)
    return (
        f"{progress.state}: {progress.done:,}{share}, {f'{left} left, ' if left else ''}{rate:,.0f}/s, "
        f"{progress.out:,} in flight, {progress.failed:,} failed, {progress.workers} workers"
    )


def _share(progress: FeedProgress) -> float:
    return min(1.0, progress.done / progress.total) if progress.total else 0.0


def _left(progress: FeedProgress, rate: float) -> str:
    """Return the time that is left, "" where that cannot be told."""
    if not progress.total or not rate or progress.done >= progress.total:
        return ""
    minutes, seconds = divmod(int((progress.total - progress.done) / rate), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


class _Display:
    """A line that is written over and over on a terminal, with a bar where the total is known."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._rate = Rate()

    def __call__(self, progress: FeedProgress) -> None:
        line = Text(describe(progress, self._rate.note(progress)), no_wrap=True, overflow="ellipsis")
        bar = ProgressBar(total=progress.total, completed=progress.done) if progress.total else None
        parts: list[RenderableType] = [line, bar] if bar else [line]
        self._live.update(Group(*parts))


class _Lines:
    """A line now and then."""

    def __init__(self) -> None:
        self._rate = Rate()
        self._due = time.monotonic() + _LINE_EVERY

    def __call__(self, progress: FeedProgress) -> None:
        rate = self._rate.note(progress)
        if time.monotonic() >= self._due:
            self._due += _LINE_EVERY
            startup.complain(describe(progress, rate) + "\n")


class _Records:
    """JSON lines."""

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self._is_refused = False
        self._line_end = b""  # of a line that was written in part
        self._rate = Rate()
        self._due = 0.0
        self._last = ""

    def __call__(self, progress: FeedProgress) -> None:
        rate = self._rate.note(progress)
        if time.monotonic() >= self._due or progress.state != self._last:
            self._due, self._last = time.monotonic() + _RECORD_EVERY, progress.state
            self._write(json.dumps({"time": time.time(), **asdict(progress), "rate": rate}) + "\n")

    def _write(self, line: str) -> None:
        """Append a line; a feed does not end because a disk is full, and says so once."""
        data = self._line_end + line.encode()
        try:
            self._line_end = b"" if self._file.write(data) == len(data) else b"\n"
            self._is_refused = False
        except OSError as error:
            if not self._is_refused:
                place = f"progress file {self._file.name}"
                _log.error(
                    "%s: %s; the feed goes on, and its progress is left out there", place, error.strerror
                )
            self._is_refused = True


@contextlib.contextmanager
def watching(path: str | None, *, is_shown: bool) -> Iterator[tuple[Watch, Callable[[str], None]]]:
    """Give what shows progress, and what says a line to the user at the end; both on stderr.

    path -- the file that JSON lines are appended to, or None
    """
    lines: list[str] = []
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: startup.complain("".join(f"{line}\n" for line in lines)))
        watches: list[Watch] = []
        if path is not None:
            try:
                watches.append(_Records(stack.enter_context(FileIO(path, "a"))))
            except OSError as error:
                raise ConfigError([f"progress file {path}: {error.strerror}"]) from None
        if is_shown and sys.stderr.isatty():
            live = Live(console=Console(stderr=True), refresh_per_second=4)
            watches.append(_Display(stack.enter_context(live)))
        elif is_shown:
            watches.append(_Lines())

        def watch(progress: FeedProgress) -> None:
            for each in watches:
                each(progress)

        yield watch, lines.append
