"""The dispatcher daemon: it keeps dispatchers, scheduler, keeper, gate and flow process running."""

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar, Protocol

from taskqueue import config, plugins
from taskqueue.address import Source
from taskqueue.config import AmqpSettings, Settings
from taskqueue.errors import ConfigError, ExitStatus, TaskqueueError, Unroutable
from taskqueue.flow.place import open_store, own_path, prepare
from taskqueue.messages.routing import FORMATS, Format, Route
from taskqueue.process import children, privileges
from taskqueue.process.daemon import Signals, notify
from taskqueue.process.logs import Log
from taskqueue.process.supervisor_loop import Child, SupervisorLoop
from taskqueue.texts import shorten


def load_formats(content_types: tuple[str, ...]) -> dict[str, Format]:
    """Return the formats by content type: the built-in ones, and the plugins for `content_types`.

    A plugin's code runs in the dispatcher, which knows the broker's password. Therefore only the plugins that
    the configuration names are loaded. Raises PluginError if one of them is not installed.
    """
    return dict(FORMATS) | {
        name: _guarded(name, plugins.load(name, plugins.FORMATS)) for name in content_types
    }


def _guarded(name: str, read: Format) -> Format:
    """Return a plugin's format that raises only Unroutable: a message must not end the dispatcher."""

    def guarded(body: bytes) -> Route:
        try:
            route = read(body)
        except Unroutable:
            raise
        except (Exception, SystemExit) as error:
            reason = shorten(f"{type(error).__name__}: {error}", 200)
            raise Unroutable(f"the format plugin for {name} failed: {reason}") from error
        if not isinstance(route, Route) or not isinstance(route.body, bytes):
            raise Unroutable(
                f"the format plugin for {name} returned a {type(route).__name__}, expected a Route with bytes"
            )
        if not isinstance(route.content_type, str | None):
            raise Unroutable(f"the format plugin for {name} returned a Route whose content type is not a str")
        return route

    return guarded


