"""The user's code of a feed: the target that names it, the thread that runs it, the jobs that it yields."""

import contextlib
import importlib
import importlib.util
import inspect
import itertools
import os
import re
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType
from typing import Any, Final, Self

from taskqueue.errors import ExitStatus, TargetError, TaskqueueError, Unroutable
from taskqueue.messages.routing import checked_type
from taskqueue.process import startup
from taskqueue.process.daemon import Signals

#: Default names of a target's two functions.
GET_JOBS: Final = "get_jobs"
HANDLE_JOB: Final = "handle_job"

#: Whether a target is being imported: a script that is a target must not begin to serve its own tasks.
is_loading = False

_MODULE: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*\Z")


@dataclass(frozen=True, slots=True)
class Target:
    """A function in a module."""

    module: str  # dotted
    function: str
    path: str | None  # the module's file, if that was given instead of a name
    directory: str  # first on the path for imports

    @classmethod
    def parse(cls, text: str, function: str) -> Self:
        """Parse a target; `function` is the default for its function.

        Raises TargetError for an invalid target.
        """
        place, _, name = text.partition(":")
        if place.endswith(".py") or "/" in place:
            path = Path(place).absolute()
            if not path.is_file():
                raise TargetError(f"target {text!r}: file {place} does not exist")
            module = re.sub(r"\W|^(?=\d)", "_", path.stem)  # migrate-users.py is migrate_users, 2024.py _2024
            target = cls(module, name or function, str(path), str(path.parent))
        else:
            target = cls(place, name or function, None, current_directory())
        if not _MODULE.match(target.module) or not target.function.isidentifier():
            raise TargetError(
                f"target {text!r}: expected MODULE, FILE.py, MODULE:FUNCTION or FILE.py:FUNCTION"
            )
        return target

    def __str__(self) -> str:
        """Return the target as on a command line."""
        return f"{self.path or self.module}:{self.function}"

    def load(self) -> Callable[..., Any]:
        """Import the module and return the function. Raises TargetError, with its cause, if that fails."""
        function = getattr(self.load_module(), self.function, None)
        if not callable(function):
            found = "not found" if function is None else f"found a {type(function).__name__}"
            raise TargetError(f"target {self}: expected a function {self.function!r}, {found}")
        return function  # type: ignore[no-any-return]

    def load_module(self) -> ModuleType:
        """Import the module and return it. Raises TargetError, with its cause, if that fails."""
        global is_loading  # noqa: PLW0603 -- one process loads one target
        if self.directory not in sys.path:
            sys.path.insert(0, self.directory)
        is_loading = True
        try:
            return self._import()
        except TargetError:
            raise
        except (Exception, SystemExit) as error:
            raise TargetError(f"target {self}: {type(error).__name__}: {error}") from error
        finally:
            is_loading = False

    def _import(self) -> ModuleType:
        if self.path is None:
            return importlib.import_module(self.module)
        known = sys.modules.get(self.module)
        if known is not None:
            if getattr(known, "__file__", None) != self.path:
                raise TargetError(
                    f"target {self}: a module {self.module!r} is already imported; rename the file"
                )
            return known
        spec = importlib.util.spec_from_file_location(self.module, self.path)
        if spec is None or spec.loader is None:
            raise TargetError(f"target {self}: not a Python module")
        module = sys.modules[self.module] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


def current_directory() -> str:
    """Return the current directory; "/" if it was removed or may not be searched."""
    try:
        directory = os.getcwd()  # noqa: PTH109 -- as it is
    except FileNotFoundError:
        return "/"
    return directory if os.access(directory, os.X_OK) else "/"


def worker_type(module: str) -> str:
    """Return the worker type for a module's jobs. Raises TargetError for an invalid name."""
    try:
        return checked_type(f"feed_{module}")
    except Unroutable as error:
        raise TargetError(f"{error}; choose another name by --type") from None


def receipts_queue(type_: str) -> str:
    """Return the name of the queue for the receipts of a worker type."""
    return f"receipts_{type_}"


def file_of(function: Callable[..., Any]) -> str:
    """Return the file of a function's module; "" if it has none."""
    return getattr(inspect.getmodule(function), "__file__", None) or ""


def takes_last(get_jobs: Callable[..., Any]) -> bool:
    """Return whether a function has the parameter `last`, the job from which it continues."""
    try:
        parameters = inspect.signature(get_jobs).parameters.values()
    except (TypeError, ValueError):
        return False
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return any(each.name == "last" and each.kind in named for each in parameters)


