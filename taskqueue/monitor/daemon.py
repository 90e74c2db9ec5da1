"""The monitor daemon: it keeps the recorder and the web process running.

The recorder knows the broker's password and writes the record; the web process only reads the record. Both
inherit this process's memory, so it never reads the password.
"""

import contextlib
import os
import pwd
import socket
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from taskqueue import config
from taskqueue.address import Source
from taskqueue.config import LoggingSettings, MonitorSettings, PoolSettings
from taskqueue.config.settings import without_passwords
from taskqueue.control import key
from taskqueue.errors import ConfigError, ExitStatus, TaskqueueError
from taskqueue.monitor.own_processes import WEB_NAME
from taskqueue.monitor.own_token import OwnToken
from taskqueue.monitor.place import database_url, host_and_port, own_directory, url
from taskqueue.process import children, privileges, startup
from taskqueue.process.daemon import Signals, notify
from taskqueue.process.logs import Log
from taskqueue.process.supervisor_loop import REASONS, Child, SupervisorLoop

_STOP_TIMEOUT: Final = 10.0  # seconds for the processes to end
_UMASK: Final = 0o027  # the web process reads the record by the directory's group


@dataclass(frozen=True, slots=True)
class MonitorPlan:
    """The part of the configuration that the processes get; nothing in it is secret."""

    monitor: MonitorSettings
    logging: LoggingSettings
    recorder_user: str
    has_broker: bool  # whether the file names one
    lanes: tuple[tuple[str, int], ...]  # their number by section; "DEFAULT" is for all other types


def read_plan(path: str | None) -> MonitorPlan:
    """Read the configuration in a child. Raises ConfigError with all its faults."""
    try:
        return children.ask(partial(_plan, path))
    except OSError as error:
        raise TaskqueueError(f"the configuration cannot be read: {error.strerror}") from None


def _plan(path: str | None) -> MonitorPlan:
    from taskqueue.monitor.web.tls import server_context  # noqa: PLC0415 -- brings OpenSSL in

    settings = config.load(path, (), as_root=os.geteuid() == 0)
    server_context(settings.monitor)  # only to raise now what it would raise in the web process
    database_url(settings.monitor)  # only to raise now what it would raise in the processes
    return MonitorPlan(
        _commanding(path, without_passwords(settings.monitor), settings.workerpool),
        settings.logging,
        settings.workerpool.user,
        settings.amqp is not None,
        settings.lanes,
    )


def _commanding(path: str | None, monitor: MonitorSettings, pool: PoolSettings) -> MonitorSettings:
    """Return the section [monitor]; without a configuration file, with the control key of `taskqueue up`."""
    own = key.find(path, pool) if path is None else None
    return monitor if own is None else replace(monitor, control_key=str(own))


def read_database(path: str | None, settings: MonitorSettings, *, is_reader: bool = False) -> str | None:
    """Return the URL of the record's PostgreSQL database, with its password; None if there is none.

    It is read in a child: the other secrets of the configuration must not come to the web process.

    path -- of the configuration
    settings -- the section [monitor], without passwords
    is_reader -- whether the database is only read
    """
    if database_url(settings) is None:
        return None

    def url() -> str | None:
        return database_url(config.load(path, (), as_root=os.geteuid() == 0).monitor, is_reader=is_reader)

    try:
        return children.ask(url)
    except OSError as error:
        raise TaskqueueError(f"the configuration cannot be read: {error.strerror}") from None


def prepare(directory: Path, plan: MonitorPlan) -> None:
    """Make the record's directory, if it is missing.

    Raises ConfigError as `make` does, or if the recorder's user cannot write there.
    """
    make(directory, plan.recorder_user, plan.monitor.user)
    if not _is_writable(directory, plan):
        who = plan.recorder_user if os.geteuid() == 0 else "this user"
        raise ConfigError(
            [f"the record's directory {directory}: {who} cannot write there; set database in [monitor]"]
        )


def make(directory: Path, recorder_user: str, web_user: str) -> None:
    """Make the record's directory, if it is missing.

    Made by root, it is the recorder's, and the web process's group may read it. Raises ConfigError if that is
    impossible.
    """
    try:
        if not directory.is_dir():
            owners = (pwd.getpwnam(recorder_user), pwd.getpwnam(web_user)) if os.geteuid() == 0 else ()
            directory.mkdir(0o750, parents=True)
            if owners:
                os.chown(directory, owners[0].pw_uid, owners[1].pw_gid)
                directory.chmod(0o2750)
    except KeyError as error:
        raise ConfigError([f"the monitor needs users of its own: {error.args[0]}"]) from None
    except OSError as error:
        raise ConfigError([f"the record's directory {directory}: {error.strerror}"]) from None


def _is_writable(directory: Path, plan: MonitorPlan) -> bool:
    right = os.W_OK | os.X_OK
    if os.geteuid() != 0:
        return os.access(directory, right)
    with privileges.acting_as(plan.recorder_user):
        return os.access(directory, right, effective_ids=True)


