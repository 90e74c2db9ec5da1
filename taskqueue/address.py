"""Where the broker's address comes from, for commands and clients alike."""

import os
from pathlib import Path
from typing import Final

from taskqueue import config
from taskqueue.config import AmqpSettings
from taskqueue.errors import ConfigError
from taskqueue.private_broker import node

SYSTEM_CONFIG: Final = "/etc/taskqueue/config.ini"
VARIABLE: Final = "TASKQUEUE_AMQP"

NO_BROKER: Final = (
    "no broker: expected --amqp, TASKQUEUE_AMQP, or url or host in section [amqp] of the configuration "
    "file; or start one of your own with `taskqueue up`"
)


def config_path(given: str | None) -> str | None:
    """Return the path of the configuration file: the one that is given, or the system's if it exists."""
    if given is not None:
        path = Path(given)
        # Without `..`: a daemon's user may have no right to search the directory that the command ran in.
        return str(path if path.is_absolute() else path.parent.resolve() / path.name)
    try:
        return SYSTEM_CONFIG if Path(SYSTEM_CONFIG).exists() else None
    except PermissionError:  # what reads it says so, unless the address is given
        return SYSTEM_CONFIG


def given_address(amqp: str | None) -> AmqpSettings | None:
    """Return the address of a URL or the environment, if either is there."""
    url = amqp or os.environ.get(VARIABLE)
    return AmqpSettings.from_url(url) if url else None


def find_address(amqp: str | None, path: str | None) -> AmqpSettings:
    """Return the broker's address; ConfigError where nobody says it."""
    return given_address(amqp) or file_address(path) or private_address()


def file_address(path: str | None) -> AmqpSettings | None:
    """Return the address that a configuration file names, if it does."""
    return config.load(path, (), as_root=False).amqp


def private_address() -> AmqpSettings:
    """Return the address of the private broker that is running; ConfigError if none is."""
    try:
        url = node.running()
    except ConfigError:  # there is no place where it could be
        url = None
    if url is None:
        raise ConfigError([NO_BROKER])
    return of_private_broker(url)


def of_private_broker(url: str) -> AmqpSettings:
    """Return the address of a private broker of this user; nobody else is told the password there."""
    return AmqpSettings.from_url(url, owner=os.geteuid())
