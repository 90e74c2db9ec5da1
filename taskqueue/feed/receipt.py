"""What a worker sends back for a chunk: which of its jobs failed, and how. All others are done."""

import json
import os
import socket
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from taskqueue.results import Failure
from taskqueue.workitem import shorten

_LONGEST_MESSAGE: Final = 500  # characters
_LONGEST_TRACE: Final = 8000
_MOST_TRACES: Final = 50  # different ones, a chunk
_WHO: Final = f"{socket.gethostname()}:"


@dataclass(frozen=True, slots=True)
class JobFailure:
    """A job that raised."""

    position: int  # in its chunk
    type: str
    message: str
    traceback: str  # without the exception itself; empty beyond the first kinds of a chunk

    @property
    def error(self) -> str:
        """Return the failure in one line."""
        return str(Failure(self.type, self.message))


class Receipt:
    """Collects what becomes of a chunk's jobs, in the worker; several threads may do so."""

    def __init__(self, threads: int) -> None:
        """Begin with no failure; so many jobs are performed at a time."""
        self._threads = threads
        self._failed: list[tuple[int, str, str, int]] = []
        self._traces: dict[str, int] = {}

    def fail(self, position: int, error: BaseException) -> None:
        """Note that a job raised."""
        failure = Failure.of(error)
        trace = shorten("".join(traceback.format_exception(error)[:-1]), _LONGEST_TRACE)
        if trace not in self._traces and len(self._traces) < _MOST_TRACES:
            self._traces[trace] = len(self._traces)  # jobs that fail, mostly fail alike
        number = self._traces.get(trace, -1)
        self._failed.append((position, failure.type, shorten(failure.message, _LONGEST_MESSAGE), number))

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can express it."""
        return {
            "worker": f"{_WHO}{os.getpid()}",
            "threads": self._threads,
            "failed": self._failed,
            "traces": list(self._traces),
        }


def failures(plain: Mapping[str, Any]) -> Iterator[JobFailure]:
    """Yield the failures of a receipt."""
    traces = plain["traces"]
    for position, kind, message, trace in plain["failed"]:
        yield JobFailure(position, kind, message, traces[trace] if trace >= 0 else "")


def read(body: bytes) -> dict[str, Any]:
    """Return what `Receipt.plain` gave."""
    plain: dict[str, Any] = json.loads(body)
    return plain
