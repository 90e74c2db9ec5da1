"""The places of the monitor's files: the record's directory, and the other files in it."""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from taskqueue.config import MonitorSettings
from taskqueue.config.postgresql import is_url
from taskqueue.errors import ConfigError
from taskqueue.monitor.store.lock import is_locked
from taskqueue.process import startup
from taskqueue.process.privileges import acting_with

#: The record's directory of a monitor that root starts.
SYSTEM: Final = Path("/var/lib/taskqueue/monitor")
_USERS: Final = "users.json"
_ACTIONS: Final = "actions.socket"


def database_url(settings: MonitorSettings, *, is_reader: bool = False) -> str | None:
    """Return the URL of the PostgreSQL database that has the record; None if the record's directory has it.

    is_reader -- whether the database is only read
    Raises ConfigError if psycopg is not installed.
    """
    if settings.database is None or not is_url(settings.database):
        return None
    if importlib.util.find_spec("psycopg") is None:
        raise ConfigError(
            ["section [monitor], option database: PostgreSQL needs psycopg; install python3-psycopg"]
        )
    return (settings.database_reader if is_reader else None) or settings.database


def _given(settings: MonitorSettings) -> Path | None:
    """Return the directory that the configuration names."""
    is_directory = settings.database is not None and not is_url(settings.database)
    return Path(settings.database or "") if is_directory else None


def own_directory(settings: MonitorSettings) -> Path:
    """Return the directory of the record that a monitor of this user keeps.

    Raises ConfigError if the user has no place for it.
    """
    if (given := _given(settings)) is not None:
        return given
    return SYSTEM if os.geteuid() == 0 else _home()


def directory_of_up(settings: MonitorSettings) -> Path:
    """Return the directory of the record that `taskqueue up` of this user keeps; see `own_directory`."""
    if (given := _given(settings)) is not None:
        return given
    return startup.state_of_up("the record", "monitor")


def directory_to_manage(settings: MonitorSettings) -> Path:
    """Return the directory whose users a command of this user manages; see `own_directory`.

    Root manages the system's, but that of `taskqueue up` while root runs it.
    """
    ups = directory_of_up(settings)
    return ups if os.geteuid() != 0 or _is_recorded(ups) else own_directory(settings)


def _is_recorded(directory: Path) -> bool:
    """Whether a monitor records there now."""
    try:
        return is_locked(directory)
    except OSError:
        return False


@contextmanager
def as_owner(directory: Path) -> Iterator[None]:
    """Let root act as the owner of a record's directory: files are the owner's, and no link misleads root.

    For a process with one thread. Nothing changes for other users, or if there is no directory.
    """
    try:
        owner = directory.stat()
    except OSError:
        owner = None
    if owner is None or os.geteuid() != 0:
        yield
        return
    with acting_with(owner.st_uid, owner.st_gid, [owner.st_gid]):
        yield


def own_token(state: Path) -> Path:
    """Return the path of the token of the monitor of `taskqueue up`, among the state of a user's programs."""
    return state / "taskqueue" / "monitor.token"


def _home() -> Path:
    return startup.state_home("the record") / "taskqueue" / "monitor"


def directory_to_read(settings: MonitorSettings) -> Path:
    """Return the directory of the record that a command of this user reads: its own, else the system's.

    Root reads that of `taskqueue up` only while it runs, or if the system has none.
    """
    if (given := _given(settings)) is not None:
        return given
    try:
        home = directory_of_up(settings)
    except ConfigError:
        return SYSTEM
    if os.geteuid() == 0:
        return home if _is_recorded(home) or not SYSTEM.is_dir() else SYSTEM
    return home if home.is_dir() or not os.path.lexists(SYSTEM.parent) else SYSTEM


def users_file(directory: Path) -> Path:
    """Return the path of the file of users and tokens."""
    return directory / _USERS


def actions_socket(directory: Path) -> Path:
    """Return the path of the socket at which the recorder is asked to act."""
    return directory / _ACTIONS


def host_and_port(listen: str) -> tuple[str, int]:
    """Return host and port of the option `listen`."""
    host, _, port = listen.rpartition(":")
    return host.strip("[]"), int(port)


def url(scheme: str, host: str, port: int) -> str:
    """Return the URL of a web process."""
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
