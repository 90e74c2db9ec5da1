"""The dispatcher daemon: as many dispatcher processes as are wanted, kept running."""

import os
from collections.abc import Callable
from functools import partial

from taskqueue import config
from taskqueue.config import AmqpSettings, Settings
from taskqueue.dispatcher.formats import load_formats
from taskqueue.errors import ConfigError, TaskqueueError
from taskqueue.process import children, privileges
from taskqueue.process.daemon import Signals, notify
from taskqueue.process.logs import Log
from taskqueue.process.supervisor_loop import Child, SupervisorLoop


class DispatcherDaemon(SupervisorLoop):
    """Keeps `instances` dispatchers running; each reads the configuration when it starts."""

    def __init__(self, path: str | None, read_amqp: Callable[[], AmqpSettings]) -> None:
        """Read the configuration; ConfigError with all its faults.

        Args:
            path: the configuration file; None for the defaults.
            read_amqp: returns the broker's address.
        """
        self.settings = self._load(path)
        super().__init__("dispatcher", self.settings.dispatcher.stop_timeout)
        self._path = path
        self._read_amqp = read_amqp

    @staticmethod
    def _load(path: str | None) -> Settings:
        return config.load(path, (), as_root=os.geteuid() == 0)

    def begin(self) -> None:
        """Make the dispatchers."""
        self.log_as(self.settings.logging, self.settings.workerpool.user)
        for number in range(1, self.settings.dispatcher.instances + 1):
            name = f"dispatcher {number}"
            self.members.append(Child(name, partial(self._dispatch, name, self.settings)))

    def reload(self) -> None:
        """Replace the dispatchers by others that go by the new configuration."""
        try:
            self.settings = self._load(self._path)
        except ConfigError as error:
            self.log.error("not reloaded, the configuration has faults: %s", error)
            return
        self.log.info("reloaded: the dispatchers are replaced")
        self.stop_timeout = self.settings.dispatcher.stop_timeout
        for member in self.members:
            member.quiet()
        self.begin()

    def _dispatch(self, name: str, settings: Settings) -> int:
        from taskqueue.dispatcher.dispatcher import SIGNALS, Dispatcher  # noqa: PLC0415 -- brings pika in

        parent = os.getppid()
        try:
            amqp = self._read_amqp()
            if os.geteuid() == 0:
                privileges.become(settings.workerpool.user)
                privileges.check_installation(settings.workerpool.user)
                children.die_with_parent(parent)
            formats = load_formats(settings.dispatcher.formats)
        except TaskqueueError as error:
            Log("dispatcher").critical("%s", error)
            notify(f"STATUS={error}")
            return error.status
        children.set_name("tq:dispatcher")
        children.set_title(f"taskqueue: {name}")
        with Signals(SIGNALS) as signals:
            dispatcher = Dispatcher(settings.dispatcher, amqp, formats, signals, _tell)
            status = dispatcher.run()
        if dispatcher.failure:
            notify(f"STATUS={dispatcher.failure}")
        return status


def _tell(state: str) -> None:
    Log("dispatcher").info("%s", state)
    notify(f"READY=1\nSTATUS={state}")
