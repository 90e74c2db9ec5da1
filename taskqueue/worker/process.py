"""A worker process's whole life."""

import contextlib
import logging
import os
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from taskqueue import plugins
from taskqueue.errors import (
    ExitStatus,
    PluginError,
    TaskqueueError,
)
from taskqueue.process import children, privileges
from taskqueue.texts import shorten
from taskqueue.worker import frames
from taskqueue.worker.base import BaseWorker
from taskqueue.worker.consumer_link import ConsumerLink, listeners
from taskqueue.worker.credits import granted
from taskqueue.worker.limits import Limits
from taskqueue.worker.perform import limits_of, perform
from taskqueue.worker.surroundings import Surroundings

_CHUNK: Final = 65_536  # bytes read from the consumer at a time


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


def run(spec: WorkerSpec, link: socket.socket, credit: socket.socket, parent: int) -> ExitStatus:
    """Be a worker: switch user, load the plugin, perform what the consumer sends until it hangs up.

    Args:
        spec: who to be.
        link: to the consumer, for frames.
        credit: from the consumer: the numbers of the tasks that may be begun (credits.py).
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
        _serve(worker, spec, link, credit)
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


def _serve(worker: BaseWorker, spec: WorkerSpec, link: socket.socket, credit: socket.socket) -> None:
    """Read, perform, write, until the consumer closes its end or this process should be replaced."""
    me, line, surroundings = os.getpid(), ConsumerLink(link), Surroundings()
    listeners.append(line.tell)
    limits = limits_of(worker, spec.limits)
    for performed, task in enumerate(_tasks(link, credit), 1):
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


def _tasks(link: socket.socket, credit: socket.socket) -> Iterator[frames.TaskFrame]:
    """Yield the tasks that may be begun; the others that were sent have been taken back."""
    reader, sent = frames.FrameReader(), deque[frames.TaskFrame]()
    for number in granted(credit):
        task = None
        while task is None or task.number != number:
            while not sent:
                data = link.recv(_CHUNK)
                if not data:
                    return
                sent.extend(frames.TaskFrame.decode(payload) for _, payload in reader.feed(data))
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
