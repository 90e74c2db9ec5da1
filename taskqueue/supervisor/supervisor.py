"""The supervisor: the pool's first process. It forks, waits for children and signals, and starts anew.

It may be root, and its memory is inherited by the workers. So it imports no plugin, opens no connection
and never sees the broker's password: the configuration is read by a child that hands over only the rest.
"""

import os
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from taskqueue import config, plugins
from taskqueue.config import AmqpSettings, LoggingSettings, PoolSettings, Settings
from taskqueue.errors import ConfigError, ExitStatus, LimitReached, TaskqueueError
from taskqueue.process import children, exposure
from taskqueue.process.daemon import Readiness
from taskqueue.process.supervisor_loop import SupervisorLoop
from taskqueue.supervisor.grants import Grants
from taskqueue.supervisor.group import Group
from taskqueue.supervisor.members import Blueprint, SharedResources

_FILES: Final = 32  # open files of a supervisor or a consumer, beside those that follow
_GROUP_FILES: Final = 2  # of the supervisor for each group
_WORKER_FILES: Final = 4  # of a consumer for each of its workers
_END_TIMEOUT: Final = 5.0  # seconds that processes may take to vanish that plugins have left


@dataclass(frozen=True, slots=True)
class Plan:
    """The wanted state, from configuration and installed plugins; nothing in it is secret to workers."""

    pool: PoolSettings
    logging: LoggingSettings
    blueprints: tuple[Blueprint, ...]
    plugins: tuple[str, ...]  # the names of all that are installed
    warnings: tuple[str, ...]
    has_broker: bool  # whether the file names one
    as_root: bool  # whether consumers and workers become users of their own


def read_plan(path: str | None) -> Plan:
    """Read the configuration in a child, so that no password ever is in this process's memory.

    Raises ConfigError with all faults, LimitReached if the system does not allow as many open files as it
    takes, and TaskqueueError if the child could not do it.
    """
    try:
        reader, writer = os.pipe()
    except OSError as error:
        raise TaskqueueError(f"the configuration cannot be read: {error.strerror}") from None

    def read() -> int:
        with os.fdopen(writer, "wb") as pipe:
            try:
                pickle.dump(_plan(path), pipe)
            except ConfigError as error:
                pickle.dump([str(fault) for fault in error.faults], pipe)
        return ExitStatus.OK

    with os.fdopen(reader, "rb") as pipe:
        try:
            pid = children.fork(read)
        except OSError as error:
            raise TaskqueueError(f"no process to read the configuration: {error.strerror}") from None
        finally:
            os.close(writer)
        answer = pipe.read()
    _, status = os.waitpid(pid, 0)
    if status != 0:
        raise TaskqueueError("whoever read the configuration died of it")
    plan = pickle.loads(answer)  # noqa: S301 -- our own child wrote it
    if not isinstance(plan, Plan):
        raise ConfigError(plan)
    _check_open_files(plan.blueprints)
    return plan


def _check_open_files(blueprints: Sequence[Blueprint]) -> None:
    """Rather start nothing than groups that come and go for want of open files."""
    most = max((blueprint.settings.workers for blueprint in blueprints), default=0)
    needed = _FILES + max(_GROUP_FILES * len(blueprints), _WORKER_FILES * most)
    _, allowed = children.open_files_allowed()
    if needed > allowed:
        groups, workers = _number(len(blueprints), "group"), _number(most, "worker")
        raise LimitReached(
            f"{groups} with up to {workers} in one take {needed} open files in a process, and {allowed} are "
            "allowed: raise LimitNOFILE in the systemd unit, or `ulimit -n` before the start"
        )


def _plan(path: str | None) -> Plan:
    as_root = os.geteuid() == 0
    found = plugins.served()
    settings = config.load(path, list(found), as_root=as_root)
    return Plan(
        settings.workerpool,
        settings.logging,
        _blueprints(settings, found, as_root=as_root),
        tuple(found),
        (*settings.warnings, *exposure.warnings(settings)),
        settings.amqp is not None,
        as_root,
    )


