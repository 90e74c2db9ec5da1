"""Moving a record aside, so that the monitor records again from the stream's beginning."""

import os
import shutil
import time
from pathlib import Path

from taskqueue.errors import RecordUnavailable
from taskqueue.monitor.place import as_owner
from taskqueue.monitor.report import remove_report
from taskqueue.monitor.store.lock import locked


def move_aside(directory: Path) -> Path | None:
    """Move the record's files to a new directory beside them; return that, or None if there is no record.

    Users and tokens stay. Raises AlreadyRunning while a monitor records there, and RecordUnavailable.
    """
    try:
        with as_owner(directory):
            descriptor = locked(directory)
            try:
                return _move(directory)
            finally:
                os.close(descriptor)
    except OSError as error:
        raise RecordUnavailable(f"record {error.filename or directory}: {error.strerror}") from None


def _move(directory: Path) -> Path | None:
    files = sorted(directory.glob("*.db*"))
    if not files:
        return None
    place = _new_directory(directory)
    for file in files:
        file.rename(place / file.name)
    remove_report(directory)
    return place


def _new_directory(directory: Path) -> Path:
    """Make a directory with the mode of the record's."""
    place = directory / time.strftime("before-%Y%m%d-%H%M%S")
    place.mkdir()
    shutil.copymode(directory, place)
    return place
