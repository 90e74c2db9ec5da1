"""A call: one remote invocation of a task, with its status and its outcome."""

import asyncio
import contextlib
import logging
import math
import threading
from collections.abc import Callable, Generator
from enum import StrEnum
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar, cast

from taskqueue.errors import CallTimeout, TaskqueueError
from taskqueue.workflows.chains import Remaining

R = TypeVar("R")

_log: Final = logging.getLogger(__name__)


class Status(StrEnum):
    """The status of a call; a `Status` is equal to its name as a str."""

    SENDING = "SENDING"  # not confirmed by the broker yet
    QUEUED = "QUEUED"  # waits for a worker
    RUNNING = "RUNNING"
    RETRYING = "RETRYING"  # was begun, and waits for its next run
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class Progress(NamedTuple):
    """The progress that a running call has reported."""

    fraction: float  # 0 to 1
    text: str


class CallOwner(Protocol):
    """The part of its client that a call uses."""

    def wait(self, call: "Call[Any]", timeout: float | None) -> None:
        """Wait until the call is done, at most `timeout` seconds."""

    def cancel(self, call: "Call[Any]") -> None:
        """Request the cancellation of a call."""

    def fetched(self, call: "Call[Any]") -> None:
        """Record that the user has fetched the outcome of the call."""

    def forget(self, call: "Call[Any]") -> None:
        """Stop waiting for the reply of a call."""


class Call(Generic[R]):
    """One call, from its creation to its reply. Any thread may use it; asyncio code may `await` it."""

    def __init__(self, exchange: CallOwner, id_: str, task: str, client: object = None) -> None:
        """Make a call to be sent; clients do that.

        client -- kept alive by the call, because a client closes its connection when it is garbage-collected
        """
        self.id = id_
        self.task = task
        self._client = client
        self.duplicate_of = ""  # the id of the call whose result it gets, as both have one key; "" for none
        self.is_cancelled = False  # whether its cancellation was requested
        self.chain: Remaining | None = None  # what follows its first workitem
        self._exchange = exchange
        self._done_lock = threading.Lock()  # for waiting threads; released once, when the call is done
        self._done_lock.acquire()
        self._status = Status.SENDING
        self._progress: Progress | None = None
        self._callbacks: list[Callable[[Call[R]], Any]] = []
        self._value: Any = None
        self._error: TaskqueueError | None = None

    def __repr__(self) -> str:
        """Show task, id and status."""
        return f"<call of {self.task}, {self.id}: {self.status()}>"

    # --- for the caller ---

    def status(self) -> Status:
        """Return the last status that is known from notices and the reply; no request is sent."""
        return self._status

    def progress(self) -> Progress | None:
        """Return the last progress that the task reported; None if there is none."""
        return self._progress

    def done(self) -> bool:
        """Return whether it has succeeded, failed or been cancelled."""
        return self._status in _ENDS

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is done, at most `timeout` seconds; return whether it is."""
        if not self.done():
            self._exchange.wait(self, lock_timeout(timeout))
        return self.done()

    def result(self, timeout: float | None = None) -> R:
        """Wait for the value that the task returned, and return it.

        Raises:
            CallTimeout: it is not done within `timeout` seconds; it stays in progress.
            TaskFailed: the task raised, or its worker died.
            UnknownTask, BadArguments: there is no such task, or the arguments do not fit; nothing was run.
            CallCancelled: it was cancelled.
            BrokerUnavailable, BrokerRefused: it could not be sent, or its reply cannot come any more.
        """
        self.wait(timeout)
        return self.outcome(timeout)

    def error(self) -> TaskqueueError | None:
        """Return the exception that `result` raises for a call that is done; None if it returns a value."""
        return self._error

    def cancel(self) -> bool:
        """Request its cancellation: a call that no worker has begun never runs; a running worker is stopped.

        Returns False if it is done already. The call ends as CANCELLED once a consumer has cancelled it, or
        as SUCCEEDED if it succeeds before that.
        """
        if self.done():
            return False
        self.is_cancelled = True
        self._exchange.cancel(self)
        return True

    def forget(self) -> None:
        """Stop waiting for its reply. The call runs on, but is never done here."""
        self._exchange.forget(self)

    def add_done_callback(self, callback: Callable[["Call[R]"], Any]) -> None:
        """Call `callback` with this call once it is done, at once if it is done already.

        It runs in the client's thread, or in the caller's if the call is done already; it must be quick.
        """
        self._callbacks.append(callback)
        if self.done():
            self._call_all_back()

    def __await__(self) -> Generator[Any, None, R]:
        """Wait in asyncio; return or raise as `result` does."""
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
        """Return the value or raise the error; CallTimeout, after `timeout` seconds, if it is not done."""
        if not self.done():
            raise CallTimeout(f"no result of {self.task} within {timeout:g} s; call {self.id} continues")
        self._exchange.fetched(self)
        if self._error is not None:
            raise self._error
        return cast("R", self._value)

    def move(self, status: Status) -> None:
        """Set the status, unless the call is done."""
        if not self.done():
            self._status = status

    def tell(self, progress: Progress) -> None:
        """Record the progress that the task reported."""
        self._progress = progress
        self.move(Status.RUNNING)

    def settle(self, status: Status, value: Any = None, error: TaskqueueError | None = None) -> None:
        """Record the outcome, unless there is one already."""
        if self.done():
            return
        self._value, self._error, self._status = value, error, status
        self._done_lock.release()
        self._call_all_back()

    def wait_until_done(self, timeout: float | None) -> None:
        """Wait until the call is done, at most `timeout` seconds."""
        if timeout is None:
            with self._done_lock:
                pass
        elif self._done_lock.acquire(timeout=max(0.0, timeout)):
            self._done_lock.release()

    def _call_all_back(self) -> None:
        while self._callbacks:
            with contextlib.suppress(IndexError):  # another thread has taken the last one
                _call_back(self._callbacks.pop(0), self)


_ENDS: Final = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED})


def lock_timeout(timeout: float | None) -> float | None:
    """Return a timeout in seconds that a lock accepts, None for a longer one. Raises ValueError for NaN."""
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