def call(get_jobs: Callable[..., Any], arguments: dict[str, Any]) -> Iterable[Any]:
    """Call a function for its jobs. Raises TargetError for arguments that do not fit, or another value."""
    try:
        inspect.signature(get_jobs).bind(**arguments)
    except ValueError:
        pass  # a builtin without a signature
    except TypeError as error:
        raise TargetError(
            f"{GET_JOBS} cannot be called with {', '.join(arguments) or 'nothing'}: {error}"
        ) from None
    jobs = get_jobs(**arguments)
    if not isinstance(jobs, Iterable):
        raise TargetError(f"{GET_JOBS} returned a {type(jobs).__name__}, expected an iterable")
    return jobs


# --- the main thread ---

_PATIENCE: Final = 1.0  # seconds that interrupted code of the user may take to end
_INTERRUPT: Final = signal.SIGRTMAX  # which has no other use


class Interrupted(BaseException):
    """Raised in the user's code at the end of the feed, so that it can clean up."""


class MainThread:
    """Runs the user's code, one function after the other, while the feeder works in another thread.

    The iterator may take a minute for one job; the feeder continues meanwhile.
    """

    def __init__(self) -> None:
        self.signals = Signals((signal.SIGINT, signal.SIGTERM))  # recorded during `serve`
        self._functions: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._is_running = False  # a function of the user
        self._is_over = False
        self._is_back = threading.Event()

    def run(self, function: Callable[[], object]) -> None:
        """Run a function in the main thread, without waiting for it; any thread may call this."""
        self._functions.put(function)

    def serve(self, work: Callable[[], int]) -> int:
        """Run `work` in another thread; return its exit status, or raise its exception.

        A function that still runs when the work ends is interrupted. If it does not end, as in C code that
        ignores signals, the process exits with the work's status.
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


#: Returns the jobs from a number on, and the total number of jobs, None if it is unknown.
Begin = Callable[[int], tuple[Iterable[Any], int | None]]

#: Runs a function in the thread of the user's code, without waiting for it.
Run = Callable[[Callable[[], None]], None]

_END: Final = object()
_CLOSE_TIMEOUT: Final = 1.0  # seconds that an iterator may take to close


class JobSource:
    """Draws jobs ahead, up to a wanted number in stock; `fileno` is readable when there are new ones.

    No bytecode of ours runs for a single job: a deque may be extended by one thread, in one call, and
    emptied by another at the same time.
    """

    def __init__(self, begin: Begin, run: Run) -> None:
        """Prepare.

        begin -- returns the jobs; called in the thread of the user's code, where the jobs are drawn, too
        run -- runs a function in that thread
        """
        self.error: BaseException | None = None  # of the user's code
        self.total: int | None = None  # number of jobs; None if it is unknown
        self.has_ended = False  # whether no job comes beyond the stock
        self._begin = begin
        self._run = run
        self._stock: deque[Any] = deque()
        self._wanted = 0
        self._is_closing = False
        self._is_idle = threading.Event()
        self._is_idle.set()
        self._demand = threading.Event()
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def start(self, first: int, wanted: int) -> None:
        """Start to draw from the job number `first` on, and keep `wanted` jobs in stock."""
        self._wanted = wanted
        self._is_idle.clear()
        self._run(partial(self._draw_all, first))

    def fileno(self) -> int:
        """Return the file descriptor that is readable when there are new jobs, or no more."""
        return self._event

    def acknowledge(self) -> None:
        """Make `fileno` unreadable until there are new jobs."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event)

    @property
    def is_empty(self) -> bool:
        """Whether no job is in stock and none will come."""
        return self.has_ended and not self._stock

    def __len__(self) -> int:
        return len(self._stock)

    def peek(self) -> Any:
        """Return the next job. Raises IndexError if none is in stock."""
        return self._stock[0]

    def take(self, most: int, wanted: int) -> list[Any]:
        """Remove and return up to `most` jobs of the stock, and keep `wanted` in stock from now on."""
        take = self._stock.popleft
        jobs = [take() for _ in itertools.repeat(None, min(most, len(self._stock)))]
        self.want(wanted)
        return jobs

    def want(self, wanted: int) -> None:
        """Keep `wanted` jobs in stock from now on."""
        self._wanted = wanted
        if len(self._stock) <= wanted // 2:
            self._demand.set()

    def close(self) -> None:
        """Close the iterator, unless it is drawing a job."""
        self._is_closing = True
        self._demand.set()
        self._is_idle.wait(_CLOSE_TIMEOUT)

    # --- in the thread of the user's code ---

    def _draw_all(self, first: int) -> None:
        try:
            jobs, self.total = self._begin(first)
            self._draw(iter(jobs))
        except BaseException as error:  # noqa: BLE001 -- the user's code may raise anything
            self.error = error
        self.has_ended = True
        os.eventfd_write(self._event, 1)
        self._is_idle.set()

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
    """Return the jobs without the first `number`."""
    return itertools.islice(jobs, number, None) if number else jobs
