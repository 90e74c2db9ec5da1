"""BaseWorker, which plugins subclass, and a worker process's whole life."""

import contextlib
import logging
import math
import os
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any, ClassVar, Final, Self

from taskqueue import plugins, processes
from taskqueue.errors import (
    BadArguments,
    ExitStatus,
    InvalidRequest,
    PluginError,
    Reject,
    Retry,
    TaskqueueError,
    UnknownTask,
    WorkitemUnreadable,
    checked_delay,
)
from taskqueue.pool import frames, labels, privileges
from taskqueue.pool.frames import Verdict
from taskqueue.pool.limits import Limits
from taskqueue.pool.permits import granted
from taskqueue.pool.surroundings import Surroundings
from taskqueue.results import Failure, encode_answer, encode_failure
from taskqueue.workitem import JSON, NOTIFY, Workitem, decode_body, shorten

_CHUNK: Final = 65_536  # bytes read from the consumer at a time
_NO_DELAY: Final = -1.0  # the group's settings say
_PROGRESS_DELAY: Final = 0.1  # seconds; who tells of progress more often is heard so often
_NOTIFY: Final = NOTIFY.encode()
_LARGEST_FAILURE: Final = frames.LONGEST_FRAME // 2  # bytes; beyond, the workitem is left out of its failure


class BaseWorker:
    """Base class of a plugin's worker; its entry point under `worker.plugins` is `Subclass.factory`.

    One instance lives in one process and handles one workitem at a time. A workitem may come more than
    once, after a crash or a lost connection: `handle_task` must be idempotent, and finds in
    `self.workitem` the id and the attempt to be so with.
    """

    #: Content types that `handle_task` takes; "*" stands for any part. Others fail without a run.
    ACCEPT: ClassVar[list[str]] = ["*/*"]

    #: The workitem that is being handled: id, attempt, headers, properties.
    workitem: Workitem

    #: The worker types that it serves, where that is not the one it is installed for.
    services: tuple[frames.Service, ...] = ()

    #: Whether its process is to be replaced after this workitem: a handler sets it where something is left
    #: that would disturb the next one.
    is_spent: bool = False

    #: The options of the plugin's section that are not taskqueue's own, as they are written.
    settings: Mapping[str, str] = MappingProxyType({})

    @cached_property
    def log(self) -> logging.Logger:
        """A logger; its lines reach the daemon's log with group, worker and workitem."""
        return logging.getLogger(type(self).__module__)

    @classmethod
    def factory(cls) -> Self:
        """Return a new worker; the pool calls this once in each worker process."""
        return cls()

    def setup(self) -> None:
        """Prepare for work, once, before the first workitem; `self.settings` is filled by then."""

    def teardown(self) -> None:
        """Clean up, once, before the process ends in an orderly way."""

    def progress(self, fraction: float, text: str = "") -> None:
        """Tell the caller, if there is one who listens, how far the work is: 0 is nothing, 1 is all."""
        progress(fraction, text)

    def handle_task(self, body: Any) -> Any:
        """Do the work; return the result.

        body -- the decoded workitem: what JSON gives, str for text, bytes for everything else
        Returns what JSON can express, or str, or bytes; whatever is raised makes a failure.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define handle_task")


class _Line:
    """This process's end of the socket pair to its consumer; the handler's threads may use it, too."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._lock = threading.Lock()
        self._number: int | None = None  # of the task whose caller listens
        self._told = 0.0  # monotonic

    def send(self, frame: bytes) -> None:
        with self._lock:
            self._link.sendall(frame)

    def begin(self, task: frames.Task) -> None:
        asked = _NOTIFY in task.properties  # what the header says exactly, the consumer looks at
        self._number, self._told = task.number if asked else None, 0.0
        labels.begin(task.number)

    def tell(self, fraction: float, text: str) -> None:
        now, number = time.monotonic(), self._number
        if number is not None and now - self._told >= _PROGRESS_DELAY:
            self._told = now
            with contextlib.suppress(ConnectionError):  # the consumer is dead, and we are next
                self.send(frames.Progress(number, fraction, shorten(str(text), 1000)).encode())


#: Receiver of progress in this process: in a worker, the line to its consumer.
listeners: list[Callable[[float, str], None]] = []