class MonitorDaemon(SupervisorLoop):
    """Keeps a recorder and a web process running."""

    def __init__(self, source: Source, directory: Path | None = None, own_token: Path | None = None) -> None:
        """Read the configuration. Raises ConfigError, which names all its faults.

        directory -- the record's; None is what the configuration says
        own_token -- the file of a token with all rights, which the web process prints with its address
        """
        self.plan = read_plan(source.path)
        super().__init__("monitor", _STOP_TIMEOUT)
        self.reasons = REASONS | {
            ExitStatus.SYSTEM: "the system refuses it what it needs",
            ExitStatus.REFUSED: "the broker or the database refuses it",
        }
        self._source = source
        self._directory = directory
        self._own_token = OwnToken.of(own_token) if own_token else None
        self._is_replacing = False

    def begin(self) -> None:
        """Make the processes."""
        self.log_as(self.plan.logging, self.plan.recorder_user)
        directory = self._directory or own_directory(self.plan.monitor)
        prepare(directory, self.plan)
        for name, run in (("recorder", self._record), ("web process", self._serve)):
            self.members.append(Child(name, partial(run, self.plan, directory), self.reasons))

    def reload(self) -> None:
        """Replace the processes by new ones with the new configuration."""
        try:
            plan = read_plan(self._source.path)
            prepare(self._directory or own_directory(plan.monitor), plan)
        except TaskqueueError as error:
            self.log.error("not reloaded: %s", error)
            return
        self.plan = plan
        self.log.info("reloaded: the processes are replaced")
        self._is_replacing = True
        for member in self.members:
            member.drain()

    def _converge(self) -> None:
        super()._converge()
        if self._is_replacing and not self.members and not self.is_stopping:  # one at a time may record
            self._is_replacing = False
            self.begin()
            super()._converge()

    # --- the processes ---

    def _record(self, plan: MonitorPlan, directory: Path) -> int:
        from taskqueue.monitor.recorder import SIGNALS, Recorder  # noqa: PLC0415 -- brings pika in
        from taskqueue.monitor.store.opening import open_store  # noqa: PLC0415 -- and SQLite

        try:
            amqp = self._source.read()
            database = read_database(self._source.path, plan.monitor)
            _become("recorder", plan.recorder_user)
            with open_store(directory, database) as store, Signals(SIGNALS) as signals:
                recorder = Recorder(
                    plan.monitor,
                    amqp,
                    store,
                    signals,
                    _tell,
                    lanes=dict(plan.lanes),
                    has_token=bool(self._own_token),
                )
                status = recorder.run()
        except TaskqueueError as error:
            return _failed("recorder", error)
        if recorder.failure:
            notify(f"STATUS={recorder.failure}")
        return status

    def _serve(self, plan: MonitorPlan, directory: Path) -> int:
        from taskqueue.monitor.web.listening import listen_for_proxy  # noqa: PLC0415 -- brings Tornado in
        from taskqueue.monitor.web.server import serve  # noqa: PLC0415
        from taskqueue.monitor.web.service import WebSettings  # noqa: PLC0415
        from taskqueue.monitor.web.tls import server_context  # noqa: PLC0415 -- brings OpenSSL in

        try:
            if self._source.descriptor is not None:
                os.close(self._source.descriptor)  # the broker's address
            tls = server_context(plan.monitor)
            sockets = self._listen(plan.monitor)
            proxy = listen_for_proxy(plan.monitor.proxy_socket) if plan.monitor.proxy_socket else None
            database = read_database(self._source.path, plan.monitor, is_reader=True)
            _become(WEB_NAME, plan.monitor.user)
            token = self._own_token.secret if self._own_token else None
            return serve(WebSettings.of(plan.monitor, directory, token, database), sockets, tls, proxy)
        except TaskqueueError as error:
            return _failed("web process", error)

    def _listen(self, settings: MonitorSettings) -> list[socket.socket]:
        """Listen where the configuration says; with a token, elsewhere if that address is in use."""
        from taskqueue.monitor.web.listening import listen  # noqa: PLC0415

        host, port = host_and_port(settings.listen)
        own = self._own_token
        if own is None:
            return listen(host, port)
        kept_port = OwnToken.of(own.path).port  # of the web process before this one
        sockets = _listen_at_first_free(host, (port or kept_port, kept_port, 0))
        where = url("https" if settings.cert_file else "http", host, sockets[0].getsockname()[1])
        try:
            own.at(where)
        except OSError as error:
            self.log.warning("the address is not kept in %s: %s", own.path, error.strerror)
        startup.complain(f"the monitor is at {where}; its token is {own.secret}\n")
        startup.complain(f"its pages for a browser: {where}/login?token={own.secret}\n")
        return sockets


def _listen_at_first_free(host: str, ports: tuple[int, ...]) -> list[socket.socket]:
    """Listen at the first of some ports that is not in use. Raises CannotListen as for the last."""
    from taskqueue.monitor.web.listening import CannotListen, listen  # noqa: PLC0415

    *wanted, last = ports
    for port in wanted:
        with contextlib.suppress(CannotListen):
            return listen(host, port)
    return listen(host, last)


def _become(name: str, user: str) -> None:
    """Take the name of a process, and its user if this one is root."""
    parent = os.getppid()
    if os.geteuid() == 0:
        privileges.become(user)
        privileges.check_installation(user)
        children.die_with_parent(parent)
    os.umask(_UMASK)
    children.set_name(f"tq:{name}")
    children.set_title(f"taskqueue: {name}")


def _failed(name: str, error: TaskqueueError) -> int:
    Log(name).critical("%s", error)
    notify(f"STATUS={error}")
    return error.status


def _tell(state: str) -> None:
    Log("recorder").info("%s", state)
    notify(f"READY=1\nSTATUS={state}")
