"""Stores of results that are too large to be passed on by value: a directory, or a plugin's."""

import contextlib
import os
import re
import stat
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from taskqueue import plugins
from taskqueue.errors import PluginError, StoreFailed
from taskqueue.messages.workitem import LARGEST_DECOMPRESSED

_KEPT: Final = re.compile(r"\.?[0-9a-f]{32}\Z")  # the name of a file; with a dot while it is written
_MODE: Final = 0o640
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_REMOVE_DELAY: Final = 3600.0  # seconds between two looks for old files


class ResultStore(ABC):
    """A store of results. Plugins install one under the entry point group `taskqueue.stores`.

    Each worker process makes one, as its Unix user: it calls the class with the options of its group that
    taskqueue does not know, which are the `settings` of its plugin, too. `put` and `get` run within the time
    of a step; what they raise fails it, as an exception of its handler does. A store removes what is old.
    """

    @abstractmethod
    def put(self, name: str, data: bytes) -> None:
        """Keep the bytes under a name, which is new: 32 hexadecimal digits. They are safe when it returns."""

    @abstractmethod
    def get(self, name: str) -> bytes:
        """Return the bytes that `put` was given, also in another process or host; raise if there are none."""


class DirectoryStore(ResultStore):
    """A directory, with a file for each result. It may be on a file system that several hosts share."""

    def __init__(self, path: str | Path, keep: float = 0.0) -> None:
        """Use a directory, which is made if it is missing.

        Args:
            path: its absolute path.
            keep: seconds after which a file is removed; 0 for never.

        Raises StoreFailed if it cannot be made.
        """
        self._path, self._keep = Path(path), keep
        self._remove_at = 0.0  # monotonic
        with self._translated(""):
            self._path.mkdir(mode=0o700, exist_ok=True)

    def put(self, name: str, data: bytes) -> None:
        """Write a file that appears whole, once it is on the disk. Raises StoreFailed."""
        written, path = self._path / f".{name}", self._path / name
        with self._translated(name):
            descriptor = os.open(written, _NEW, _MODE)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    os.fchmod(file.fileno(), _MODE)  # a handler may have changed the mask
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                written.rename(path)
                self._sync()
            except BaseException:
                written.unlink(missing_ok=True)
                raise
        self._remove_old()

    def get(self, name: str) -> bytes:
        """Return the content of a file. Raises StoreFailed."""
        with self._translated(name):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with os.fdopen(os.open(self._path / name, flags), "rb") as file:
                found = os.fstat(file.fileno())
                if not stat.S_ISREG(found.st_mode):
                    raise StoreFailed(f"store {self._path}: {name} is no file")
                if found.st_size > LARGEST_DECOMPRESSED:  # another user of the directory has made it
                    raise StoreFailed(f"store {self._path}: {name} has {found.st_size:,} bytes")
                return file.read(found.st_size)

    def _sync(self) -> None:
        directory = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _remove_old(self) -> None:
        """Remove old files from time to time; those of other users stay, whose workers remove them."""
        if not self._keep or time.monotonic() < self._remove_at:
            return
        self._remove_at = time.monotonic() + _REMOVE_DELAY
        before = time.time() - self._keep
        with contextlib.suppress(OSError), os.scandir(self._path) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if _KEPT.match(entry.name) and entry.stat(follow_symlinks=False).st_mtime < before:
                        os.unlink(entry.path)  # noqa: PTH108 -- thousands of them

    @contextlib.contextmanager
    def _translated(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            what = (
                f"there is no result {name}; it may have been removed, being old" if name else "no directory"
            )
            raise StoreFailed(f"store {self._path}: {what}") from None
        except OSError as error:
            raise StoreFailed(f"store {self._path}: {error.strerror}") from None


def open_store(place: str | None, keep: float, settings: Mapping[str, str]) -> ResultStore | None:
    """Return the store that the option `result_store` names; None for None.

    Args:
        place: the absolute path of a directory, or the name of a plugin.
        keep: seconds that a directory keeps results.
        settings: for a plugin: the options that taskqueue does not know.

    Raises PluginError if it cannot be used.
    """
    if place is None:
        return None
    try:
        if place.startswith("/"):
            return DirectoryStore(place, keep)
        store = plugins.load(place, plugins.STORES)(dict(settings))
    except PluginError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(f"store {place!r} cannot be used: {type(error).__name__}: {error}") from error
    if not isinstance(store, ResultStore):
        raise PluginError(f"store {place!r} is a {type(store).__name__}, expected a ResultStore")
    return store
