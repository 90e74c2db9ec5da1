"""The worker process: start, task loop, end."""

import contextlib
import errno
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from taskqueue import plugins
from taskqueue.errors import (
    ExitStatus,
    PluginError,
    TaskqueueError,
)
from taskqueue.messages.names import NOTIFY
from taskqueue.process import children, privileges
from taskqueue.process.cgroups import Cgroup
from taskqueue.process.namespaces import Isolation
from taskqueue.texts import shorten
from taskqueue.worker import frames
from taskqueue.worker.base import BaseWorker, listeners
from taskqueue.worker.channels import label_as
from taskqueue.worker.limits import Limits, Surroundings
from taskqueue.worker.passing import StepResults
from taskqueue.worker.perform import limits_of, perform
from taskqueue.worker.scheduled import with_schedules
from taskqueue.worker.store import open_store
from taskqueue.worker.tasks import ForesightedWorker, Tasks

_PROGRESS_DELAY: Final = 0.1  # seconds; more frequent progress is dropped
_LONG_RUN: Final = 1.0  # seconds that a task runs before its progress is recorded
_NOTIFY: Final = NOTIFY.encode()
_CHUNK: Final = 65_536  # bytes read from the consumer at a time
_CLOSED: Final = (errno.EBADF, errno.ENOTSOCK)  # of a closed socket; another file may have its number


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """All parameters of a worker process; none of them concerns the broker."""

    name: str  # "digest/1"
    worker_type: str
    user: str | None  # None: no change of user
    settings: Mapping[str, str]
    limits: Limits
    isolation: Isolation = field(default_factory=Isolation)
    cgroup: Cgroup | None = None  # its control group, if it has one of its own
    own: plugins.OwnPlugin | None = None  # None: the plugin installed for the worker type
    explains: bool = True  # whether it logs the traceback if the plugin's setup fails
    result_store: str | None = None  # a directory, or the name of a plugin
    result_store_keep: float = 0.0  # seconds that a directory keeps results; 0 for ever


class ConsumerLink:
    """This process's end of the socket pair to its consumer. The handler's threads may use it, too."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._inode = os.fstat(link.fileno()).st_ino
        self._lock = threading.Lock()
        self._number: int | None = None  # of the current task
        self._from = 0.0  # monotonic time from which on its progress is sent

    def send(self, frame: bytes) -> None:
        """Send a frame to the consumer.

        Raises OSError if the plugin has closed the socket, even if a file of its own has the number now.
        """
        with self._lock:
            if os.fstat(self._link.fileno()).st_ino != self._inode:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            self._link.sendall(frame)

    def begin(self, task: frames.TaskFrame) -> None:
        """Send progress of this task: from now on if its caller wants it, else once its run is recorded."""
        asked = _NOTIFY in task.properties  # approximate; the consumer decodes the header
        self._number, self._from = task.number, 0.0 if asked else time.monotonic() + _LONG_RUN
        label_as(task.number)

    def tell(self, fraction: float, text: str) -> None:
        """Send progress of the current task, at most every _PROGRESS_DELAY seconds."""
        now, number = time.monotonic(), self._number
        if number is not None and now >= self._from:
            self._from = now + _PROGRESS_DELAY
            with contextlib.suppress(ConnectionError):  # the consumer is dead; this process ends, too
                self.send(frames.ProgressFrame(number, fraction, shorten(str(text), 1000)).encode())


def run(spec: WorkerSpec, link: socket.socket, credit: socket.socket, parent: int) -> ExitStatus:
    """Run a worker: switch user, load the plugin, perform tasks until the consumer closes the link.

    Args:
        spec: the worker's parameters.
        link: frames to and from the consumer.
        credit: the numbers of the tasks that may be begun (channels.py).
        parent: process id of the supervisor; this process dies with it.
    """
    _log_to_stderr()
    try:
        _prepare_process(spec, parent)
        worker = _load(spec)
        results = StepResults(open_store(spec.result_store, spec.result_store_keep, spec.settings))
    except TaskqueueError as error:
        cause = error.__cause__ if spec.explains else None
        logging.getLogger(__name__).error("cannot start: %s", shorten(str(error), 2000), exc_info=cause)
        return ExitStatus(error.status)
    try:
        _flush_output()
        link.sendall(frames.ready(worker.services))
        _serve(worker, spec, link, credit, results)
    except ConnectionError:  # the consumer is dead and wants no outcome
        pass
    except OSError as error:
        if error.errno not in _CLOSED:
            raise
        return ExitStatus.CUT_OFF
    return _tear_down(worker)


class _LevelOnEachLine(logging.Formatter):
    """Begins each line with its level, by which the consumer logs it; a traceback has many lines."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(f"{record.levelname}: {line}" for line in super().format(record).split("\n"))


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LevelOnEachLine())
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)


def _prepare_process(spec: WorkerSpec, parent: int) -> None:
    environment = privileges.environment(spec.user, os.environ)
    if spec.cgroup is not None:
        spec.cgroup.enter()
    spec.isolation.impose()
    if spec.user is not None:
        privileges.become(spec.user)
        privileges.check_installation(spec.user)
    children.die_with_parent(parent)
    children.let_signals_in()
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
                f"plugin {spec.worker_type!r} returned a {type(worker).__name__}, expected a BaseWorker"
            )
        worker.settings = dict(spec.settings)
        worker.services = with_schedules(worker.services, spec.worker_type, worker.SCHEDULES)
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


def _serve(
    worker: BaseWorker, spec: WorkerSpec, link: socket.socket, credit: socket.socket, results: StepResults
) -> None:
    """Read, perform, write, until the consumer closes its end or this process is to be replaced."""
    me, line, surroundings = os.getpid(), ConsumerLink(link), Surroundings()
    listeners.append(line.tell)
    limits, foresighted = limits_of(worker, spec.limits), _foresighted(worker)
    tasks, is_last = Tasks(link, credit), False
    for performed, task in enumerate(tasks, 1):
        line.begin(task)
        if foresighted is not None:
            foresighted.look_ahead(task, tasks, 0 if is_last else spec.limits.left(performed))
        outcome = perform(worker, task, limits.get(task.worker_type, spec.limits), results)
        if os.getpid() != me:  # a forked child of the handler returned here; it is not the worker
            os._exit(ExitStatus.OK)
        is_flushed = _flush_output()
        line.send(outcome)
        is_last = is_last or spec.limits.are_reached(performed) or worker.is_spent
        if is_last and (foresighted is None or not foresighted.is_ahead):
            line.send(frames.retiring())
            while link.recv(_CHUNK):  # until the supervisor knows; other workers get these tasks
                pass
            return
        if not is_flushed:
            surroundings.reopen_streams()
        surroundings.restore()


def _foresighted(worker: BaseWorker) -> ForesightedWorker | None:
    return worker if isinstance(worker, ForesightedWorker) else None


def _flush_output() -> bool:
    """Flush the handler's output while its workitem is current; tell whether that succeeded.

    The handler may have closed its streams or replaced them by anything.
    """
    is_flushed = True
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # noqa: BLE001 -- plugin code; its output changes no outcome
            is_flushed = False
    return is_flushed
