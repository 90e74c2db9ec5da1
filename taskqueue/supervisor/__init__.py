"""The supervisor: the first process of the pool. It forks, waits for children and signals, and forks again.

It may be root, and the workers inherit its memory. So it imports no plugin, opens no connection and never
has the broker's password: a child reads the configuration and returns all but the password.
"""

import os
import resource
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from taskqueue import config, plugins
from taskqueue.address import Source
from taskqueue.config import LoggingSettings, PoolSettings, Settings
from taskqueue.control import key
from taskqueue.errors import ConfigError, ExitStatus, LimitReached, TaskqueueError
from taskqueue.process import children, privileges
from taskqueue.process.cgroups import Boundaries, Cgroups
from taskqueue.process.daemon import Readiness
from taskqueue.process.supervisor_loop import SupervisorLoop
from taskqueue.supervisor.autoscale import HostRoom, Need
from taskqueue.supervisor.controlled import ControllerMember
from taskqueue.supervisor.group import Group
from taskqueue.supervisor.members import Blueprint, Grants, Orders, SharedResources
from taskqueue.supervisor.obeying import Obeying
from taskqueue.supervisor.own_socket import OwnSocket
from taskqueue.supervisor.sizes import Size, Sizes
from taskqueue.worker.commands import plugin_of

_FILES: Final = 32  # open files of a supervisor or a consumer, in addition to the following
_GROUP_FILES: Final = 2  # of the supervisor for each group
_WORKER_FILES: Final = 4  # of a consumer for each of its workers
_END_TIMEOUT: Final = 5.0  # seconds that processes left by plugins may take to end


@dataclass(frozen=True, slots=True)
class Plan:
    """The wanted state, from configuration and installed plugins; it contains no secret."""

    pool: PoolSettings
    logging: LoggingSettings
    blueprints: tuple[Blueprint, ...]  # also those of groups without workers, which a command may give some
    plugins: tuple[str, ...]  # the names of all installed plugins, and the worker types of commands
    warnings: tuple[str, ...]
    control_key: Path | None  # the file with it
    control_socket: Path | None  # without a key; None: the pool takes no commands
    has_broker: bool  # whether the configuration names one
    as_root: bool  # whether consumers and workers change their users


def read_plan(path: str | None) -> Plan:
    """Read the configuration in a child, so that this process never has a password in its memory.

    Raises ConfigError with all faults, LimitReached if the limit on open files is too low, and TaskqueueError
    if the child fails.
    """
    try:
        plan = children.ask(partial(_plan, path))
    except OSError as error:
        raise TaskqueueError(f"the configuration cannot be read: {error.strerror}") from None
    _check_open_files(plan.blueprints)
    return plan


def _check_open_files(blueprints: Sequence[Blueprint]) -> None:
    """Raise LimitReached if the limit on open files is too low, so that groups would fail again and again."""
    blueprints = [each for each in blueprints if each.settings.workers]
    sizes = [max(each.settings.workers, each.settings.most_workers) for each in blueprints]
    most = max(sizes, default=0)
    needed = _FILES + max(_GROUP_FILES * len(blueprints), _WORKER_FILES * most)
    _, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    if needed > allowed:
        groups, workers = _number(len(blueprints), "group"), _number(most, "worker")
        raise LimitReached(
            f"{groups} with up to {workers} in one need {needed} open files in a process, and the limit is "
            f"{allowed}: raise LimitNOFILE in the systemd unit, or `ulimit -n` before the start"
        )


def _plan(path: str | None) -> Plan:
    as_root = os.geteuid() == 0
    found = plugins.served()
    settings = config.load(path, list(found), as_root=as_root)
    may_listen = as_root or settings.workerpool.control_socket is not None
    return Plan(
        settings.workerpool,
        settings.logging,
        _blueprints(settings, found, as_root=as_root),
        tuple(dict.fromkeys((*found, *(group.worker_type for group in settings.groups)))),
        (
            *settings.warnings,
            *privileges.exposure_warnings(settings),
            *key.exposure_warnings(path, settings),
        ),
        place := key.find(path, settings.workerpool),
        key.socket_of(path, settings.workerpool) if place is None and may_listen else None,
        settings.amqp is not None,
        as_root,
    )


def _blueprints(
    settings: Settings, found: dict[str, plugins.Plugin], *, as_root: bool
) -> tuple[Blueprint, ...]:
    default = settings.workerpool.worker_user if as_root else None
    return tuple(
        Blueprint(
            group,
            plugin_of(group) or found[group.worker_type],
            (group.user or default) if as_root else None,
        )
        for group in settings.groups
    )


