"""A worker's answer for a chunk: which of its jobs failed, and how. All others are done."""

import json
import os
import socket
import threading
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from taskqueue.amqp.properties import Properties
from taskqueue.messages.names import ENDED, STARTED, STATUS
from taskqueue.messages.results import SUCCEEDED, Failure
from taskqueue.texts import shorten

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
        self._lock = threading.Lock()

    def fail(self, position: int, error: BaseException) -> None:
        """Note that a job raised."""
        failure = Failure.of(error)
        trace = shorten("".join(traceback.format_exception(error)[:-1]), _LONGEST_TRACE)
        message = shorten(failure.message, _LONGEST_MESSAGE)
        with self._lock:
            if trace not in self._traces and len(self._traces) < _MOST_TRACES:
                self._traces[trace] = len(self._traces)  # jobs that fail, mostly fail alike
            self._failed.append((position, failure.type, message, self._traces.get(trace, -1)))

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can express it."""
        return {
            "worker": f"{_WHO}{os.getpid()}",
            "threads": self._threads,
            "failed": self._failed,
            "traces": list(self._traces),
        }


@dataclass(frozen=True, slots=True)
class Report:
    """The content of a receipt, checked: anybody can publish to a queue."""

    error: Mapping[str, str] | None  # why the chunk failed as a whole; None if it did not
    seconds: float = 0.0  # that it took
    worker: str = ""
    threads: int = 1
    failures: tuple[JobFailure, ...] = ()


class Unreadable(ValueError):
    """A message that is no receipt; its text says why."""


def read(properties: Properties, body: bytes, jobs: int) -> Report:
    """Return what a receipt for a chunk of so many jobs says; Unreadable for what no worker has written."""
    try:
        headers, plain = properties.headers, json.loads(body)
        if headers[STATUS] != SUCCEEDED:
            error = plain["error"]
            return Report({"type": str(error["type"]), "message": str(error["message"])})
        return Report(
            None,
            float(headers[ENDED] - headers[STARTED]),
            str(plain["worker"]),
            int(plain["threads"]),
            tuple(failures(plain, jobs)),
        )
    except KeyError as error:
        raise Unreadable(f"it has no {error}") from None
    except (ValueError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise Unreadable(shorten(f"{type(error).__name__}: {error}", 200)) from None


def failures(plain: Mapping[str, Any], jobs: int) -> Iterator[JobFailure]:
    """Yield the failures of a receipt for so many jobs; any error of Python's for what is none."""
    traces = plain["traces"]
    for position, kind, message, trace in plain["failed"]:
        if not 0 <= position < jobs:
            raise ValueError(f"job {position} of {jobs}")
        yield JobFailure(position, str(kind), str(message), str(traces[trace]) if trace >= 0 else "")