class DispatcherDaemon(SupervisorLoop):
    """Keeps dispatchers, a scheduler and a keeper running; each reads the address when it starts."""

    name: ClassVar = "dispatcher"

    def __init__(self, source: Source) -> None:
        """Read the configuration. Raises ConfigError, which names all its faults."""
        self.settings = self._load(source.path)
        super().__init__(self.name, self.settings.dispatcher.stop_timeout)
        self._source = source
        self._standbys: list[Child] = []  # not yet started

    @staticmethod
    def _load(path: str | None) -> Settings:
        return config.load(path, (), as_root=os.geteuid() == 0)

    def begin(self) -> None:
        """Make the dispatchers, scheduler, keeper and, if they are configured, gate and flow process."""
        self.log_as(self.settings.logging, self.settings.workerpool.user)
        for number in range(1, self.settings.dispatcher.instances + 1):
            name = f"dispatcher {number}"
            self.members.append(Child(name, partial(self._dispatch, name, self.settings)))
        self._standbys = [
            Child("scheduler", partial(self._schedule, self.settings)),
            Child("keeper", partial(self._keep, self.settings)),
        ]
        if self.settings.limits:
            self._standbys.append(Child("gate", partial(self._admit, self.settings)))
        if self.settings.flow.is_wanted:
            self._standbys.append(self._flow_child())

    def _converge(self) -> None:
        """Start the others once the dispatchers have asked the broker: it may refuse them all."""
        dispatchers = [member for member in self.members if not member.is_draining]
        if not self.is_stopping and all(member.state for member in dispatchers):
            self.members += self._standbys
            self._standbys = []
        super()._converge()

    def reload(self) -> None:
        """Replace the processes by new ones with the new configuration."""
        try:
            self.settings = self._load(self._source.path)
        except ConfigError as error:
            self.log.error("not reloaded, the configuration has faults: %s", error)
            return
        self.log.info("reloaded; replacing all processes")
        self.stop_timeout = self.settings.dispatcher.stop_timeout
        for member in self.members:
            member.drain()
        self.begin()

    def _dispatch(self, name: str, settings: Settings) -> int:
        from taskqueue.dispatcher.dispatcher import SIGNALS, Dispatcher  # noqa: PLC0415 -- brings pika in

        def make(amqp: AmqpSettings, signals: Signals) -> Dispatcher:
            return Dispatcher(
                settings.dispatcher,
                amqp,
                load_formats(settings.dispatcher.formats),
                signals,
                _reporter("dispatcher"),
                records=dict(settings.records),
                lanes=dict(settings.lanes),
            )

        return self._be("dispatcher", name, settings, SIGNALS, make)

    def _schedule(self, settings: Settings) -> int:
        from taskqueue.broker.standby import SIGNALS  # noqa: PLC0415 -- brings pika in
        from taskqueue.scheduler.scheduler import Scheduler  # noqa: PLC0415

        def make(amqp: AmqpSettings, signals: Signals) -> Scheduler:
            return Scheduler(amqp, settings.schedules, signals, _reporter("scheduler"))

        return self._be("scheduler", "scheduler", settings, SIGNALS, make)

    def _keep(self, settings: Settings) -> int:
        from taskqueue.broker.standby import SIGNALS  # noqa: PLC0415 -- brings pika in
        from taskqueue.keeper.keeper import Keeper  # noqa: PLC0415

        def make(amqp: AmqpSettings, signals: Signals) -> Keeper:
            return Keeper(amqp, signals, _reporter("keeper"))

        return self._be("keeper", "keeper", settings, SIGNALS, make)

    def _admit(self, settings: Settings) -> int:
        from taskqueue.broker.standby import SIGNALS  # noqa: PLC0415 -- brings pika in
        from taskqueue.gate.gate import Gate  # noqa: PLC0415

        def make(amqp: AmqpSettings, signals: Signals) -> Gate:
            return Gate(amqp, settings.limits, signals, _reporter("gate"))

        return self._be("gate", "gate", settings, SIGNALS, make)

    def _flow_child(self) -> Child:
        """Return the flow process, once its database has a directory."""
        settings = self.settings.flow
        try:
            if (path := own_path(settings)) is not None:
                prepare(path, self.settings.workerpool.user)
        except ConfigError as error:
            self.log.error("%s", error)  # the process says so, too, whenever it is started
        return Child("flow", partial(self._flow, self.settings))

    def _flow(self, settings: Settings) -> int:
        from taskqueue.broker.standby import SIGNALS  # noqa: PLC0415 -- brings pika in
        from taskqueue.flow.flow import Flow  # noqa: PLC0415

        def make(amqp: AmqpSettings, signals: Signals) -> Flow:
            keep, place = settings.flow.keep, partial(open_store, settings.flow)
            own_path(settings.flow)  # raises before the process waits for it
            return Flow(
                amqp,
                place,
                signals,
                _reporter("flow process"),
                keep=keep,
                records=dict(settings.records),
                lanes=dict(settings.lanes),
            )

        return self._be("flow", "flow", settings, SIGNALS, make)

    def _be(
        self,
        kind: str,
        title: str,
        settings: Settings,
        signals: Sequence[signal.Signals],
        make: Callable[[AmqpSettings, Signals], "Process"],
    ) -> int:
        """Be a process that speaks with the broker, as the daemons' user; return the exit status."""
        parent = os.getppid()
        children.set_name(f"tq:{kind}")
        children.set_title(f"taskqueue: {title}")
        with Signals(signals) as received:
            try:
                amqp = self._source.read()
                if os.geteuid() == 0:
                    privileges.become(settings.workerpool.user)
                    privileges.check_installation(settings.workerpool.user)
                    children.die_with_parent(parent)
                process = make(amqp, received)
            except TaskqueueError as error:
                Log(kind).critical("%s", error)
                notify(f"STATUS={error}")
                return error.status
            status = process.run()
        if process.failure:
            notify(f"STATUS={process.failure}")
        return status


class FlowDaemon(DispatcherDaemon):
    """Keeps a flow process running, without dispatchers."""

    name = "flow"

    def __init__(self, source: Source, database: str | None = None) -> None:
        """Read the configuration. Raises ConfigError, which names all its faults.

        database -- the default place of the database
        """
        self._database = database
        super().__init__(source)

    def begin(self) -> None:
        """Make the flow process."""
        self.log_as(self.settings.logging, self.settings.workerpool.user)
        if self.settings.flow.database is None and self._database is not None:
            flow = replace(self.settings.flow, database=self._database)
            self.settings = replace(self.settings, flow=flow)
        self.members.append(self._flow_child())


class Process(Protocol):
    """A child of the daemon: it works until a signal ends it."""

    failure: str

    def run(self) -> ExitStatus:
        """Run until a signal ends it."""


def _reporter(kind: str) -> Callable[[str], None]:
    words = "%s" if kind == "dispatcher" else f"{kind} %s"  # the other processes log as the daemon, too

    def report(state: str) -> None:
        Log(kind).info(words, state)
        notify(f"READY=1\nSTATUS={state}")

    return report
