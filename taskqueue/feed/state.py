"""A feed's files: the state with the finished jobs, locked for one feeder, and the failed jobs."""

import contextlib
import hashlib
import json
import os
import secrets
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Self

from taskqueue.errors import ConfigError, StateError
from taskqueue.process.daemon import PidFile


class Frontier:
    """A set of job numbers, kept as intervals; jobs are counted from 0 in the order the iterator yields them.

    The number of intervals is that of the gaps, so it never exceeds the number of jobs in flight.
    """

    def __init__(self, end: int = 0, intervals: Iterable[tuple[int, int]] = ()) -> None:
        """Begin with the jobs before `end` and those of the intervals, each (first, last + 1).

        Raises ValueError for intervals that are empty or out of order, or that touch each other or `end`.
        """
        bounds = [end, *(bound for interval in intervals for bound in interval)]
        if end < 0 or any(left >= right for left, right in pairwise(bounds)):
            raise ValueError("intervals are empty or out of order")
        self.end = end
        self._starts = bounds[1::2]
        self._ends = bounds[2::2]

    @property
    def intervals(self) -> list[tuple[int, int]]:
        """The intervals beyond the beginning, in order."""
        return list(zip(self._starts, self._ends, strict=True))

    def __len__(self) -> int:
        return self.end + sum(self._ends) - sum(self._starts)

    def add(self, start: int, end: int) -> None:
        """Add the jobs from `start` to before `end`."""
        start = max(start, self.end)
        if start >= end:
            return
        # Intervals that overlap or touch the new one are merged with it.
        first, last = bisect_left(self._ends, start), bisect_right(self._starts, end)
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        if start == self.end:
            self.end = end
            del self._starts[:last], self._ends[:last]
        else:
            self._starts[first:last], self._ends[first:last] = [start], [end]

    def gap(self, number: int) -> tuple[int, int | None]:
        """Return the next unfinished job from `number` on, and the start of the next interval or None."""
        number = max(number, self.end)
        at = bisect_right(self._starts, number) - 1
        if at >= 0 and number < self._ends[at]:
            number = self._ends[at]
        at = bisect_right(self._starts, number)
        return number, self._starts[at] if at < len(self._starts) else None


@contextlib.contextmanager
def _writing(what: Path | str) -> Iterator[None]:
    """Raise StateError instead of an OSError."""
    try:
        yield
    except OSError as error:
        raise StateError(f"{what} cannot be written: {error.strerror}") from None


