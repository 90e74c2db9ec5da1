"""Options that several commands have, and where a broker's address comes from."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import click

from taskqueue import config
from taskqueue.broker import private
from taskqueue.config import AmqpSettings
from taskqueue.errors import ConfigError

SYSTEM_CONFIG: Final = "/etc/taskqueue/config.ini"
VARIABLE: Final = "TASKQUEUE_AMQP"

_NO_BROKER: Final = (
    "no broker: expected --amqp, TASKQUEUE_AMQP, or url or host in section [amqp] of the configuration "
    "file; or start one of your own with `taskqueue up`"
)

_F = TypeVar("_F", bound=Callable[..., Any])


def config_option(command: _F) -> _F:
    """Add -c FILE; the command gets its path, or None where there is no file at all."""
    return click.option(
        "-c",
        "--config",
        "path",
        metavar="FILE",
        callback=lambda _context, _option, value: _config_path(value),
        help=f"The configuration file; default {SYSTEM_CONFIG}, if that exists.",
    )(command)


def amqp_option(command: _F) -> _F:
    """Add --amqp URL."""
    return click.option(
        "--amqp",
        metavar="URL",
        help="The broker, as amqp://user:password@host:port/vhost. Others on this machine can see a "
        f"password that is given so; the variable {VARIABLE} or the configuration file keeps it to yourself.",
    )(command)


def daemon_options(command: _F) -> _F:
    """Add what the daemons have in common."""
    command = click.option("--amqp-fd", type=int, hidden=True)(command)
    command = click.option(
        "-p", "--pidfile", metavar="FILE", help="Write the process's id there, and lock it."
    )(command)
    command = click.option("-f", "--foreground", is_flag=True, help="Stay in the foreground.")(command)
    return amqp_option(config_option(command))


def _config_path(value: str | None) -> str | None:
    if value is not None:
        return str(Path(value).absolute())
    return SYSTEM_CONFIG if Path(SYSTEM_CONFIG).exists() else None


def given_address(amqp: str | None) -> AmqpSettings | None:
    """Return the address of --amqp or the environment, if either is there."""
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
    url = private.running()
    if url is None:
        raise ConfigError([_NO_BROKER])
    return AmqpSettings.from_url(url)


# --- addresses that are handed on to other processes, and seen by nobody ---


def store(amqp: AmqpSettings) -> int:
    """Put an address, with its password, into a nameless file; return its inheritable descriptor."""
    descriptor = os.memfd_create("amqp")
    os.write(descriptor, amqp.to_json().encode())
    os.set_inheritable(descriptor, True)
    return descriptor


def stored(descriptor: int) -> AmqpSettings:
    """Return the address that `store` put away."""
    return AmqpSettings.from_json(os.pread(descriptor, 65_536, 0))


def reader(descriptor: int | None, path: str | None) -> Callable[[], AmqpSettings]:
    """Return a function that reads the address, from the nameless file or from the configuration."""

    def read() -> AmqpSettings:
        found = stored(descriptor) if descriptor is not None else file_address(path)
        if found is None:
            raise ConfigError([_NO_BROKER])
        return found

    return read


def hide_address(amqp: str | None, amqp_fd: int | None, arguments: list[str]) -> int | None:
    """Return the descriptor of a stored address; where one is in sight, begin anew without it.

    Arguments can be read by everybody on the machine, and the environment a process was started with
    stays in its memory, and that of all its children, for good.
    """
    if amqp_fd is not None:
        os.set_inheritable(amqp_fd, False)
        return amqp_fd
    given = given_address(amqp)
    if given is not None:
        begin_anew(arguments, given)
    return None


def begin_anew(arguments: list[str], amqp: AmqpSettings) -> NoReturn:
    """Execute `taskqueue` with these arguments in this process's place; the address is stored away."""
    descriptor = store(amqp)
    command = [*own_command(), *arguments, "--amqp-fd", str(descriptor)]
    os.execve(sys.executable, command, environment())  # noqa: S606 -- no shell is wanted


def own_command() -> list[str]:
    """Return how to run this very `taskqueue`; -P keeps the current directory out of the modules' path."""
    return [sys.executable, "-P", "-m", "taskqueue"]


def environment() -> dict[str, str]:
    """Return the environment without the address."""
    return {name: value for name, value in os.environ.items() if name != VARIABLE}


def daemon_arguments(name: str, path: str | None, *, foreground: bool, pidfile: str | None) -> list[str]:
    """Return the arguments of a daemon's command, without the address."""
    arguments = [name]
    if path is not None:
        arguments += ["--config", path]
    if pidfile is not None:
        arguments += ["--pidfile", pidfile]
    return [*arguments, "--foreground"] if foreground else arguments
