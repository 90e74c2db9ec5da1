"""A workitem as the monitor's record has it, whoever submitted it: its state, its runs, its result."""

import asyncio
import base64
import time
from collections.abc import Generator, Mapping
from typing import Any, Final

from taskqueue import config
from taskqueue.amqp.properties import Properties
from taskqueue.calls import message
from taskqueue.errors import CallCancelled, CallError, CallTimeout, DuplicateCall, TaskFailed, UnknownCall
from taskqueue.messages.events import CANCELLED, SUCCEEDED
from taskqueue.messages.states import DUPLICATE, OVER
from taskqueue.monitor.client import Access, Reader
from taskqueue.monitor.web.api import NeverSeen

_LOOK_DELAY: Final = 0.5  # seconds between two looks at a workitem that is not over


def reader(config_file: str | None, access: Access) -> Reader:
    """Return what reads the record: its directory, or the monitor's web process.

    Raises ConfigError, NoMonitor and NotAllowed.
    """
    return access.reader(config.load(config_file, (), as_root=False).monitor)


class FoundCall:
    """A call or other workitem in the record, as it was at the last look."""

    def __init__(self, record: Reader, id_: str) -> None:
        """Look for an id. Raises UnknownCall if the record has no such workitem."""
        self._record = record
        self.id = id_
        self._found: Mapping[str, Any] = {}
        self.look()

    def __repr__(self) -> str:
        return f"<workitem {self.id}: {self.state}>"

    def look(self) -> None:
        """Read the record again."""
        try:
            self._found = self._record.ask("workitem", id=self.id)
        except NeverSeen as error:
            raise UnknownCall(str(error)) from None

    @property
    def state(self) -> str:
        """The state: queued, scheduled, running, retrying, succeeded, failed, rejected, cancelled or lost."""
        return str(self._found["state"])

    @property
    def task(self) -> str:
        """The task or worker type."""
        return str(self._found["worker_type"])

    @property
    def runs(self) -> list[Mapping[str, Any]]:
        """The runs that have ended, the earliest first, with attempt, outcome, times, error and others."""
        return list(self._found["runs"])

    @property
    def is_over(self) -> bool:
        """Whether the workitem has come to its end."""
        return self.state in OVER

    @property
    def error(self) -> CallError | None:
        """The error of a workitem that has ended without success; None for any other."""
        if self.state not in OVER or self.state == SUCCEEDED:
            return None
        runs = self.runs
        if self.state == CANCELLED:
            return CallCancelled(f"{self.task} was cancelled")
        if self.state == DUPLICATE:
            return DuplicateCall(f"{self.task} was not run: {self._found['error']}")
        kind, _, text = str(self._found["error"] or self.state).partition(": ")
        return TaskFailed(kind, text, str(runs[-1]["traceback"]) if runs else "")

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the workitem is over, at most `timeout` seconds; return whether it is."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.is_over and (deadline is None or time.monotonic() < deadline):
            time.sleep(_LOOK_DELAY)
            self.look()
        return self.is_over

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the result and return it.

        Raises:
            TaskFailed: it failed, was rejected or cancelled, or was lost track of.
            CallTimeout: it is not over after `timeout` seconds.
            CallError: the record does not contain the result; see the option record_result.
        """
        if not self.wait(timeout):
            raise CallTimeout(f"{self.task} has no result after {timeout:g} s; it is {self.state}")
        if self.error is not None:
            raise self.error
        recorded = self._found["result"]
        if recorded is None:
            raise CallError(
                f"the record has no result of {self.id}: "
                "its group records no results of that size; see the option record_result"
            )
        return _value(recorded)

    def __await__(self) -> Generator[Any, None, Any]:
        """Return what `result` returns, without blocking an asyncio event loop."""
        return asyncio.get_running_loop().run_in_executor(None, self.result).__await__()


def _value(recorded: Mapping[str, Any]) -> Any:
    """Return the value in a recorded result; that of a call is in a JSON-RPC response."""
    properties = Properties(content_type=recorded["content_type"]).encode()
    _, body = message.decode(properties, base64.b64decode(recorded["base64"]))
    is_response = isinstance(body, dict) and body.get("jsonrpc") == "2.0" and "result" in body
    return body["result"] if is_response else body
