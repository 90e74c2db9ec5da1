"""The file of the jobs that failed: one JSON object a line."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from taskqueue.errors import StateError


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
