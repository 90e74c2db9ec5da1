"""The surroundings of a worker's process, which one workitem must not change for the next."""

import contextlib
import os
import sys
from typing import Any, Final

from taskqueue.worker import labels

_WHERE: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class Surroundings:
    """The working directory, umask, environment and standard streams, as they were when this was made.

    They are restored after each workitem, whatever it came to, in about a millionth of a second.
    """

    def __init__(self) -> None:
        """Remember what there is."""
        self._directory = os.open(".", _WHERE)
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        # os.environ itself decodes each entry that is looked at.
        self._now: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined] # noqa: SLF001
        self._environment = dict(self._now)
        self._stdout, self._stderr = sys.stdout, sys.stderr

    def restore(self) -> None:
        """Have everything as it was."""
        os.umask(self._umask)
        try:  # noqa: SIM105 -- a context manager takes as long as the call
            os.fchdir(self._directory)
        except OSError:  # a plugin has closed it, or may not go there as another user
            pass
        if self._now != self._environment:
            self._restore_environment()
        if sys.stdout is not self._stdout or sys.stderr is not self._stderr:
            sys.stdout, sys.stderr = self._stdout, self._stderr

    def _restore_environment(self) -> None:
        for name in os.environb.keys() - self._environment.keys():
            del os.environb[name]
        os.environb.update(self._environment)

    def reopen_streams(self) -> None:
        """Open standard streams anew that were closed."""
        if _is_closed(self._stdout) or _is_closed(self._stderr):
            with contextlib.suppress(OSError):  # their descriptors are closed, too
                labels.install()
                self._stdout, self._stderr = sys.stdout, sys.stderr


def _is_closed(stream: Any) -> bool:
    return getattr(stream, "closed", False) is True
