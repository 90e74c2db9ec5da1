"""The sources of the broker's address, for commands and clients alike."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from taskqueue import config, private_broker
from taskqueue.config import AmqpSettings, load_amqp
from taskqueue.errors import ConfigError

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
    except PermissionError:  # reported by the code that reads it, unless an address is given
        return SYSTEM_CONFIG


def given_address(amqp: str | None) -> AmqpSettings | None:
    """Return the address of a URL or the environment, if either is there."""
    url = amqp or os.environ.get(VARIABLE)
    return AmqpSettings.from_url(url) if url else None


def find_address(amqp: str | None, path: str | None) -> AmqpSettings:
    """Return the broker's address. Raises ConfigError if there is none."""
    return given_address(amqp) or config.load(path, (), as_root=False).amqp or private_address()


def private_address() -> AmqpSettings:
    """Return the address of the running private broker. Raises ConfigError if none runs."""
    try:
        url = private_broker.running()
    except ConfigError:  # there is no home directory
        url = None
    if url is None:
        raise ConfigError([NO_BROKER])
    return of_private_broker(url)


def of_private_broker(url: str) -> AmqpSettings:
    """Return the address of a private broker of this user; it is valid only for a process of this user."""
    return AmqpSettings.from_url(url, owner=os.geteuid())


@dataclass(frozen=True, slots=True)
class Source:
    """The options of a command that name the broker's address."""

    path: str | None  # the configuration file
    amqp: str | None = None  # a URL
    descriptor: int | None = None  # the file in which another process of ours has stored an address

    def given(self) -> AmqpSettings | None:
        """Return the stored address, or that of the command line or environment, if there is one."""
        return given_address(self.amqp) if self.descriptor is None else stored(self.descriptor)

    def find(self) -> AmqpSettings:
        """Return the address. Raises ConfigError if there is none."""
        return self.given() or find_address(None, self.path)

    def read(self) -> AmqpSettings:
        """Return the stored address, or that of the configuration file, which is checked."""
        found = load_amqp(self.path) if self.descriptor is None else stored(self.descriptor)
        if found is None:
            raise ConfigError([NO_BROKER])
        return found


# --- addresses passed to other processes, out of sight ---


def store(amqp: AmqpSettings) -> int:
    """Write an address with its password to a nameless file; return its inheritable descriptor."""
    descriptor = os.memfd_create("amqp")
    os.write(descriptor, amqp.to_json().encode())
    os.set_inheritable(descriptor, True)
    return descriptor


def store_instead(descriptor: int, amqp: AmqpSettings) -> None:
    """Replace the address in a nameless file, for all processes that have it open."""
    text = amqp.to_json().encode().ljust(os.fstat(descriptor).st_size)
    os.pwrite(descriptor, text, 0)  # in one write: another process may read it now


def stored(descriptor: int) -> AmqpSettings:
    """Return the address that `store` wrote."""
    return AmqpSettings.from_json(os.pread(descriptor, 65_536, 0))
