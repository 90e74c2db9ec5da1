"""A group's processes from their fork until they run their own code."""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

from taskqueue.config import AmqpSettings, GroupSettings, LoggingSettings, PoolSettings
from taskqueue.consumer import control
from taskqueue.consumer.suspects import Handling, Suspects
from taskqueue.errors import ConfigError, ExitStatus, TaskqueueError
from taskqueue.plugins import OwnPlugin, Plugin
from taskqueue.process import children, logs, privileges
from taskqueue.process.daemon import Signals
from taskqueue.process.logs import Log
from taskqueue.supervisor.grants import Grants
from taskqueue.worker import labels
from taskqueue.worker.limits import Limits
from taskqueue.worker.process import WorkerSpec, run


@dataclass(frozen=True, slots=True)
class Blueprint:
    """Blueprint of a group; two that are equal make the same group."""

    settings: GroupSettings
    plugin: Plugin
    worker_user: str | None  # None: the pool's own


@dataclass(frozen=True, slots=True)
class SharedResources:
    """The resources that all groups of a pool share."""

    pool: PoolSettings
    logging: LoggingSettings
    read_amqp: Callable[[], AmqpSettings]  # called in the consumers only; may raise ConfigError
    amqp_fd: int | None  # where it reads, if that is an open file
    grants: Grants
    as_root: bool
    open_files: int  # how many a worker may have for now; the supervisor itself may have more


def be_consumer(
    blueprint: Blueprint,
    surroundings: SharedResources,
    *,
    suspects: Suspects,
    supervisor: socket.socket,
    handling: Handling,
    parent: int,
) -> ExitStatus:
    """Be a group's consumer: become the pool's user, read the broker's address, consume until SIGTERM.

    Args:
        blueprint: the group.
        surroundings: what all groups share.
        suspects: the messages that earlier consumers of the group died of.
        supervisor: this process's end of the pair to the supervisor.
        handling: takes what is handled at each moment.
        parent: the supervisor's process id; with it we die.
    """
    from taskqueue.consumer.consumer import SIGNALS, Consumer  # noqa: PLC0415 -- the supervisor has no AMQP

    name = blueprint.settings.name
    log = Log("supervisor", group=name)
    _keep_only(supervisor, handling, surroundings.amqp_fd)
    children.set_name(f"tq:{name}")
    children.set_title(f"taskqueue: consumer of {name}")
    try:
        if surroundings.as_root:
            _become(surroundings.pool.user)
        children.die_with_parent(parent)
        amqp = surroundings.read_amqp()
    except TaskqueueError as error:
        log.critical("%s", error)
        control.send(supervisor, "failure", reason=str(error))
        return error.status

    def read_again() -> AmqpSettings | None:
        try:
            return surroundings.read_amqp()
        except ConfigError as error:
            log.error("the broker's address stays as it was: %s", error)
            return None

    with Signals(SIGNALS) as signals:
        return Consumer(
            blueprint.settings,
            amqp,
            supervisor,
            signals,
            read_again,
            handling=handling.writer(),
            suspects=suspects,
        ).run()


def _keep_only(supervisor: socket.socket, handling: Handling, amqp_fd: int | None) -> None:
    """Close all files but a consumer's own, and those it logs to."""
    own = supervisor.fileno(), handling.fileno(), *([amqp_fd] if amqp_fd else [])
    children.close_all_but(*own, *logs.take_over("consumer"))


def _become(user: str) -> None:
    environment = privileges.environment(user, os.environ)
    privileges.become(user)
    privileges.check_installation(user)
    os.environ.clear()
    os.environ.update(environment)


def be_worker(
    blueprint: Blueprint,
    surroundings: SharedResources,
    *,
    name: str,
    ends: tuple[socket.socket, socket.socket],
    output: int,
    parent: int,
    explains: bool,
) -> ExitStatus:
    """Be one of a group's workers; what it prints goes to `output`.

    Args:
        blueprint: the group.
        surroundings: what all groups share.
        name: the worker's, as "digest/1".
        ends: its ends of the pairs to the consumer, for frames and for credit.
        output: the pipe from which the consumer reads its stdout and stderr.
        parent: the supervisor's process id; with it we die.
        explains: whether it shows the traceback where its plugin cannot be set up.
    """
    logs.close()
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    children.close_all_but(*(end.fileno() for end in ends))
    children.set_name(f"tq:{name}")
    children.set_title(f"taskqueue: worker {name}")
    children.allow_open_files(surroundings.open_files)
    labels.install()
    settings, plugin = blueprint.settings, blueprint.plugin
    spec = WorkerSpec(
        name,
        settings.worker_type,
        blueprint.worker_user,
        dict(settings.settings),
        Limits.of(settings),
        plugin if isinstance(plugin, OwnPlugin) else None,
        explains=explains,
    )
    return run(spec, *ends, parent)
