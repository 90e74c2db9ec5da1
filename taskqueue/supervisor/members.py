"""The start of a group's processes, from the fork to their own code."""

import os
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from taskqueue.address import Source
from taskqueue.config import AmqpSettings, GroupSettings, LoggingSettings, PoolSettings
from taskqueue.consumer import control
from taskqueue.consumer.suspects import Handling, Suspects
from taskqueue.errors import ConfigError, ExitStatus, TaskqueueError
from taskqueue.limits.wire import Identity
from taskqueue.messages.results import HOST
from taskqueue.plugins import OwnPlugin, Plugin
from taskqueue.process import children, identity, logs, privileges, relatives
from taskqueue.process.cgroups import Cgroup, Cgroups
from taskqueue.process.daemon import Signals
from taskqueue.process.logs import Log
from taskqueue.process.namespaces import Isolation
from taskqueue.supervisor.autoscale import Need
from taskqueue.worker.channels import label_output
from taskqueue.worker.limits import Limits
from taskqueue.worker.process import WorkerSpec, run


class Grants:
    """The plugin that owns each worker type.

    A worker plugin serves its own worker type. A module of tasks names its tasks, and gets each name that no
    other plugin owns; the first one that claims a name keeps it.
    """

    def __init__(self) -> None:
        self._owners: dict[str, str] = {}  # names of plugins by worker type

    def plan(self, plugins: Iterable[str]) -> None:
        """Grant each installed plugin its own worker type, and forget removed plugins."""
        installed = set(plugins)
        self._owners = {name: owner for name, owner in self._owners.items() if owner in installed}
        self._owners |= {name: name for name in installed}

    def claim(self, plugin: str, worker_types: Sequence[str], *, has_tasks: bool) -> str:
        """Grant worker types to a plugin; return "", or the reason for a refusal.

        has_tasks -- whether the plugin is a module of tasks
        """
        others = {name: self._owners[name] for name in worker_types if name in self._owners}
        for name, owner in others.items():
            if owner != plugin:
                return f"it may not serve worker type {name!r}, which belongs to plugin {owner!r}"
        if not has_tasks and set(worker_types) != {plugin}:
            return f"it may serve worker type {plugin!r} only, and named {', '.join(worker_types)[:200]!r}"
        self._owners |= dict.fromkeys(worker_types, plugin)
        return ""


@dataclass(frozen=True, slots=True)
class Blueprint:
    """The wanted state of a group; equal blueprints make equal groups."""

    settings: GroupSettings
    plugin: Plugin
    worker_user: str | None  # None: the pool's own


@dataclass(slots=True)
class Orders:
    """Orders of the controller to the pool; consumers obey them.

    Args:
        is_awaited: whether the controller has yet to say what is paused; until then nothing is taken.
        is_drained: whether the host takes nothing new.
        paused: the worker types of which nothing new is taken.
    """

    is_awaited: bool = False
    is_drained: bool = False
    paused: tuple[str, ...] = ()

    def as_message(self) -> dict[str, Any]:
        """Return the orders as consumers take them."""
        held = "is drained" if self.is_drained else "waits for the controller" if self.is_awaited else ""
        return {"held": held, "paused": list(self.paused)}

    def in_words(self) -> str:
        """Return the orders for the log."""
        if self.is_drained:
            return "this host is drained: it takes nothing new"
        return f"paused worker types: {', '.join(self.paused) or 'none'}"

    @property
    def are_plain(self) -> bool:
        """Whether everything is taken, as without any command."""
        return not (self.is_awaited or self.is_drained or self.paused)


def _ignore(_content: dict[str, Any]) -> None:
    pass


def _unbounded(_need: Need) -> int:
    return sys.maxsize


@dataclass(frozen=True, slots=True)
class SharedResources:
    """The resources that all groups of a pool share."""

    pool: PoolSettings
    logging: LoggingSettings
    source: Source  # the broker's address, read in the consumers only
    grants: Grants
    cgroups: Cgroups
    as_root: bool
    open_files: int  # limit of open files of a worker
    orders: Orders = field(default_factory=Orders)
    on_described: Callable[[dict[str, Any]], None] = _ignore  # takes what a consumer says of its workers
    room: Callable[[Need], int] = _unbounded  # how many more workers there may be


