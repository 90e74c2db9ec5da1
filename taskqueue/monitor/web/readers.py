"""The threads that read the record for the web process: few, and each query has a deadline."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from taskqueue.errors import ExitStatus, TaskqueueError
from taskqueue.monitor.store.reading import Record

THREADS: Final = 4
DEADLINE: Final = 10.0  # seconds for a query, waiting included
_MOST_WAITING: Final = 64
_CLOSE_TIMEOUT: Final = 5.0
_AGAIN: Final = 0.05  # seconds


class TooSlow(TaskqueueError):
    """The record was not read in time, or too many others are read."""

    status = ExitStatus.TIMEOUT


class Readers:
    """Runs queries in threads, each of which opens the record for itself."""

    def __init__(self, directory: Path, deadline: float = DEADLINE, url: str | None = None) -> None:
        """Open nothing yet.

        deadline -- seconds for a query
        url -- of the PostgreSQL database that has the record; None: the directory has it
        """
        self._directory = directory
        self._url = url
        self._deadline = deadline
        self._threads = ThreadPoolExecutor(THREADS, "reader")
        self._own = threading.local()
        self._running: set[Record] = set()  # in all threads
        self._waiting = 0

    async def read(self, query: Callable[[Record], Any]) -> Any:
        """Return what a query returns, or raise what it raises.

        Raises TooSlow after the deadline: the database then stops the query, and its thread is free.
        """
        if self._waiting >= _MOST_WAITING:
            raise TooSlow("too many requests are waiting for the record: try again")
        running: list[Record] = []
        loop = asyncio.get_running_loop()
        self._waiting += 1
        try:
            job = loop.run_in_executor(self._threads, self._run, query, running)
            return await asyncio.wait_for(job, self._deadline)
        except TimeoutError:
            self._interrupt(running)
            raise TooSlow(
                f"the record was not read within {self._deadline:g} s: narrow the filter or the time"
            ) from None
        finally:
            self._waiting -= 1

    def _interrupt(self, running: list[Record]) -> None:
        """Stop the statement that a thread runs, and those that follow it, until the query is given up."""
        for record in tuple(running):
            record.interrupt()
            asyncio.get_running_loop().call_later(_AGAIN, self._interrupt, running)

    def _run(self, query: Callable[[Record], Any], running: list[Record]) -> Any:
        record = getattr(self._own, "record", None)
        if record is None:
            record = self._own.record = Record(self._directory, self._url)
        running.append(record)
        self._running.add(record)
        try:
            return query(record)
        finally:
            self._running.remove(record)
            running.clear()

    def close(self) -> None:
        """Stop the queries that run, and end the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        deadline = time.monotonic() + _CLOSE_TIMEOUT
        while self._running and time.monotonic() < deadline:
            for record in tuple(self._running):
                record.interrupt()
            time.sleep(_AGAIN)
