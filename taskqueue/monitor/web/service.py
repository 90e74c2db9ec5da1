"""The objects that the handlers of all requests share."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from taskqueue.config import MonitorSettings
from taskqueue.monitor import place
from taskqueue.monitor.web.hub import Hub
from taskqueue.monitor.web.login import Logins
from taskqueue.monitor.web.metrics import Metrics
from taskqueue.monitor.web.readers import DEADLINE, Readers
from taskqueue.monitor.web.rights import OWN_RIGHTS
from taskqueue.monitor.web.schedule_names import ScheduleNames
from taskqueue.monitor.web.sessions import Sessions
from taskqueue.monitor.web.users import UserFile, of_token


@dataclass(frozen=True, slots=True)
class WebSettings:
    """The settings of the web process.

    Args:
        directory: of the record.
        host: the address to listen on.
        port: the TCP port; 0 for a free one.
        token: the secret of a token with all rights; None for none.
        deadline: seconds for a query.
        proxy_header: the header in which the proxy at its socket names the user; None for no proxy.
        database: the URL of the PostgreSQL database that has the record; None: the directory has it.
    """

    directory: Path
    host: str = "127.0.0.1"
    port: int = 0
    token: str | None = None
    deadline: float = DEADLINE
    proxy_header: str | None = None
    database: str | None = None

    @classmethod
    def of(
        cls,
        settings: MonitorSettings,
        directory: Path,
        token: str | None = None,
        database: str | None = None,
    ) -> Self:
        """Return what a monitor's web process is told by the section [monitor]."""
        host, port = place.host_and_port(settings.listen)
        return cls(directory, host, port, token, proxy_header=settings.proxy_user_header, database=database)


class Service:
    """Users, the record's readers and the counters."""

    def __init__(self, settings: WebSettings) -> None:
        own = of_token(OWN_RIGHTS, settings.token) if settings.token else None
        self.users = UserFile(place.users_file(settings.directory))
        self.logins = Logins(self.users, own)
        self.actions = place.actions_socket(settings.directory)
        self.readers = Readers(settings.directory, settings.deadline, settings.database)
        self.schedules = ScheduleNames(self.actions)
        self.hub = Hub(self.readers)
        self.sessions = Sessions()
        self.metrics = Metrics(time.time())

    def close(self) -> None:
        """End the threads."""
        self.logins.close()
        self.readers.close()
