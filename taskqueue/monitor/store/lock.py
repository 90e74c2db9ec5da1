"""The lock of a record's directory: one process at a time records there."""

import fcntl
import os
from pathlib import Path
from typing import Final

from taskqueue.errors import AlreadyRunning

_NAME: Final = "lock"


def locked(directory: Path) -> int:
    """Return a descriptor with the lock of a record; the kernel drops it with the process.

    Raises AlreadyRunning if another process has it, and OSError.
    """
    path = directory / _NAME
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise AlreadyRunning(
            f"another monitor writes the record in {directory}. Stop it, or choose another directory by "
            "database in [monitor]"
        ) from None
    return descriptor


def is_locked(directory: Path) -> bool:
    """Return whether a process records there now. Raises OSError if that cannot be known."""
    try:
        descriptor = os.open(directory / _NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