def progress(fraction: float, text: str = "") -> None:
    """Tell the caller of the task that runs here how far it is: 0 is nothing, 1 is all.

    Without effect where nobody listens, and in a function that was simply called. What comes more than ten
    times a second is left out. Raises ValueError for NaN; other numbers are cut to the range from 0 to 1.
    """
    part = min(max(float(fraction), 0.0), 1.0)
    if math.isnan(part):
        raise ValueError(f"expected progress from 0 to 1, found {fraction}")
    for tell in listeners:
        tell(part, text)


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """All that a worker process is told; nothing of it concerns the broker."""

    name: str  # "digest/1"
    worker_type: str
    user: str | None  # None: stay who we are
    settings: Mapping[str, str]
    limits: Limits
    own: plugins.OwnPlugin | None = None  # None: the plugin that is installed for the worker type
    explains: bool = True  # whether it shows the traceback where its plugin cannot be set up


def run(spec: WorkerSpec, link: socket.socket, permits: socket.socket, parent: int) -> ExitStatus:
    """Be a worker: switch user, load the plugin, perform what the consumer sends until it hangs up.

    Args:
        spec: who to be.
        link: to the consumer, for frames.
        permits: from the consumer: the numbers of the tasks that may be begun (permits.py).
        parent: the supervisor's process id; with it we die.
    """
    _log_to_stderr()
    try:
        _settle_in(spec, parent)
        worker = _load(spec)
    except TaskqueueError as error:
        cause = error.__cause__ if spec.explains else None
        logging.getLogger(__name__).error("cannot start: %s", shorten(str(error), 2000), exc_info=cause)
        return ExitStatus(error.status)
    with contextlib.suppress(ConnectionError):  # the consumer is dead, and who would want the outcome?
        _flush_output()
        link.sendall(frames.ready(worker.services))
        _serve(worker, spec, link, permits)
    return _tear_down(worker)


