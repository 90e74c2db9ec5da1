"""The main thread runs the user's code, while the feeder works in another thread.

A connection that a module opens on import may be usable in that thread only (sqlite3), and some functions
work in the main thread only (signal.signal).
"""

import contextlib
import os
import signal
import threading
import traceback
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final

from taskqueue.errors import ExitStatus, TaskqueueError
from taskqueue.process import startup
from taskqueue.process.daemon import Signals

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

_PATIENCE: Final = 1.0  # seconds that the user's code may take to end when it is interrupted
_INTERRUPT: Final = signal.SIGRTMAX  # which nobody else uses


class Interrupted(BaseException):
    """Raised in the user's code when the feed has ended, so that it can clean up."""


class MainThread:
    """Runs what other threads ask it to, one after the other, until the work that is done meanwhile ends."""

    def __init__(self) -> None:
        """Begin with nothing to run."""
        self.signals = Signals(SIGNALS)  # noted while the work is done
        self._functions: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._is_running = False  # a function that was asked for
        self._is_over = False
        self._is_back = threading.Event()

    def run(self, function: Callable[[], object]) -> None:
        """Have the main thread run a function; from any thread, and without waiting for it."""
        self._functions.put(function)

    def serve(self, work: Callable[[], int]) -> int:
        """Do the work in another thread; return its exit status, or raise what it raises.

        A function that is not through when the work ends is interrupted. The process exits with the work's
        status where that does not help: the function waits in C code that heeds no signal.
        """
        outcome: list[int | BaseException] = []

        def perform() -> None:
            try:
                outcome.append(work())
            except BaseException as error:  # noqa: BLE001 -- raised in the main thread
                outcome.append(error)
            self._end(outcome[0])

        with self.signals:
            signal.signal(_INTERRUPT, self._interrupted)
            threading.Thread(target=perform, name="feeder", daemon=True).start()
            self._serve()
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]

    def _serve(self) -> None:
        while (function := self._functions.get()) is not None:
            with contextlib.suppress(Interrupted):
                self._run(function)
        self._is_back.set()

    def _run(self, function: Callable[[], object]) -> None:
        self._is_running = not self._is_over
        try:
            if self._is_running:
                function()
        finally:
            self._is_running = False

    def _interrupted(self, _number: int, _frame: object) -> None:
        if self._is_running:
            raise Interrupted

    def _end(self, outcome: int | BaseException) -> None:
        self._is_over = True
        self._functions.put(None)
        signal.pthread_kill(threading.main_thread().ident or 0, _INTERRUPT)
        if self._is_back.wait(_PATIENCE):
            return
        if isinstance(outcome, TaskqueueError):
            startup.complain(f"taskqueue: {outcome}\n")
            os._exit(outcome.status)
        if isinstance(outcome, BaseException):
            traceback.print_exception(outcome)
            os._exit(ExitStatus.SOFTWARE)
        os._exit(outcome)