class Supervisor(SupervisorLoop):
    """Holds the wanted groups and converges the running ones on them."""

    def __init__(self, read: Callable[[], Plan], source: Source) -> None:
        """Read the configuration. Raises ConfigError with all its faults.

        Args:
            read: returns the plan, now and at each reload, as `read_plan` does.
            source: the source of the broker's address; only consumers read it.
        """
        self.plan = read()
        super().__init__("workerpool", self.plan.pool.stop_timeout)
        self._read = read
        self._source = source
        self.groups: list[Group] = []
        self._grants = Grants()
        self._cgroups = Cgroups()
        self._obeying = Obeying(Orders(is_awaited=self.plan.control_key is not None), self)
        self._sizes = Sizes(_check_open_files)
        self._controller: ControllerMember | None = None
        self._own_socket: OwnSocket | None = None
        # The limits of the workers, and of this process.
        self._open_files, self._most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._host = HostRoom()

    def run(self, readiness: Readiness) -> ExitStatus:
        """Keep the groups running until SIGTERM; then kill processes that plugins have left."""
        children.adopt_orphans()
        status = super().run(readiness)
        if left := children.end_orphans(_END_TIMEOUT):
            self.log.warning("killed %s left behind by plugins", _number(left, "process", "processes"))
        self._cgroups.close()
        return status

    def begin(self) -> None:
        """Make the groups."""
        children.allow_open_files(self._most_files)
        self._plan_groups()
        self._plan_own_socket()
        self._plan_controller()

    def reload(self) -> None:
        """Read the configuration again; only changed groups are replaced."""
        try:
            self.plan = self._read()
        except ConfigError as error:
            self.log.error("not reloaded, the configuration has faults: %s", error)
            return
        except TaskqueueError as error:
            self.log.error("not reloaded: %s", error)
            return
        self.stop_timeout = self.plan.pool.stop_timeout
        self._sizes.reload()
        self._plan_groups()
        self._plan_own_socket()
        self._plan_controller()
        super().reload()
        self.log.info("reloaded: %s", self.summary())

    def _room(self, need: Need) -> int:
        """Return how many more workers there may be, if each needs so much."""
        return max(0, min(self._host.workers(need), self.plan.pool.max_total_workers - self._size))

    @property
    def _size(self) -> int:
        return sum(len(group.workers) for group in self.groups)

    def summary(self) -> str:
        """Return the numbers of workers and groups in words."""
        return f"{_number(self._size, 'worker')} in {_number(len(self.groups), 'group')}"

    def _plan_groups(self) -> None:
        """Apply the plan: the logging, the grants, and the groups."""
        plan, logging = self.plan, self.log_as(self.plan.logging, self.plan.pool.user)
        self._shared = SharedResources(
            plan.pool,
            logging,
            self._source,
            self._grants,
            self._cgroups,
            plan.as_root,
            self._open_files,
            self._obeying.orders,
            self._described,
            self._room,
        )
        self._grants.plan(plan.plugins)
        wanted = {each.settings.name: Boundaries.of(each.settings) for each in plan.blueprints}
        for warning in (*plan.warnings, *self._cgroups.plan(wanted)):
            self.log.warning("%s", warning)
        if not any(each.settings.workers for each in plan.blueprints):
            self.log.warning(
                "no plugin is installed under %s or %s, and no section has a command: there is nothing to do",
                plugins.WORKERS,
                plugins.TASKS,
            )
        for group in self.groups:
            group.shared = self._shared
        self._converge_groups()

    def _converge_groups(self) -> None:
        """Keep the groups that are wanted unchanged, drain the others, and make the missing ones."""
        wanted = self._sizes.apply(self.plan.blueprints, self.plan.pool.max_total_workers)
        for fault in self._sizes.faults:
            self.log.error("%s", fault)
        for group in self.groups:
            if group.blueprint not in wanted:
                self.log.info(
                    "group %s was changed or removed: its processes finish their work and end", group.name
                )
                group.drain()
        self.groups = [group for group in self.groups if not group.is_draining]
        running = [group.blueprint for group in self.groups]
        made = [Group(blueprint, self._shared) for blueprint in wanted if blueprint not in running]
        self.groups += made
        self.members += made

    def _plan_controller(self) -> None:
        """Run a controller if there is a key; without one, nothing is paused."""
        plan = self.plan
        wanted = plan.control_key, plan.pool.user if plan.as_root else None
        if self._controller is not None and (self._controller.key, self._controller.user) != wanted:
            self._controller.retire(is_last=plan.control_key is None)
            self._controller = None
        path, user = wanted
        if self._controller is None and path is not None:
            self._controller = ControllerMember(path, user, self._source, self._obeying)
            self.members.append(self._controller)

    def _plan_own_socket(self) -> None:
        """Listen for root if there is no key; what it has commanded ends with the socket."""
        path, before = self.plan.control_socket, self._own_socket
        if before is not None and before.path != path:
            before.drain()
            self._obeying.end()
            self._own_socket = None
        if self._own_socket is None and path is not None:
            self._own_socket = OwnSocket(path, self._obeying)
            self._own_socket.listen()
            self.members.append(self._own_socket)

    # --- for the controller ---

    def keep_sizes(self, sizes: Mapping[str, Size]) -> None:
        """Give groups the numbers of workers that standing commands name, and all others their own."""
        if self._sizes.keep(sizes, self.plan.blueprints) and not self.is_stopping:
            self._converge_groups()

    def scale(self, name: str, size: Size | None) -> str:
        """Give a group a number of workers until the next reload; return "", or why that cannot be.

        size -- None for the number of the configuration
        """
        fault = self._sizes.give(name, size, self.plan.blueprints, self.plan.pool.max_total_workers)
        if not fault and not self.is_stopping:
            self._converge_groups()
        return fault

    @property
    def size_faults(self) -> list[str]:
        """The reasons why numbers of standing commands are not in force."""
        return self._sizes.faults

    def emptied(self) -> list[dict[str, Any]]:
        """Return the groups that commands have left without workers, as `Group.described` does."""
        found = [each.settings for each in self._sizes.emptied(self.plan.blueprints)]
        about = {"state": "is scaled to 0", "pid": 0, "workers": [], "ends": False}
        return [{"name": each.name, "type": each.worker_type, **about} for each in found]

    def all_groups(self) -> list[Group]:
        """Return the groups, also those whose processes finish their work and end."""
        return [member for member in self.members if isinstance(member, Group)]

    def _described(self, content: dict[str, Any]) -> None:
        for each in (self._controller, self._own_socket):
            if each is not None:
                each.described(content)


def _number(count: int, noun: str, nouns: str = "") -> str:
    return f"{count} {noun if count == 1 else nouns or noun + 's'}"