def _blueprints(
    settings: Settings, found: dict[str, plugins.Plugin], *, as_root: bool
) -> tuple[Blueprint, ...]:
    default = settings.workerpool.worker_user if as_root else None
    return tuple(
        Blueprint(group, found[group.worker_type], (group.user or default) if as_root else None)
        for group in settings.groups
        if group.workers
    )


class Supervisor(SupervisorLoop):
    """Holds the groups that are wanted and makes those that run agree with them."""

    def __init__(
        self, read: Callable[[], Plan], amqp_fd: int | None, read_amqp: Callable[[], AmqpSettings]
    ) -> None:
        """Read the configuration; ConfigError with all its faults.

        Args:
            read: returns what is wanted, now and at each reload, as `read_plan` does.
            amqp_fd: an open file that `read_amqp` needs, or None.
            read_amqp: returns the broker's address; only ever called in a consumer.
        """
        self.plan = read()
        super().__init__("workerpool", self.plan.pool.stop_timeout)
        self._read = read
        self._amqp_fd = amqp_fd
        self._read_amqp = read_amqp
        self._groups: list[Group] = []
        self._grants = Grants()
        self._open_files, _ = children.open_files_allowed()  # the workers'

    def run(self, readiness: Readiness) -> ExitStatus:
        """Keep the groups running until SIGTERM; then end what plugins have left in sessions of its own."""
        children.adopt_orphans()
        status = super().run(readiness)
        if left := children.end_orphans(_END_TIMEOUT):
            self.log.warning("killed %s that plugins had left behind", _number(left, "process", "processes"))
        return status

    def begin(self) -> None:
        """Make the groups."""
        children.allow_open_files(children.open_files_allowed()[1])  # its consumers', too
        self._plan_groups()

    def reload(self) -> None:
        """Read the configuration again; only groups that changed are made anew."""
        try:
            self.plan = self._read()
        except ConfigError as error:
            self.log.error("not reloaded, the configuration has faults: %s", error)
            return
        except TaskqueueError as error:
            self.log.error("not reloaded: %s", error)
            return
        self.stop_timeout = self.plan.pool.stop_timeout
        self._plan_groups()
        super().reload()
        self.log.info("reloaded: %s", self.summary())

    def summary(self) -> str:
        """Count the workers and groups."""
        count = sum(len(group.workers) for group in self._groups)
        return f"{_number(count, 'worker')} in {_number(len(self._groups), 'group')}"

    def _plan_groups(self) -> None:
        """Leave running what is wanted as it is; let go what is not; make what is missing."""
        around = self._surroundings()
        self._grants.plan(self.plan.plugins)
        for warning in self.plan.warnings:
            self.log.warning("%s", warning)
        if not self.plan.blueprints:
            self.log.warning(
                "no plugin is installed under %s or %s: there is nothing to do",
                plugins.WORKERS,
                plugins.TASKS,
            )
        for group in self._groups:
            if group.blueprint not in self.plan.blueprints:
                self.log.info("group %s is changed or gone: what runs of it finishes and leaves", group.name)
                group.quiet()
        self._groups = [group for group in self._groups if not group.is_leaving]
        running = [group.blueprint for group in self._groups]
        for group in self._groups:
            group.surround(around)
        made = [Group(blueprint, around) for blueprint in self.plan.blueprints if blueprint not in running]
        self._groups += made
        self.members += made

    def _surroundings(self) -> SharedResources:
        logging = self.log_as(self.plan.logging, self.plan.pool.user)
        read, fd = self._read_amqp, self._amqp_fd
        as_root, files = self.plan.as_root, self._open_files
        return SharedResources(self.plan.pool, logging, read, fd, self._grants, as_root, files)


def _number(count: int, noun: str, nouns: str = "") -> str:
    return f"{count} {noun if count == 1 else nouns or noun + 's'}"