class _LevelOnEachLine(logging.Formatter):
    """Begins each line with its level, by which the consumer logs it; a traceback has many."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(f"{record.levelname}: {line}" for line in super().format(record).split("\n"))


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LevelOnEachLine())
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)


def _settle_in(spec: WorkerSpec, parent: int) -> None:
    environment = privileges.environment(spec.user, os.environ)
    if spec.user is not None:
        privileges.become(spec.user)
        privileges.check_installation(spec.user)
    processes.die_with_parent(parent)
    processes.let_signals_in()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir("/")
    os.umask(0o022)
    spec.limits.impose()


def _load(spec: WorkerSpec) -> BaseWorker:
    own = spec.own
    factory: Callable[[], object] = plugins.load_own(own) if own else plugins.load(spec.worker_type)
    try:
        worker = factory()
        if not isinstance(worker, BaseWorker):
            raise PluginError(
                f"plugin {spec.worker_type!r} made a {type(worker).__name__}, expected a BaseWorker"
            )
        worker.settings = dict(spec.settings)
        worker.setup()
    except PluginError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"plugin {spec.worker_type!r} cannot be set up: {type(error).__name__}: {error}"
        ) from error
    return worker


def _tear_down(worker: BaseWorker) -> ExitStatus:
    try:
        worker.teardown()
    except Exception:
        worker.log.exception("teardown() failed")
        return ExitStatus.PLUGIN
    return ExitStatus.OK


def _serve(worker: BaseWorker, spec: WorkerSpec, link: socket.socket, permits: socket.socket) -> None:
    """Read, perform, write, until the consumer closes its end or this process should be replaced."""
    me, line, surroundings = os.getpid(), _Line(link), Surroundings()
    listeners.append(line.tell)
    limits = limits_of(worker, spec.limits)
    for performed, task in enumerate(_tasks(link, permits), 1):
        line.begin(task)
        outcome = perform(worker, task, limits.get(task.worker_type, spec.limits))
        if os.getpid() != me:  # a fork that the handler made has come back; it is not the worker
            os._exit(ExitStatus.OK)
        is_flushed = _flush_output()
        line.send(outcome)
        if spec.limits.are_reached(performed) or worker.is_spent:
            line.send(frames.retiring())
            while link.recv(_CHUNK):  # until the supervisor knows; what comes meanwhile goes elsewhere
                pass
            return
        if not is_flushed:
            surroundings.reopen_streams()
        surroundings.restore()


def _tasks(link: socket.socket, permits: socket.socket) -> Iterator[frames.Task]:
    """Yield the tasks that may be begun; the others that were sent have been taken back."""
    reader, sent = frames.FrameReader(), deque[frames.Task]()
    for number in granted(permits):
        task = None
        while task is None or task.number != number:
            while not sent:
                data = link.recv(_CHUNK)
                if not data:
                    return
                sent.extend(frames.Task.decode(payload) for _, payload in reader.feed(data))
            task = sent.popleft()
        yield task


def _flush_output() -> bool:
    """Have what the handler printed logged with its workitem's id; tell whether that could be done.

    It may have closed its streams, or put anything in their place.
    """
    is_flushed = True
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # noqa: BLE001 -- plugin code; what it printed changes no outcome
            is_flushed = False
    return is_flushed


def limits_of(worker: BaseWorker, limits: Limits) -> Mapping[str, Limits]:
    """Return the limits of the worker types that have some of their own."""
    return {
        service.worker_type: replace(limits, timeout=service.timeout)
        for service in worker.services
        if service.timeout is not None
    }


def perform(worker: BaseWorker, task: frames.Task, limits: Limits) -> bytes:
    """Run the handler on one workitem; whatever it does short of ending the process is an outcome."""
    started = time.time()
    workitem = Workitem(task.worker_type, task.attempt, task.properties, task.body)
    try:
        worker.workitem = workitem
        _check_accepted(worker, workitem)
        with limits.on_workitem():  # what a producer wrote is decoded within them, too
            body = decode_body(workitem)
            kind, data = encode_answer(worker.handle_task(body), body)
        return frames.Outcome(
            task.number, Verdict.SUCCEEDED, started, time.time(), _NO_DELAY, kind, "", data
        ).encode()
    except BaseException as error:  # noqa: BLE001 -- plugin code may raise anything
        verdict, delay, error = _verdict(error)
        failure = _describe(error)
    text, data = shorten(str(failure), 1000), _encode(failure, workitem)
    return frames.Outcome(task.number, verdict, started, time.time(), delay, JSON, text, data).encode()


def _describe(error: BaseException) -> Failure:
    """Describe what a handler has raised; all of its methods and attributes are plugin code, too."""
    try:
        return Failure.of(_without_our_frames(error))
    except Exception as why:  # noqa: BLE001 -- see above
        return Failure(type(error).__name__[:200], f"<it cannot be described: {type(why).__name__}>")


def _encode(failure: Failure, workitem: Workitem) -> bytes:
    """Return the body of a failure, with the workitem as far as there is room and memory for it."""
    try:
        data = encode_failure(failure, workitem)
    except Exception:  # noqa: BLE001 -- plugin code has made the failure; and memory may be short
        return encode_failure(Failure(failure.type, failure.message), None)
    return data if len(data) <= _LARGEST_FAILURE else encode_failure(failure, None)


def _verdict(error: BaseException) -> tuple[Verdict, float, BaseException]:
    """Return what a handler's exception asks for, the delay before that, and the exception to report."""
    match error:
        case Retry():
            try:
                return Verdict.RETRY, _NO_DELAY if error.delay is None else checked_delay(error.delay), error
            except Exception as wrong:  # noqa: BLE001 -- a subclass may have set it to anything
                wrong.__cause__ = error
                return Verdict.FAILED, _NO_DELAY, wrong
        case Reject() | UnknownTask() | BadArguments() | InvalidRequest():
            return Verdict.REJECTED, _NO_DELAY, error
    return Verdict.FAILED, _NO_DELAY, error


def _check_accepted(worker: BaseWorker, workitem: Workitem) -> None:
    if not _is_accepted(workitem.content_type, *worker.ACCEPT):
        raise WorkitemUnreadable(
            f"content type {workitem.content_type!r} is not accepted; expected {', '.join(worker.ACCEPT)}"
        )


@lru_cache(maxsize=256)
def _is_accepted(content_type: str, *patterns: str) -> bool:
    kind = content_type.partition("/")
    accepted = (pattern.lower().partition("/") for pattern in patterns)
    return any(each[0] in ("*", kind[0]) and each[2] in ("*", kind[2]) for each in accepted)


def _without_our_frames(error: BaseException) -> BaseException:
    """Drop this module's frame from a traceback: users look for their own code."""
    inner = error.__traceback__.tb_next if error.__traceback__ else None
    return BaseException.with_traceback(error, inner) if inner else error
