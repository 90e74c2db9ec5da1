"""The place of the database of workflows, and opening it."""

import importlib.util
import os
import pwd
from pathlib import Path
from typing import Final

from taskqueue.config import FlowSettings
from taskqueue.config.postgresql import is_url
from taskqueue.errors import ConfigError
from taskqueue.flow.store import SqliteStore, Store
from taskqueue.process.startup import state_home

#: The directory of the system's flow process, and the name of the file in it.
SYSTEM: Final = Path("/var/lib/taskqueue/flow")
_FILE: Final = "flow.db"


def own_path(settings: FlowSettings) -> Path | None:
    """Return the path of the file of a flow process of this user; None if PostgreSQL has the workflows.

    Raises ConfigError if the user has no place for it, or psycopg is needed and is not installed.
    """
    if settings.database is None:
        is_system = os.geteuid() == 0 or os.access(SYSTEM, os.W_OK)  # the package made it for its daemons
        return (SYSTEM if is_system else state_home("workflows") / "taskqueue" / "flow") / _FILE
    if not is_url(settings.database):
        return Path(settings.database)
    if importlib.util.find_spec("psycopg") is None:
        raise ConfigError(
            ["section [flow], option database: PostgreSQL needs psycopg; install python3-psycopg"]
        )
    return None


def prepare(path: Path, user: str) -> None:
    """Make the directory of a database, if it is missing. Made by root, it is the user's.

    Raises ConfigError if that is impossible.
    """
    directory = path.parent
    try:
        if not directory.is_dir():
            owner = pwd.getpwnam(user) if os.geteuid() == 0 else None
            directory.mkdir(0o700, parents=True)
            if owner is not None:
                os.chown(directory, owner.pw_uid, owner.pw_gid)
    except KeyError as error:
        raise ConfigError([f"the flow process needs a user of its own: {error.args[0]}"]) from None
    except OSError as error:
        raise ConfigError([f"the directory of workflows {directory}: {error.strerror}"]) from None


def open_store(settings: FlowSettings) -> Store:
    """Open the database of workflows, and make it if it is missing.

    Raises FlowUnavailable, FlowDamaged, and what `own_path` raises.
    """
    path = own_path(settings)
    if path is not None:
        return SqliteStore(path)
    from taskqueue.flow.postgresql import PostgresqlStore  # noqa: PLC0415 -- not everybody has psycopg

    return PostgresqlStore(settings.database or "")