class FailureLog:
    """The file of the failed jobs. Lines that the saved state does not include are cut off."""

    def __init__(self, path: Path, size: int) -> None:
        """Open the file and truncate it to `size` bytes; the jobs beyond are fed again.

        Raises StateError if that is not possible.
        """
        self._path = path
        self.count = 0  # lines written by this object
        with _writing(path):
            self._file = path.open("ab")
            if self._file.tell() > size:
                self._file.truncate(size)

    def append(self, entry: dict[str, Any]) -> None:
        """Write one line. Raises StateError if that is not possible."""
        with _writing(self._path):
            self._file.write(json.dumps(entry).encode() + b"\n")
        self.count += 1

    def sync(self) -> int:
        """Write the file to disk; return its size in bytes."""
        with _writing(self._path):
            self._file.flush()
            if self.count:
                os.fsync(self._file.fileno())
            return self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Close the file, and remove it if it is empty; lines since the last `sync` may be lost."""
        with contextlib.suppress(OSError):
            self._file.close()
        if self._path.exists() and not self._path.stat().st_size:
            self._path.unlink()


def recorded(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the entries of a file of failed jobs, in order. Raises StateError for any other line."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                entry = json.loads(line)
                entry["index"], entry["job"]
            except (ValueError, TypeError, KeyError):
                raise StateError(
                    f"{path}, line {number}: expected a failed job, found something else"
                ) from None
            yield entry


_FORMAT: Final = "taskqueue feed state, version 1"
_SIZE_LIMIT: Final = 256 * 1024 * 1024  # bytes; no state file is as large


@dataclass(frozen=True, slots=True)
class Identity:
    """Identity of a feed: equal identities yield the same jobs in the same order."""

    target: str  # file, relative to the state file's directory, and function
    arguments: Mapping[str, str]
    jobs: str  # their content type

    def __str__(self) -> str:
        """Return the identity in words."""
        given = " ".join(f"{name}={value}" for name, value in sorted(self.arguments.items()))
        return f"{self.target} with {given or 'no arguments'}, jobs as {self.jobs}"


@dataclass(slots=True)
class Pass:
    """A pass through all jobs of an iterator, or through those that failed before."""

    name: str = "jobs"  # unique in its feed; part of the chunks' ids
    frontier: Frontier = field(default_factory=Frontier)
    at: int = 0  # number of a job from which the iterator can continue; all before it are finished
    last: Any = None  # that job, as the codec writes it for JSON; None if `at` is 0
    is_finished: bool = False

    def plain(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "name": self.name,
            "end": self.frontier.end,
            "islands": self.frontier.intervals,
            "at": self.at,
            "last": self.last,
            "finished": self.is_finished,
        }

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Self:
        """Read the values of `plain`. Raises ValueError, TypeError or KeyError for any others."""
        frontier = Frontier(int(plain["end"]), [(int(a), int(b)) for a, b in plain["islands"]])
        at = int(plain["at"])
        if not 0 <= at <= frontier.end:
            raise ValueError("its position is behind the finished jobs")
        return cls(str(plain["name"]), frontier, at, plain["last"], bool(plain["finished"]))


@dataclass(slots=True)
class State:
    """The state of a feed that is kept from one start to the next."""

    identity: Identity
    feed: str = field(default_factory=lambda: secrets.token_hex(8))  # its id, until it is reset
    run: int = 0  # counts the starts
    jobs: Pass = field(default_factory=Pass)
    again: Pass | None = None  # the pass through failed jobs, while these are fed
    failed: int = 0  # jobs in the file of failed ones
    failed_size: int = 0  # bytes of that file which belong to this state

    @property
    def is_untouched(self) -> bool:
        """Whether no job is finished, so that nothing is lost with the state."""
        return not len(self.jobs.frontier) and not self.failed and self.again is None

    def plain(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "target": self.identity.target,
            "arguments": dict(self.identity.arguments),
            "type": self.identity.jobs,
            "feed": self.feed,
            "run": self.run,
            "jobs": self.jobs.plain(),
            "again": self.again.plain() if self.again else None,
            "failed": self.failed,
            "failed_size": self.failed_size,
        }

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Self:
        """Read the values of `plain`. Raises ValueError, TypeError or KeyError for any others."""
        identity = Identity(str(plain["target"]), dict(plain["arguments"]), str(plain["type"]))
        again = Pass.of(plain["again"]) if plain["again"] else None
        return cls(
            identity,
            str(plain["feed"]),
            int(plain["run"]),
            Pass.of(plain["jobs"]),
            again,
            int(plain["failed"]),
            int(plain["failed_size"]),
        )


class StateFile:
    """The state file, locked for one feeder: ``with StateFile(path) as file: ...``."""

    def __init__(self, path: Path) -> None:
        """Name the file; nothing is read or locked yet."""
        self.path = path
        self.failed_path = Path(f"{path}.failed.jsonl")
        self.again_path = Path(f"{path}.again.jsonl")
        self._lock = PidFile(f"{path}.lock")

    def __enter__(self) -> Self:
        """Take the lock.

        Raises AlreadyRunning if another feeder has it, StateError if the directory cannot be written.
        """
        try:
            self._lock.__enter__()
        except ConfigError as error:
            reason = str(error).rpartition(": ")[2]
            raise StateError(f"state file {self.path} cannot be written: {reason}") from None
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.__exit__(*exception)

    def read(self, identity: Identity) -> State | None:
        """Return the feed's state; None if there is none yet.

        Raises StateError for a damaged file, or that of another feed.
        """
        try:
            data = self._data()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateError(f"state file {self.path} cannot be read: {error.strerror}") from None
        state = self._parse(data)
        if state.identity != identity:
            raise StateError(
                f"state file {self.path} belongs to another feed: {state.identity}; this feed is {identity}. "
                "Choose another file with --state, or start over with --reset"
            )
        return state

    def _data(self) -> bytes:
        if self.path.stat().st_size > _SIZE_LIMIT:
            raise StateError(f"{self.path} is not the state file of a feed: it is too large")
        return self.path.read_bytes()

    def _parse(self, data: bytes) -> State:
        try:
            whole = json.loads(data)
            content = whole["state"]
            if whole["format"] != _FORMAT or whole["sha256"] != _checksum(content):
                raise ValueError("format or checksum differ")
            return State.of(content)
        except (ValueError, TypeError, KeyError, RecursionError):
            raise StateError(
                f"state file {self.path} is damaged, or is not the state of a feed. Restore a copy, choose "
                "another file with --state, or start over with --reset"
            ) from None

    def write(self, state: State) -> None:
        """Replace the file atomically: after a crash, it has the old state or the new one.

        Raises StateError if that is not possible.
        """
        content = state.plain()
        whole = {"format": _FORMAT, "sha256": _checksum(content), "state": content}
        new = Path(f"{self.path}.new")
        with _writing(f"state file {self.path}"):
            new.unlink(missing_ok=True)
            # Other users may write into the directory; their links and FIFOs are not opened.
            with new.open("x", encoding="ascii") as file:
                json.dump(whole, file)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.path)
            _sync_directory(self.path.parent)

    def begin(self, identity: Identity) -> State:
        """Return the state of a new feed. Raises StateError if there are failed jobs of another one."""
        if self.failed_path.exists() and self.failed_path.stat().st_size:
            raise StateError(
                f"{self.failed_path} exists without its state file; move it away, or start over with --reset"
            )
        return State(identity)

    def commit(self, state: State) -> None:
        """Write the state, then update the files beside it."""
        self.write(state)
        self.complete(state)

    def complete(self, state: State) -> None:
        """Update the files beside the state; a feeder may have been killed after it wrote the state."""
        try:
            if state.again is None:
                self.again_path.unlink(missing_ok=True)
            elif not self.again_path.exists():
                self.check_failed()
                self.failed_path.rename(self.again_path)
        except OSError as error:
            raise StateError(f"{error.filename}: {error.strerror}") from None

    def check_failed(self) -> None:
        """Raise StateError if the file of the failed jobs is missing, before a state refers to it."""
        if not self.failed_path.exists():
            raise StateError(
                f"{self.failed_path} with the failed jobs is missing; restore it, or start over with --reset"
            )

    def remove(self) -> None:
        """Remove the state and the failed jobs. Raises StateError for a file that is no state."""
        with contextlib.suppress(FileNotFoundError):
            if self._data()[:300].find(_FORMAT.encode()) < 0 and self.path.stat().st_size:
                raise StateError(
                    f"{self.path} is not the state file of a feed; remove it yourself if you do not need it"
                )
        for path in (self.path, self.failed_path, self.again_path):
            path.unlink(missing_ok=True)


def _checksum(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sync_directory(path: Path) -> None:
    """Write the directory's new entry to disk, which fsync of the file does not do (fsync(2))."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
