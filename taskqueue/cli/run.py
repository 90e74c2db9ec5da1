"""`taskqueue run`."""

import hashlib
import math
import os
import secrets
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from taskqueue import config
from taskqueue.address import of_private_broker
from taskqueue.cli import jobs, options
from taskqueue.cli.feed import feeding_options
from taskqueue.cli.own_broker import Household
from taskqueue.config import AmqpSettings, LoggingSettings
from taskqueue.errors import ConfigError, ExitStatus
from taskqueue.feed.state import StateFile
from taskqueue.feed.target import GET_JOBS, HANDLE_JOB, Target
from taskqueue.private_broker.node import PrivateBroker
from taskqueue.private_broker.state import default_state_dir
from taskqueue.process import logs
from taskqueue.process.children import Exit
from taskqueue.process.daemon import Readiness, foreground
from taskqueue.process.supervisor_loop import Child, report

_STOP_TIMEOUT: Final = 30.0  # seconds that the workers may take to leave when nothing is left for them
_TRIED_AGAIN: Final = (ExitStatus.UNAVAILABLE, ExitStatus.SOFTWARE)


class FeedingChild(Child):
    """The feeder, which ends when it is through; killed, it is started again and goes on."""

    status = ExitStatus.PAUSED

    @property
    def has_ended(self) -> bool:
        """Whether it ran to its end."""
        return self.is_leaving and not self.pids

    @property
    def vital(self) -> int:
        """Nobody: its end is no failure to start."""
        return 0

    def bury(self, end: Exit) -> bool:
        """Note the end of the process, which may be the feed's."""
        if end.pid not in self.pids:
            return False
        if end.code >= 0 and end.code not in _TRIED_AGAIN:
            self.is_leaving, self.status = True, _as_status(end.code)
        delay = self._slot.vacate(expected=self.is_leaving)
        if not self.is_leaving:
            report(self._log, self._slot.name, end, delay)
        return True


class Workshop(Household):
    """What `taskqueue run` keeps running until the feed ends: feeder, workers, and a broker of our own."""

    def __init__(self, amqp: AmqpSettings, broker: PrivateBroker | None, commands: list[list[str]]) -> None:
        """Prepare to run the commands of the feeder and of the workers, without the broker's address."""
        super().__init__("run", math.inf, amqp, broker)
        feeder, workers = (partial(self._execute, command) for command in commands)
        self._feeding = FeedingChild("feeder", feeder)
        self._workers = Child("workers", workers)
        self._is_ending = False

    def run(self, readiness: Readiness) -> ExitStatus:
        """Keep both running; return how the feed ended, or why its workers could not begin."""
        return super().run(readiness) or self._feeding.status

    def begin(self) -> None:
        """Start both."""
        self.members += [self._feeding, self._workers]

    def _execute(self, command: list[str]) -> int:
        name, *rest = command
        arguments = [*options.own_command(), name, "--amqp-fd", str(self.descriptor), *rest]
        os.execve(sys.executable, arguments, options.environment())  # noqa: S606 -- no shell is wanted

    def stop(self, timeout: float) -> None:
        """Begin the end: the feeder first, which needs the workers to finish what is out."""
        if self._is_ending:
            super().stop(timeout)
        else:
            self._stop_at = math.inf
            self._feeding.quiet()

    def _converge(self) -> None:
        if self._feeding.has_ended and not self._is_ending:
            self._is_ending = True
            self.stop(_STOP_TIMEOUT)
        super()._converge()

    @property
    def needs_broker(self) -> bool:
        """Until the feeder has ended, who needs it to finish what is out."""
        return not self._is_ending


