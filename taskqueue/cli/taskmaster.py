"""The commands of Taskmaster, under their old names: tm-master, tm-slave, tm-spawn, tm-run."""

import sys
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import click

from taskqueue import cli
from taskqueue.feed.target import GET_JOBS, HANDLE_JOB

_F = TypeVar("_F", bound=Callable[..., Any])

_HELP = {"help_option_names": ["-h", "--help"]}
_THREADS = 4  # of each worker, as Taskmaster's slaves had a pool of them


class _Command(click.Command):
    """A command that begins, and ends, as `taskqueue` does."""

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        """Run the command of this process's arguments, and exit."""
        cli.run_command(self, f"tm-{self.name}", sys.argv[1:])


def _address(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not value.startswith(("amqp://", "amqps://")):
        raise click.BadParameter(
            f"jobs go through RabbitMQ now: expected amqp://user:password@host:port/vhost, found {value!r}"
        )
    return value


def _common(command: _F) -> _F:
    """Add the options that all of them have."""
    for option in (
        click.option("--address", metavar="URL", callback=_address, help="The broker, as amqp://..."),
        click.option(
            "--log-level", default="ERROR", show_default=True, help="The least severe messages to log."
        ),
        click.option("--no-progress", is_flag=True, help="Show no progress."),
        click.option("--pickle", is_flag=True, help="Send jobs as signed pickles."),
    ):
        command = option(command)
    return command


def _working(command: _F) -> _F:
    """Add the options of what works."""
    for option in (
        click.option(
            "--threads",
            type=click.IntRange(min=1),
            default=_THREADS,
            show_default=True,
            help="Jobs that each worker performs at a time, in threads.",
        ),
        click.option(
            "--retries",
            type=click.IntRange(min=0),
            metavar="N",
            help="Taken for Taskmaster's sake: workers wait for the broker for as long as it takes.",
        ),
        click.option("--timeout", type=click.IntRange(min=0), metavar="MS", help="As --retries."),
    ):
        command = option(command)
    return command


def _feeding(command: _F) -> _F:
    """Add the options of what feeds."""
    size = click.option(
        "--size", type=int, default=10_000, show_default=True, help="Jobs out at a time, at most."
    )
    return size(click.option("--reset", is_flag=True, help="Forget what is done, and start over.")(command))


def _arguments(address: str | None, log_level: str, *flags: tuple[str, bool]) -> list[str]:
    given = ["--log-level", log_level, *(["--amqp", address] if address else [])]
    return given + [name for name, is_given in flags if is_given]


def _flags(given: dict[str, bool]) -> list[tuple[str, bool]]:
    return [(f"--{name.replace('_', '-')}", given[name]) for name in ("reset", "no_progress", "pickle")]


@click.command(cls=_Command, context_settings=_HELP)
@click.argument("callback")
@click.argument("options", metavar="[KEY=VALUE]...", nargs=-1)
@_feeding
@_common
def master(
    callback: str, options: tuple[str, ...], address: str | None, log_level: str, size: int, **flags: bool
) -> None:
    """Feed the jobs of CALLBACK, as `taskqueue feed` does."""
    given = _arguments(address, log_level, *_flags(flags))
    cli.main(["feed", *given, "--size", str(size), "--", callback, *options])


@click.command(cls=_Command, context_settings=_HELP)
@click.argument("callback")
@_working
@_common
def slave(callback: str, **options: Any) -> None:
    """Run one worker, as `taskqueue work` does."""
    _work(callback, 1, options)


@click.command(cls=_Command, context_settings=_HELP)
@click.argument("callback")
@click.argument("processes", type=click.IntRange(min=1))
@_working
@_common
def spawn(callback: str, processes: int, **options: Any) -> None:
    """Run workers, as `taskqueue work` does."""
    _work(callback, processes, options)


def _work(callback: str, processes: int, options: dict[str, Any]) -> None:
    given = _arguments(options["address"], options["log_level"], ("--pickle", options["pickle"]))
    given += ["--workers", str(processes), "--threads", str(options["threads"]), "--show-output"]
    cli.main(["work", *given, "--", callback])


@click.command(cls=_Command, context_settings=_HELP)
@click.argument("script")
@click.argument("processes", type=click.IntRange(min=1))
@click.argument("options", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--get-jobs-callback", metavar="NAME", default=GET_JOBS, show_default=True)
@click.option("--handle-job-callback", metavar="NAME", default=HANDLE_JOB, show_default=True)
@_feeding
@_working
@_common
def run(
    script: str,
    processes: int,
    options: tuple[str, ...],
    *,
    get_jobs_callback: str,
    handle_job_callback: str,
    address: str | None,
    log_level: str,
    size: int,
    threads: int,
    **flags: bool,
) -> None:
    """Feed jobs and run their workers on this machine, as `taskqueue run` does."""
    given = _arguments(address, log_level, *_flags(flags))
    given += ["--get-jobs-callback", get_jobs_callback, "--handle-job-callback", handle_job_callback]
    cli.main(
        [
            "run",
            *given,
            "--show-output",
            "--threads",
            str(threads),
            "--size",
            str(size),
            "--",
            script,
            str(processes),
            *options,
        ]
    )
