"""Options that `taskqueue feed`, `work` and `run` share, and the loading of targets."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import click

from taskqueue.cli.options import Decorator, number, together
from taskqueue.errors import ConfigError, TargetError, TaskError
from taskqueue.feed.target import GET_JOBS, Target
from taskqueue.feed.wire import check_key
from taskqueue.process import children

KEY_VARIABLE: Final = "TASKQUEUE_FEED_KEY"

T = TypeVar("T")


def _key_values(
    _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    wrong = [value for value in values if not value.partition("=")[0].isidentifier() or "=" not in value]
    if wrong:
        raise click.BadParameter(f"expected key=value, found {wrong[0]!r}")
    return dict(value.split("=", 1) for value in values)


given_argument: Final = click.argument("given", metavar="[KEY=VALUE]...", nargs=-1, callback=_key_values)

type_option: Final = click.option(
    "--type",
    metavar="NAME",
    help="The name by which feeder and workers find each other; by default the module's.",
)

pickle_options: Final = together(
    click.option("--pickle", is_flag=True, help="Send jobs as signed pickles, for what JSON cannot express."),
    click.option(
        "--key-file",
        type=click.Path(exists=True, dir_okay=False),
        metavar="FILE",
        help=f"With --pickle: the key that feeder and workers share, if it is not in {KEY_VARIABLE}.",
    ),
)

threads_option: Final = number(
    "--threads",
    meaning="Number of jobs a process performs at a time: in threads, or as coroutines if handle_job is one.",
    most=10_000,
    default=1,
)

output_option: Final = click.option(
    "--show-output",
    is_flag=True,
    help="Write what workers print to stdout, at any log level; 100 lines a second of each at most.",
)

feeding_options: Final = together(
    number("--size", meaning="Maximum number of jobs in flight.", default=10_000),
    number(
        "--chunk-max",
        meaning="Maximum number of jobs in a chunk; the actual number adapts to half a second of work.",
        default=10_000,
    ),
    number("--retries", meaning="Number of further runs of a job that raised.", least=0, default=0),
    number("--max-failures", meaning="Stop after N failed jobs."),
    click.option("--failed", "only_failed", is_flag=True, help="Feed only the jobs that failed."),
    click.option("--reset", is_flag=True, help="Discard the state, and start over."),
    click.option(
        "--state",
        type=click.Path(),
        metavar="FILE",
        help="The state file; by default ./MODULE.state.",
    ),
    number("--total", meaning="Total number of jobs, to show the time left.", least=0),
    click.option("--no-progress", is_flag=True, help="Show no progress."),
    click.option("--progress-file", type=click.Path(), metavar="FILE", help="Append progress as JSON lines."),
)


def log_level_option(default: str) -> Decorator:
    """Return --log-level."""
    return click.option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
        default=default,
        show_default=True,
        help="Minimum severity of logged messages.",
    )


def find_key(key_file: str | None, *, pickle: bool) -> bytes | None:
    """Return the key that signs pickles, None without --pickle. Raises ConfigError if it is missing."""
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


def state_path(target: Target, given: str | None) -> Path:
    """Return the path of a feed's state file."""
    name = target.module if target.function == GET_JOBS else f"{target.module}.{target.function}"
    return Path(given or f"{name}.state").absolute()


def check(target: Target) -> None:
    """Load the target in a child process. Raises TargetError if that fails."""
    look_at(target, lambda: bool(target.load()))


def look_at(target: Target, look: Callable[[], T]) -> T:
    """Run `look`, which examines the user's code, in a child process; return its result."""

    def found() -> T:
        try:
            return look()
        except (TargetError, TaskError):
            raise
        except Exception as error:  # noqa: BLE001 -- the user's code may raise anything
            raise TargetError(f"target {target}: {type(error).__name__}: {error}") from None

    try:
        return children.ask(found)
    except ChildProcessError as error:
        raise TargetError(f"target {target}: the process that loaded it ended: {error.strerror}") from None
