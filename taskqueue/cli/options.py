"""Options that several commands have, and where a broker's address comes from."""

import math
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import click

from taskqueue import address
from taskqueue.config import AmqpSettings, load_amqp
from taskqueue.errors import LONGEST_DELAY, ConfigError

#: Other commands find these here, beside the options that they go with.
VARIABLE, SYSTEM_CONFIG = address.VARIABLE, address.SYSTEM_CONFIG
given_address, find_address = address.given_address, address.find_address
file_address, private_address = address.file_address, address.private_address

_F = TypeVar("_F", bound=Callable[..., Any])


class Seconds(click.ParamType):  # type: ignore[type-arg] # generic in newer versions only
    """A number of seconds, at most ten years of them."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number; click reports anything else."""
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not 0 <= seconds <= LONGEST_DELAY:
            self.fail(
                f"expected a number of seconds from 0 to {LONGEST_DELAY:.0f}, found {value!r}.", param, ctx
            )
        return seconds


def config_option(command: _F) -> _F:
    """Add -c FILE; the command gets its path, or None where there is no file at all."""
    return click.option(
        "-c",
        "--config",
        "path",
        metavar="FILE",
        callback=lambda _context, _option, value: address.config_path(value),
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


# --- addresses that are handed on to other processes, and seen by nobody ---


def store(amqp: AmqpSettings) -> int:
    """Put an address, with its password, into a nameless file; return its inheritable descriptor."""
    descriptor = os.memfd_create("amqp")
    os.write(descriptor, amqp.to_json().encode())
    os.set_inheritable(descriptor, True)
    return descriptor


def store_instead(descriptor: int, amqp: AmqpSettings) -> None:
    """Put another address into a nameless file, for all who have it open."""
    text = amqp.to_json().encode()
    os.pwrite(
        descriptor, text.ljust(os.fstat(descriptor).st_size), 0
    )  # in one piece: somebody may be reading


def stored(descriptor: int) -> AmqpSettings:
    """Return the address that `store` put away."""
    return AmqpSettings.from_json(os.pread(descriptor, 65_536, 0))


def reader(descriptor: int | None, path: str | None) -> Callable[[], AmqpSettings]:
    """Return a function that reads the address, from the nameless file or from a checked configuration."""

    def read() -> AmqpSettings:
        found = stored(descriptor) if descriptor is not None else load_amqp(path)
        if found is None:
            raise ConfigError([address.NO_BROKER])
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
