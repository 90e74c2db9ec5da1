"""The two threads of a feeder: user code has the main thread, and jobs are drawn from its iterator there.

Drawing one job may take a minute, and the feeder must go on meanwhile.
"""

import contextlib
import itertools
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import repeat
from queue import SimpleQueue
from typing import Any, Final

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


#: Returns the jobs from the one of that number on, and how many there are in all, where that is known.
Begin = Callable[[int], tuple[Iterable[Any], int | None]]

#: Has a function run in the thread of the user's code, without waiting for it.
Run = Callable[[Callable[[], None]], None]

_END: Final = object()
_CLOSE_TIMEOUT: Final = 1.0  # seconds that an iterator may take to close


class Source:
    """Keeps some jobs in stock, as many as are wanted; readable (`fileno`) whenever there is something new.

    No bytecode of ours runs for a single job: a deque may be extended by one thread, in one call, and
    emptied by another at the same time.
    """

    def __init__(self, begin: Begin, run: Run) -> None:
        """Prepare.

        begin -- returns the jobs; it is called, and they are drawn, in the thread of the user's code
        run -- has a function run in that thread
        """
        self.error: BaseException | None = None  # what the user's code raised
        self.total: int | None = None  # how many jobs there are in all, where the user's code tells
        self._begin = begin
        self._stock: deque[Any] = deque()
        self._wanted = 0
        self._first = 0
        self._run = run
        self._has_begun = False
        self._has_ended = False
        self._is_closing = False
        self._is_through = threading.Event()
        self._demand = threading.Event()
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def start(self, first: int, wanted: int) -> None:
        """Begin to draw, from the job of number `first` on, and keep `wanted` in stock."""
        self._first, self._wanted, self._has_begun = first, wanted, True
        self._run(self._draw_all)

    def fileno(self) -> int:
        """Return what can be watched."""
        return self._event

    def acknowledge(self) -> None:
        """Note that what was new has been seen."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._event)

    @property
    def is_empty(self) -> bool:
        """Whether no job is left, nor will come."""
        return self._has_ended and not self._stock

    @property
    def has_ended(self) -> bool:
        """Whether nothing comes beyond what is in stock."""
        return self._has_ended

    def __len__(self) -> int:
        return len(self._stock)

    def peek(self) -> Any:
        """Return the next job; IndexError where none is in stock."""
        return self._stock[0]

    def take(self, most: int, wanted: int) -> list[Any]:
        """Return the next jobs, as many as are in stock, and keep `wanted` in stock from now on."""
        take = self._stock.popleft
        jobs = [take() for _ in repeat(None, min(most, len(self._stock)))]
        self.want(wanted)
        return jobs

    def want(self, wanted: int) -> None:
        """Keep so many jobs in stock from now on."""
        self._wanted = wanted
        if len(self._stock) <= wanted // 2:
            self._demand.set()

    def close(self) -> None:
        """End the iterator, if it is not at work just now."""
        self._is_closing = True
        self._demand.set()
        if self._has_begun:
            self._is_through.wait(_CLOSE_TIMEOUT)

    # --- in the thread of the user's code ---

    def _draw_all(self) -> None:
        try:
            jobs, self.total = self._begin(self._first)
            self._draw(iter(jobs))
        except BaseException as error:  # noqa: BLE001 -- the user's code may raise anything
            self.error = error
        self._has_ended = True
        os.eventfd_write(self._event, 1)
        self._is_through.set()

    def _draw(self, iterator: Any) -> None:
        while not self._is_closing:
            room = self._wanted - len(self._stock)
            if room <= 0:
                self._demand.wait()
                self._demand.clear()
                continue
            self._stock.extend(itertools.islice(iterator, room))
            job = next(iterator, _END)
            if job is _END:
                return
            self._stock.append(job)
            os.eventfd_write(self._event, 1)
        if hasattr(iterator, "close"):
            iterator.close()


def skip(jobs: Iterable[Any], number: int) -> Iterable[Any]:
    """Return the jobs without the first so many."""
    return itertools.islice(jobs, number, None) if number else jobs
