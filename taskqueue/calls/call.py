"""A call: one invocation of a task somewhere else, and what has become of it so far."""

import asyncio
import contextlib
import logging
import math
import threading
from collections.abc import Callable, Generator
from enum import StrEnum
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar, cast

from taskqueue.errors import CallTimeout, TaskqueueError

R = TypeVar("R")

_log: Final = logging.getLogger(__name__)


class Status(StrEnum):
    """How far a call is; a `Status` is equal to its word."""

    SENDING = "SENDING"  # the broker has not confirmed it yet
    QUEUED = "QUEUED"  # it waits for a worker
    RUNNING = "RUNNING"
    RETRYING = "RETRYING"  # it was begun, and waits for its next run
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class Progress(NamedTuple):
    """How far a running call says that it is."""

    fraction: float  # 0 to 1
    text: str


class CallOwner(Protocol):
    """Where a call was made: what it needs of its client."""

    def wait(self, call: "Call[Any]", timeout: float | None) -> None:
        """Return when the call is done, or after `timeout` seconds."""

    def cancel(self, call: "Call[Any]") -> None:
        """Ask for the end of a call."""

    def fetched(self, call: "Call[Any]") -> None:
        """Note that the user has what the call came to."""

    def forget(self, call: "Call[Any]") -> None:
        """Await the reply of a call no longer."""


class Call(Generic[R]):
    """One call, from when it is made until its reply is here. Any thread may use it, and `await` it."""

    def __init__(self, exchange: CallOwner, id_: str, task: str, client: object = None) -> None:
        """Make a call that is about to be sent; clients do that.

        client -- lives as long as the call does: a client that nobody keeps closes its connection
        """
        self.id = id_
        self.task = task
        self._client = client
        self.is_cancelled = False  # whether somebody asked for its end
        self._exchange = exchange
        self._gate = threading.Lock()  # for threads that wait; it is opened once
        self._gate.acquire()
        self._status = Status.SENDING
        self._progress: Progress | None = None
        self._callbacks: list[Callable[[Call[R]], Any]] = []
        self._value: Any = None
        self._error: TaskqueueError | None = None

    def __repr__(self) -> str:
        """Show task, id and status."""
        return f"<call of {self.task}, {self.id}: {self.status()}>"

    # --- for whoever made it ---

    def status(self) -> Status:
        """Return how far it is, as its worker's consumer has told; nothing is asked."""
        return self._status

    def progress(self) -> Progress | None:
        """Return what the task has told of its progress, if anything."""
        return self._progress

    def done(self) -> bool:
        """Tell whether it has succeeded, failed or been cancelled."""
        return self._status in _ENDS

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is done, at most `timeout` seconds; tell whether it is."""
        if not self.done():
            self._exchange.wait(self, lock_timeout(timeout))
        return self.done()

    def result(self, timeout: float | None = None) -> R:
        """Wait for the value that the task returned, and return it.

        Raises:
            CallTimeout: it is not done within `timeout` seconds; it goes on.
            TaskFailed: the task raised, or its worker died.
            UnknownTask, BadArguments: there is no such task, or the arguments do not fit; nothing was run.
            CallCancelled: somebody has cancelled it.
            BrokerUnavailable, BrokerRefused: it could not be sent, or its reply cannot come any more.
        """
        self.wait(timeout)
        return self.outcome(timeout)

    def error(self) -> TaskqueueError | None:
        """Return what `result` raises for a call that is done, None where it returns."""
        return self._error

    def cancel(self) -> bool:
        """Ask for its end: what no worker has begun never is, and a running worker is stopped.

        Returns False if it is done already. The call ends as CANCELLED when a consumer has done it; where it
        is quicker to succeed, it has succeeded.
        """
        if self.done():
            return False
        self.is_cancelled = True
        self._exchange.cancel(self)
        return True

    def forget(self) -> None:
        """Await its reply no longer; it goes on, and is never done here."""
        self._exchange.forget(self)

    def add_done_callback(self, callback: Callable[["Call[R]"], Any]) -> None:
        """Call back with the call when it is done, at once if it is; in the client's thread, so be quick."""
        self._callbacks.append(callback)
        if self.done():
            self._call_all_back()

    def __await__(self) -> Generator[Any, None, R]:
        """Wait in asyncio; return or raise what `result` does."""
        if not self.done():
            loop = asyncio.get_running_loop()
            future: asyncio.Future[None] = loop.create_future()

            def wake(_call: "Call[R]") -> None:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(_resolve, future)

            self.add_done_callback(wake)
            yield from future
        return self.result()

    # --- for the client ---

    def outcome(self, timeout: float | None) -> R:
        """Return or raise what it came to; CallTimeout if it is not done after so many seconds."""
        if not self.done():
            raise CallTimeout(f"no result of {self.task} within {timeout:g} s; call {self.id} goes on")
        self._exchange.fetched(self)
        if self._error is not None:
            raise self._error
        return cast("R", self._value)

    def move(self, status: Status) -> None:
        """Note a step on the way."""
        if not self.done():
            self._status = status

    def tell(self, progress: Progress) -> None:
        """Note how far the task says that it is."""
        self._progress = progress
        self.move(Status.RUNNING)

    def settle(self, status: Status, value: Any = None, error: TaskqueueError | None = None) -> bool:
        """Note what it came to, once; tell whether this was the first time."""
        if self.done():
            return False
        self._value, self._error, self._status = value, error, status
        self._gate.release()
        self._call_all_back()
        return True

    def wait_at_gate(self, timeout: float | None) -> None:
        """Return when the call is done, or after `timeout` seconds."""
        if timeout is None:
            with self._gate:
                pass
        elif self._gate.acquire(timeout=max(0.0, timeout)):
            self._gate.release()

    def _call_all_back(self) -> None:
        while self._callbacks:
            with contextlib.suppress(IndexError):  # another thread has taken the last one
                _call_back(self._callbacks.pop(0), self)


_ENDS: Final = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED})


def lock_timeout(timeout: float | None) -> float | None:
    """Return a timeout that a lock takes, None for one beyond; ValueError for NaN."""
    if timeout is None or timeout > threading.TIMEOUT_MAX:
        return None
    if math.isnan(timeout):
        raise ValueError(f"expected a timeout in seconds, found {timeout}")
    return timeout


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _call_back(callback: Callable[[Call[R]], Any], call: Call[R]) -> None:
    try:
        callback(call)
    except Exception:  # noqa: BLE001 -- the user's code may raise anything
        _log.exception("a callback of %r raised", call)
