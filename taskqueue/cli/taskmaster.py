"""The commands of Taskmaster, under their old names: tm-master, tm-slave, tm-spawn, tm-run."""

import sys
from typing import Any, Final, NoReturn

import click

from taskqueue import cli
from taskqueue.cli.options import WholeNumber, as_words, number, together
from taskqueue.feed.target import GET_JOBS, HANDLE_JOB

_HELP = {"help_option_names": ["-h", "--help"]}
_THREADS = 4  # of each worker, as Taskmaster's slaves had a pool of them


class _Command(click.Command):
    """A command that starts and ends as `taskqueue` does."""

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        """Run the command of this process's arguments, and exit."""
        cli.run_command(self, f"tm-{self.name}", sys.argv[1:])


def _address(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not value.startswith(("amqp://", "amqps://")):
        raise click.BadParameter(
            f"jobs go through RabbitMQ now: expected amqp://user:password@host:port/vhost, found {value!r}"
        )
    return value


_common: Final = together(
    click.option("--pickle", is_flag=True, help="Send jobs as signed pickles."),
    click.option("--no-progress", is_flag=True, help="Show no progress."),
    click.option(
        "--log-level", default="ERROR", show_default=True, help="Minimum severity of logged messages."
    ),
    click.option("--address", metavar="URL", callback=_address, help="The broker, as amqp://..."),
)

_working: Final = together(
    click.option("--timeout", type=WholeNumber(min=0), metavar="MS", help="Accepted and ignored."),
    number(
        "--retries",
        meaning="Accepted and ignored: workers wait for the broker without a limit.",
        least=0,
    ),
    number("--threads", meaning="Number of jobs a worker performs at a time, in threads.", default=_THREADS),
)

_feeding: Final = together(
    number("--size", meaning="Maximum number of jobs in flight.", default=10_000),
    click.option("--reset", is_flag=True, help="Discard the state, and start over."),
)


def _words(given: dict[str, Any], *names: str) -> list[str]:
    """Return the options for `taskqueue`: --amqp for --address, and the common ones."""
    return as_words(amqp=given["address"], **{name: given[name] for name in ("log_level", "pickle", *names)})


@click.command(cls=_Command, context_settings=_HELP)
@click.argument("callback")
@click.argument("options", metavar="[KEY=VALUE]...", nargs=-1)
@_feeding
@_common
def master(callback: str, options: tuple[str, ...], **given: Any) -> None:
    """Feed the jobs of CALLBACK, as `taskqueue feed` does."""
    cli.main(["feed", *_words(given, "size", "reset", "no_progress"), "--", callback, *options])


@click.command(cls=_Command, context_settings=_HELP)
@click.argument("callback")
@_working
@_common
def slave(callback: str, **given: Any) -> None:
    """Run one worker, as `taskqueue work` does."""
    _work(callback, 1, given)


@click.command(cls=_Command, context_settings=_HELP)
@click.argument("callback")
@click.argument("processes", type=WholeNumber(min=1))
@_working
@_common
def spawn(callback: str, processes: int, **given: Any) -> None:
    """Run workers, as `taskqueue work` does."""
    _work(callback, processes, given)


def _work(callback: str, processes: int, given: dict[str, Any]) -> None:
    words = _words(given, "threads")
    cli.main(["work", *words, "--show-output", "--workers", str(processes), "--", callback])


@click.command(cls=_Command, context_settings=_HELP)
@click.argument("script")
@click.argument("processes", type=WholeNumber(min=1))
@click.argument("options", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--get-jobs-callback", metavar="NAME", default=GET_JOBS, show_default=True)
@click.option("--handle-job-callback", metavar="NAME", default=HANDLE_JOB, show_default=True)
@_feeding
@_working
@_common
def run(script: str, processes: int, options: tuple[str, ...], **given: Any) -> None:
    """Feed jobs and run their workers on this machine, as `taskqueue run` does."""
    callbacks = ("get_jobs_callback", "handle_job_callback")
    words = _words(given, *callbacks, "size", "reset", "no_progress", "threads")
    cli.main(["run", *words, "--show-output", "--", script, str(processes), *options])
