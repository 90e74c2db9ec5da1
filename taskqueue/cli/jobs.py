"""Options that `taskqueue feed`, `work` and `run` share."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from taskqueue.errors import ConfigError, ExitStatus, TargetError
from taskqueue.feed.codec import check_key
from taskqueue.feed.target import GET_JOBS, Target
from taskqueue.process import children, startup

KEY_VARIABLE: Final = "TASKQUEUE_FEED_KEY"

_F = TypeVar("_F", bound=Callable[..., Any])


def type_option(command: _F) -> _F:
    """Add --type."""
    return click.option(
        "--type",
        "type_",
        metavar="NAME",
        help="The name by which feeder and workers find each other; by default the module's.",
    )(command)


def pickle_options(command: _F) -> _F:
    """Add --pickle and --key-file."""
    command = click.option(
        "--key-file",
        type=click.Path(exists=True, dir_okay=False),
        metavar="FILE",
        help=f"With --pickle: the key that feeder and workers share, if it is not in {KEY_VARIABLE}.",
    )(command)
    return click.option(
        "--pickle", is_flag=True, help="Send jobs as signed pickles, for what JSON cannot express."
    )(command)


def log_level_option(default: str) -> Callable[[_F], _F]:
    """Add --log-level."""
    return click.option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
        default=default,
        show_default=True,
        help="The least severe messages to log.",
    )


def find_key(key_file: str | None, *, pickle: bool) -> bytes | None:
    """Return the key to sign pickles with, None where there are none; ConfigError where one is missing."""
    given = os.environ.pop(KEY_VARIABLE, None)
    if not pickle:
        return None
    if key_file is not None:
        try:
            key = Path(key_file).read_bytes().strip()
        except OSError as error:
            raise ConfigError([f"key file {key_file}: {error.strerror}"]) from None
    elif given:
        key = given.encode()
    else:
        raise ConfigError(
            [f"--pickle needs a key that feeder and workers share: expected --key-file or {KEY_VARIABLE}"]
        )
    check_key(key)
    return key


def threads_option(command: _F) -> _F:
    """Add --threads."""
    return click.option(
        "--threads",
        type=click.IntRange(1, 10_000),
        default=1,
        show_default=True,
        help="Jobs that each process performs at a time, in threads, or as coroutines if handle_job is one.",
    )(command)


def output_option(command: _F) -> _F:
    """Add --show-output."""
    return click.option(
        "--show-output",
        is_flag=True,
        help="Write what workers print to stdout, at any log level; 100 lines a second of each at most.",
    )(command)


def arguments(
    _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    """Return key=value arguments as a dict."""
    wrong = [value for value in values if not value.partition("=")[0].isidentifier() or "=" not in value]
    if wrong:
        raise click.BadParameter(f"expected key=value, found {wrong[0]!r}")
    return dict(value.split("=", 1) for value in values)


def state_path(target: Target, given: str | None) -> Path:
    """Return where a feed's state is kept."""
    name = target.module if target.function == GET_JOBS else f"{target.module}.{target.function}"
    return Path(given or f"{name}.state").absolute()


def check(target: Target) -> None:
    """Load the target in a process that ends at once; TargetError where that fails."""

    def load() -> int:
        try:
            target.load()
        except TargetError as error:
            startup.complain(f"taskqueue: {error}\n")
            return error.status
        return ExitStatus.OK

    _, status = os.waitpid(children.fork(load), 0)
    if status:
        sys.exit(os.waitstatus_to_exitcode(status))