def run_consumer(
    blueprint: Blueprint,
    shared: SharedResources,
    *,
    suspects: Suspects,
    seat: str,
    supervisor: socket.socket,
    handling: Handling,
    parent: int,
) -> ExitStatus:
    """Run the consumer of a group: change the user, read the broker's address, consume until SIGTERM.

    Args:
        blueprint: the group.
        shared: the resources that all groups share.
        suspects: the messages that killed earlier consumers of the group.
        seat: the same for all consumers of the group, one after the other, and for no others.
        supervisor: this process's end of the socket pair to the supervisor.
        handling: records the message that is being handled.
        parent: the process id of the supervisor; this process dies with it.
    """
    from taskqueue.consumer.consumer import SIGNALS, Consumer  # noqa: PLC0415 -- the supervisor has no AMQP

    name = blueprint.settings.name
    log = Log("supervisor", group=name)
    _keep_only(supervisor, handling, shared.source.descriptor)
    children.set_name(f"tq:{name}")
    children.set_title(f"taskqueue: consumer of {name}")
    try:
        if shared.as_root:
            become(shared.pool.user)
        children.die_with_parent(parent)
        amqp = shared.source.read()
    except TaskqueueError as error:
        log.critical("%s", error)
        control.send(supervisor, "failure", reason=str(error))
        return error.status

    with Signals(SIGNALS) as signals:
        return Consumer(
            replace(blueprint.settings, user=blueprint.worker_user),
            amqp,
            supervisor,
            signals,
            partial(_read_again, shared.source, log),
            handling=handling.writer(),
            suspects=suspects,
            identity=_identity(seat, parent, name),
        ).run(f"{blueprint.plugin.distribution} {blueprint.plugin.version}".strip())


def _read_again(source: Source, log: Log) -> AmqpSettings | None:
    try:
        return source.read()
    except ConfigError as error:
        log.error("the broker's address is unchanged: %s", error)
        return None


def _identity(seat: str, supervisor: int, group: str) -> Identity:
    return Identity(seat, identity.machine(), identity.process(supervisor), HOST, group)


def _keep_only(supervisor: socket.socket, handling: Handling, amqp_fd: int | None) -> None:
    """Close all files except those of a consumer and its log."""
    own = supervisor.fileno(), handling.fileno(), *([amqp_fd] if amqp_fd else [])
    children.close_all_but(*own, *logs.take_over("consumer"))


def become(user: str) -> None:
    """Become a process of a Unix user, with its environment. Raises PrivilegeError."""
    environment = privileges.environment(user, os.environ)
    privileges.become(user)
    privileges.check_installation(user)
    os.environ.clear()
    os.environ.update(environment)


def run_worker(
    blueprint: Blueprint,
    shared: SharedResources,
    *,
    name: str,
    ends: tuple[socket.socket, socket.socket],
    output: int,
    parent: int,
    explains: bool,
    cgroup: Cgroup | None,
) -> ExitStatus:
    """Run a worker of a group; its output goes to `output`.

    Args:
        blueprint: the group.
        shared: the resources that all groups share.
        name: the name of the worker, as "digest/1".
        ends: its ends of the socket pairs to the consumer, for frames and for credit.
        output: the pipe from which the consumer reads its stdout and stderr.
        parent: the process id of the supervisor; this process dies with it.
        explains: whether it shows the traceback if its plugin cannot be set up.
        cgroup: its control group, if it has one of its own.
    """
    logs.close()
    relatives.forget()
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    children.close_all_but(*(end.fileno() for end in ends))
    children.set_name(f"tq:{name}")
    children.set_title(f"taskqueue: worker {name}")
    children.allow_open_files(shared.open_files)
    label_output()
    settings, plugin = blueprint.settings, blueprint.plugin
    limits = Limits.of(settings)
    if shared.cgroups.has("memory_max"):
        limits = replace(limits, memory_max=0)
    spec = WorkerSpec(
        name,
        settings.worker_type,
        blueprint.worker_user,
        dict(settings.settings),
        limits,
        Isolation.of(settings),
        cgroup,
        plugin if isinstance(plugin, OwnPlugin) else None,
        explains=explains,
        result_store=settings.result_store,
        result_store_keep=settings.result_store_keep,
    )
    return run(spec, *ends, parent)
