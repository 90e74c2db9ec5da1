"""`taskqueue feed`, and what it shares with `work` and `run`."""

import sys
import traceback
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from taskqueue.cli import jobs, options
from taskqueue.cli.watching import watching
from taskqueue.config import LoggingSettings
from taskqueue.errors import TargetError
from taskqueue.feed.feeding import Feeding
from taskqueue.feed.options import FeedOptions
from taskqueue.feed.source import MainThread
from taskqueue.feed.target import GET_JOBS, Target, worker_type
from taskqueue.process import logs, startup

_F = TypeVar("_F", bound=Callable[..., Any])


def feeding_options(command: _F) -> _F:
    """Add what `feed` and `run` have in common."""
    for option in reversed(_FEEDING_OPTIONS):
        command = option(command)
    return command


_FEEDING_OPTIONS: Final = (
    click.option(
        "--size",
        type=click.IntRange(min=1),
        default=10_000,
        show_default=True,
        help="Jobs out at a time, at most.",
    ),
    click.option(
        "--chunk-max",
        type=click.IntRange(min=1),
        default=10_000,
        show_default=True,
        help="Jobs that travel together, at most; as many do as take a worker half a second.",
    ),
    click.option(
        "--retries",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="How often a job that raised is run again.",
    ),
    click.option(
        "--max-failures", type=click.IntRange(min=1), metavar="N", help="Stop when so many jobs have failed."
    ),
    click.option("--failed", "only_failed", is_flag=True, help="Feed only the jobs that failed."),
    click.option("--reset", is_flag=True, help="Forget what is done, and start over."),
    click.option(
        "--state",
        type=click.Path(),
        metavar="FILE",
        help="Where to keep what is done; by default ./MODULE.state.",
    ),
    click.option(
        "--total",
        type=click.IntRange(min=0),
        metavar="N",
        help="How many jobs there are, to show what is left.",
    ),
    click.option("--no-progress", is_flag=True, help="Show no progress."),
    click.option("--progress-file", type=click.Path(), metavar="FILE", help="Append progress as JSON lines."),
)


@click.command(short_help="Feed jobs from an iterator to workers.")
@click.argument("target")
@click.argument("given", metavar="[KEY=VALUE]...", nargs=-1, callback=jobs.arguments)
@feeding_options
@jobs.type_option
@jobs.pickle_options
@jobs.log_level_option("warning")
@options.config_option
@options.amqp_option
@click.option("--amqp-fd", type=int, hidden=True)
@click.option("--workers", type=int, default=0, hidden=True)
def feed(
    target: str,
    given: dict[str, str],
    *,
    path: str | None,
    amqp: str | None,
    amqp_fd: int | None,
    progress_file: str | None,
    no_progress: bool,
    **values: Any,
) -> None:
    """Feed the jobs of TARGET to the workers that `taskqueue work` runs, and wait until all are done.

    TARGET is MODULE, FILE.py, MODULE:FUNCTION or FILE.py:FUNCTION; without FUNCTION get_jobs is meant. It is
    called with the KEY=VALUE arguments and yields the jobs. Started again, the feed goes on where it ended,
    however it ended.

    Exit status: 0 all jobs are done; 1 all are done and some failed; 3 stopped by --max-failures; 65 TARGET
    cannot be used; 69 the broker cannot be reached; 73 the state cannot be used; 130 paused by Ctrl-C or
    SIGTERM.
    """
    logs.set_up(LoggingSettings(level=values["log_level"].lower()), "feed")
    feeding = _feeding(target, given, values)
    address = options.stored(amqp_fd) if amqp_fd is not None else options.find_address(amqp, path)
    main = MainThread()
    try:
        get_jobs = feeding.target.load()

        def work() -> int:
            with watching(progress_file, is_shown=not no_progress) as (watch, say):
                return feeding.run(get_jobs, main, address, watch, say)

        status = main.serve(work)
    except TargetError as error:
        if error.__cause__ is not None:
            startup.complain("".join(traceback.format_exception(error.__cause__)))
        raise
    sys.exit(status)


def _feeding(text: str, given: dict[str, str], values: dict[str, Any]) -> Feeding:
    target = Target.parse(text, GET_JOBS)
    numbers = {name: values[name] for name in ("size", "chunk_max", "retries", "total", "workers")}
    return Feeding(
        target,
        given,
        jobs.state_path(target, values["state"]),
        FeedOptions(
            worker_type(values["type_"] or target.module),
            max_failures=values["max_failures"] or 0,
            **numbers,
        ),
        jobs.find_key(values["key_file"], pickle=values["pickle"]),
        reset=values["reset"],
        only_failed=values["only_failed"],
    )
