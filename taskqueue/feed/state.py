"""A feed's files: its state, whose it is and who may write it, and the jobs that failed, as lines of JSON."""

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from taskqueue.errors import ConfigError, StateError
from taskqueue.feed.frontier import Frontier
from taskqueue.process.daemon import PidFile


class FailureLog:
    """Appends to the file; what a state does not know of, because it was killed before, is taken back."""

    def __init__(self, path: Path, size: int) -> None:
        """Open the file, and cut off what is beyond `size` bytes: those jobs come again.

        Raises StateError where that is not possible.
        """
        self._path = path
        self.count = 0  # lines written by this object
        try:
            self._file = path.open("ab")
            if self._file.tell() > size:
                self._file.truncate(size)
        except OSError as error:
            raise self._unwritable(error) from None

    def append(self, entry: dict[str, Any]) -> None:
        """Write one line; StateError where that is not possible."""
        try:
            self._file.write(json.dumps(entry).encode() + b"\n")
        except OSError as error:
            raise self._unwritable(error) from None
        self.count += 1

    def sync(self) -> int:
        """Have all of it written down; return the file's size in bytes."""
        try:
            self._file.flush()
            if self.count:
                os.fsync(self._file.fileno())
            return self._file.seek(0, os.SEEK_END)
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> StateError:
        return StateError(f"{self._path} cannot be written: {error.strerror}")

    def close(self) -> None:
        """Close the file, and remove it if nothing is in it; what was not synced may be lost."""
        with contextlib.suppress(OSError):
            self._file.close()
        if self._path.exists() and not self._path.stat().st_size:
            self._path.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def recorded(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the entries of such a file, in order; StateError for a line that is none."""
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
_SIZE_LIMIT: Final = 256 * 1024 * 1024  # bytes; nothing of ours is as large


@dataclass(frozen=True, slots=True)
class Identity:
    """Identity of a feed: equal identities yield the same jobs in the same order."""

    target: str  # file, relative to the state file's directory, and function
    arguments: Mapping[str, str]
    jobs: str  # their content type

    def __str__(self) -> str:
        """Return it in words."""
        given = " ".join(f"{name}={value}" for name, value in sorted(self.arguments.items()))
        return f"{self.target} with {given or 'no arguments'}, jobs as {self.jobs}"


@dataclass(slots=True)
class Pass:
    """One way through all the jobs of an iterator, or through those that failed before."""

    name: str = "jobs"  # another one for each other pass: the ids of its chunks have it
    frontier: Frontier = field(default_factory=Frontier)
    at: int = 0  # the number of a job from which the iterator can go on; all before it are finished
    last: Any = None  # that job, as the codec writes it for JSON; only where `at` is not 0
    is_finished: bool = False

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can express it."""
        return {
            "name": self.name,
            "end": self.frontier.end,
            "islands": self.frontier.islands,
            "at": self.at,
            "last": self.last,
            "finished": self.is_finished,
        }

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Self:
        """Read what `plain` wrote; ValueError, TypeError or KeyError where it did not."""
        frontier = Frontier(int(plain["end"]), [(int(a), int(b)) for a, b in plain["islands"]])
        at = int(plain["at"])
        if not 0 <= at <= frontier.end:
            raise ValueError("goes on beyond what is finished")
        return cls(str(plain["name"]), frontier, at, plain["last"], bool(plain["finished"]))


@dataclass(slots=True)
class State:
    """All that a feed knows about itself from one start to the next."""

    identity: Identity
    feed: str = field(default_factory=lambda: secrets.token_hex(8))  # until it is reset
    run: int = 0  # counts the starts
    jobs: Pass = field(default_factory=Pass)
    again: Pass | None = None  # through those that failed, while these are fed again
    failed: int = 0  # jobs in the file of failed ones
    failed_size: int = 0  # bytes of it that belong to this state

    @property
    def is_untouched(self) -> bool:
        """Whether no job has come to its end, so that nothing is forgotten with it."""
        return not len(self.jobs.frontier) and not self.failed and self.again is None

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can express it."""
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
        """Read what `plain` wrote; ValueError, TypeError or KeyError where it did not."""
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
    """The file, locked for one feeder: ``with StateFile(path) as file: ...``."""

    def __init__(self, path: Path) -> None:
        """Name the file; nothing is read or locked yet."""
        self.path = path
        self.failed_path = Path(f"{path}.failed.jsonl")
        self.again_path = Path(f"{path}.again.jsonl")
        self._lock = PidFile(f"{path}.lock")

    def __enter__(self) -> Self:
        """Take the lock.

        Raises AlreadyRunning where another feeder has it, StateError where the directory cannot be written.
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
        """Return the feed's state, None where it has none yet.

        Raises StateError for a file that is damaged, or that is another feed's.
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
                f"state file {self.path} is another feed's: of {state.identity}; found {identity}. "
                "Choose another file by --state, or start over by --reset"
            )
        return state

    def _data(self) -> bytes:
        if self.path.stat().st_size > _SIZE_LIMIT:
            raise StateError(f"{self.path} is no state file of a feed: it is too large")
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
                f"state file {self.path} is damaged, or none of a feed. Put a copy in its place, choose "
                "another file by --state, or start over by --reset"
            ) from None

    def write(self, state: State) -> None:
        """Replace the file: whoever reads it, after whatever crash, finds the old state or the new one.

        Raises StateError where that is not possible.
        """
        content = state.plain()
        whole = {"format": _FORMAT, "sha256": _checksum(content), "state": content}
        new = Path(f"{self.path}.new")
        try:
            new.unlink(missing_ok=True)
            # Others may write into the directory: no link or FIFO of theirs is opened.
            with new.open("x", encoding="ascii") as file:
                json.dump(whole, file)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.path)
            _sync_directory(self.path.parent)
        except OSError as error:
            raise StateError(f"state file {self.path} cannot be written: {error.strerror}") from None

    def remove(self) -> None:
        """Start over: remove the state and what failed. StateError for a file that is no feed's state."""
        with contextlib.suppress(FileNotFoundError):
            if self._data()[:300].find(_FORMAT.encode()) < 0 and self.path.stat().st_size:
                raise StateError(f"{self.path} is no state file of a feed; remove it yourself if it may go")
        for path in (self.path, self.failed_path, self.again_path):
            path.unlink(missing_ok=True)


def _checksum(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sync_directory(path: Path) -> None:
    """Have the directory's new entry written down, which a file's own fsync does not do (fsync(2))."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