@click.command(short_help="Feed jobs and run their workers, on this machine.")
@click.argument("target")
@click.argument("workers", type=click.IntRange(1, 10_000))
@click.argument("given", metavar="[KEY=VALUE]...", nargs=-1, callback=jobs.arguments)
@click.option(
    "--get-jobs-callback", metavar="NAME", default=GET_JOBS, help="The function that yields the jobs."
)
@click.option(
    "--handle-job-callback", metavar="NAME", default=HANDLE_JOB, help="The function that takes each."
)
@jobs.threads_option
@feeding_options
@jobs.pickle_options
@jobs.output_option
@jobs.log_level_option("warning")
@options.config_option
@options.amqp_option
def run(
    target: str,
    workers: int,
    given: dict[str, str],
    *,
    get_jobs_callback: str,
    handle_job_callback: str,
    path: str | None,
    amqp: str | None,
    **values: Any,
) -> None:
    """Feed the jobs of TARGET to WORKERS worker processes on this machine, until all are done.

    TARGET is MODULE or FILE.py; get_jobs in it is called with the KEY=VALUE arguments and yields the jobs,
    handle_job is called with each. Started again, it goes on where it ended, however it ended.

    The broker is a RabbitMQ node for this run alone, unless one is configured.

    Exit status: as of `taskqueue feed`.
    """
    if ":" in target:
        raise click.UsageError(
            "TARGET is MODULE or FILE.py; --get-jobs-callback and --handle-job-callback name its functions"
        )
    logs.set_up(LoggingSettings(level=values["log_level"].lower()), "run")
    targets = f"{target}:{get_jobs_callback}", f"{target}:{handle_job_callback}"
    parsed = [Target.parse(text, "") for text in targets]
    for each in parsed:
        jobs.check(each)
    state = jobs.state_path(parsed[0], values["state"])
    if values["reset"]:  # here, once: a feeder that was killed is started again
        with StateFile(state) as file:
            file.remove()
    if values["pickle"] and values["key_file"] is None and jobs.KEY_VARIABLE not in os.environ:
        values["key_file"] = _make_key(Path(f"{state}.key"))
    commands = _commands(targets, workers, given, values | {"path": path})
    address = options.given_address(amqp) or config.load(path, (), as_root=False).amqp
    if address is not None:
        sys.exit(Workshop(address, None, commands).run(foreground()))
    sys.exit(_with_own_broker(state, commands))


def _with_own_broker(state: Path, commands: list[list[str]]) -> int:
    """Run on a private broker, whose data is kept as long as there is something to go on with."""
    directory = default_state_dir().parent / "feeds" / hashlib.sha256(os.fsencode(state)).hexdigest()[:16]
    with PrivateBroker(directory) as broker:
        status = Workshop(of_private_broker(broker.url), broker, commands).run(foreground())
        is_through = status in (ExitStatus.OK, ExitStatus.FAILED) or not state.exists()
        if is_through:
            broker.kill()  # quicker than an end in good order, and its data goes with it
    if is_through:
        shutil.rmtree(directory, ignore_errors=True)
    return status


def _make_key(path: Path) -> str:
    """Make a key that only its owner can read, unless an earlier run has made it; return its path."""
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    except FileExistsError:
        pass
    except OSError as error:
        raise ConfigError([f"key file {path}: {error.strerror}"]) from None
    return str(path)


def _commands(
    targets: tuple[str, str], workers: int, given: dict[str, str], values: dict[str, Any]
) -> list[list[str]]:
    """Return the command lines of the feeder and of the workers."""
    both = ["--log-level", values["log_level"]]
    both += ["--pickle"] if values["pickle"] else []
    both += ["--key-file", values["key_file"]] if values["pickle"] and values["key_file"] else []
    both += ["--config", values["path"]] if values["path"] else []
    numbers = ("size", "chunk_max", "retries", "max_failures", "total", "state", "progress_file")
    feed = [
        word for name in numbers if values[name] is not None for word in (_option(name), str(values[name]))
    ]
    feed += ["--no-progress"] if values["no_progress"] else []
    feed += ["--failed"] if values["only_failed"] else []
    arguments = [f"{name}={value}" for name, value in given.items()]
    work = ["--workers", str(workers), "--threads", str(values["threads"])]
    work += ["--show-output"] if values["show_output"] else []
    return [
        ["feed", *both, *feed, "--workers", str(workers), "--", targets[0], *arguments],
        ["work", *both, *work, "--", targets[1]],
    ]


def _as_status(code: int) -> ExitStatus:
    return ExitStatus(code) if code in list(ExitStatus) else ExitStatus.SOFTWARE


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
