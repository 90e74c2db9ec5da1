"""`taskqueue up` and `taskqueue run`: all processes on this machine, with a private broker."""

import contextlib
import hashlib
import math
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from taskqueue import config
from taskqueue.address import Source, of_private_broker, store, store_instead, stored
from taskqueue.cli import jobs, options
from taskqueue.cli.options import as_words
from taskqueue.config import AmqpSettings, LoggingSettings, MonitorSettings, Settings
from taskqueue.control import key
from taskqueue.errors import ConfigError, ExitStatus, TaskqueueError
from taskqueue.feed.state import StateFile
from taskqueue.feed.target import GET_JOBS, HANDLE_JOB, Target
from taskqueue.monitor import place
from taskqueue.monitor.daemon import prepare, read_plan
from taskqueue.private_broker import PrivateBroker
from taskqueue.private_broker.rabbitmq import default_state_dir
from taskqueue.process import children, logs, startup
from taskqueue.process.children import Exit
from taskqueue.process.daemon import Readiness, foreground
from taskqueue.process.supervisor_loop import Child, SupervisorLoop

_STOP_TIMEOUT: Final = 30.0  # seconds that the workers may take to end after the feed
_TRIED_AGAIN: Final = (ExitStatus.UNAVAILABLE, ExitStatus.SOFTWARE)


class Household(SupervisorLoop):
    """Keeps commands of `taskqueue` and a private broker running; the commands get the broker's address."""

    def __init__(
        self, name: str, stop_timeout: float, amqp: AmqpSettings, broker: PrivateBroker | None
    ) -> None:
        super().__init__(name, stop_timeout)
        self._descriptor = store(amqp)
        self._broker = broker

    def execute(self, arguments: Sequence[str]) -> int:
        """Replace this process by a command of `taskqueue`."""
        options.execute(arguments, self._descriptor)

    @property
    def needs_broker(self) -> bool:
        """Whether the private broker is restarted if it ends."""
        return not self.is_stopping

    def reap_other(self, end: Exit) -> None:
        """Restart the private broker on the same data if it has ended."""
        if self._broker is None or self._broker.alive or not self.needs_broker:
            return
        self.log.error("the private broker ended (%s); starting it again", end.cause)
        self._broker.start()
        amqp = of_private_broker(self._broker.url)
        if amqp != stored(self._descriptor):
            self.log.warning(
                "another process uses the private broker's port; the broker's is %d now", amqp.hosts[0][1]
            )
            store_instead(self._descriptor, amqp)
            self.reload()


# --- up ---


@click.command(short_help="Run everything on this machine, broker included.")
@options.broker_options
def up(source: Source) -> None:
    """Run everything on this machine, in the foreground: broker, dispatcher, worker pool and monitor.

    Workflows are kept, too. The broker is a RabbitMQ node of your own, on a loopback port, unless one is
    configured. Its data is kept under $XDG_STATE_HOME/taskqueue. Ctrl-C ends everything.
    """
    options.hide_address(source, ["up", *as_words(config=source.path)])
    settings = config.load(source.path, (), as_root=False)
    logs.set_up(settings.logging, "up")
    amqp = source.given() or settings.amqp
    if amqp is not None:
        sys.exit(_keep_daemons(source.path, amqp, None))
    with PrivateBroker() as broker:
        startup.complain(
            f"a private broker runs on 127.0.0.1:{broker.port}; "
            f"its address with password is in {broker.address_file}\n"
        )
        status = _keep_daemons(source.path, of_private_broker(broker.url), broker)
    sys.exit(status)


def _keep_daemons(path: str | None, amqp: AmqpSettings, broker: PrivateBroker | None) -> ExitStatus:
    settings = config.load(path, (), as_root=os.geteuid() == 0)
    stop_timeout = max(settings.workerpool.stop_timeout, settings.dispatcher.stop_timeout) + 5.0
    household = Household("up", stop_timeout, amqp, broker)
    monitor = _monitor(household, path, amqp)
    if path is None:  # in a directory that the monitor has
        _prepare_commands(household, settings)
    for name in ("dispatcher", "workerpool"):
        command = [name, *as_words(config=path, foreground=True)]
        household.members.append(Child(name, partial(household.execute, command)))
    if not settings.flow.is_wanted:  # else the dispatcher daemon has one
        household.members += _flow(household, path)
    household.members += monitor
    return household.run(foreground())


def _prepare_commands(household: Household, settings: Settings) -> None:
    """Make the control key, if it is missing: the pool takes commands, and the monitor gives them."""
    try:
        key.make_own(settings.workerpool)
    except TaskqueueError as error:
        household.log.warning("pools take no commands: %s", error)


class Optional(Child):
    """A daemon without which everything else works: nothing waits for it, no end of it ends others."""

    def __init__(self, name: str, run: Callable[[], int]) -> None:
        super().__init__(name, run)
        self.state = "is started"

    @property
    def main_pid(self) -> int:
        """None."""
        return 0


def _flow(household: Household, path: str | None) -> list[Child]:
    """Return a flow process, whose database is beside the private broker's data."""
    try:
        directory = startup.state_of_up("workflows", "flow")
    except TaskqueueError as error:
        household.log.warning("no workflows are kept: %s", error)
        return []
    command = ["flow", *as_words(config=path, foreground=True, database=directory / "flow.db")]
    return [Optional("flow", partial(household.execute, command))]


def _monitor(household: Household, path: str | None, amqp: AmqpSettings) -> list[Child]:
    """Return a monitor, whose record is beside the private broker's data unless another place is configured.

    Its stream is declared first: it has the events of daemons that are ready before the monitor.
    """
    try:
        plan = read_plan(path)
        directory = place.directory_of_up(plan.monitor)
        prepare(directory, plan)
        token = place.own_token(startup.state_home("the monitor's token"))
    except TaskqueueError as error:
        household.log.warning("no monitor runs: %s", error)
        return []
    with contextlib.suppress(OSError):  # no process for it: the monitor declares it, later
        children.ask(partial(_declare_stream, amqp, plan.monitor))
    command = ["monitor", *as_words(config=path, foreground=True, directory=directory, own_token=token)]
    return [Optional("monitor", partial(household.execute, command))]


def _declare_stream(amqp: AmqpSettings, settings: MonitorSettings) -> None:
    from taskqueue.monitor.stream import declare_stream  # noqa: PLC0415 -- brings pika in

    declare_stream(amqp, settings)


# --- run ---


class FeedingChild(Child):
    """The feeder. It ends with the feed; if it is killed, it is started again and continues."""

    status = ExitStatus.PAUSED

    @property
    def has_ended(self) -> bool:
        """Whether the feed has ended."""
        return self.is_draining and not self.pids

    @property
    def main_pid(self) -> int:
        """0, because its end is never a failed start."""
        return 0

    def _judge(self, end: Exit) -> bool:
        """Take a status of its own as the end of the feed."""
        if end.code >= 0 and end.code not in _TRIED_AGAIN:
            self.is_draining = True
            self.status = ExitStatus(end.code) if end.code in list(ExitStatus) else ExitStatus.SOFTWARE
        return self.is_draining


class Workshop(Household):
    """The processes of `taskqueue run`: feeder, workers and a private broker, until the feed ends."""

    def __init__(self, amqp: AmqpSettings, broker: PrivateBroker | None, commands: list[list[str]]) -> None:
        super().__init__("run", math.inf, amqp, broker)
        feeder, workers = (partial(self.execute, command) for command in commands)
        self._feeding = FeedingChild("feeder", feeder)
        self.members += [self._feeding, Child("workers", workers)]
        self._is_ending = False

    def run(self, readiness: Readiness) -> ExitStatus:
        """Keep both running; return the exit status of the feed, or of workers that cannot start."""
        return super().run(readiness) or self._feeding.status

    def stop(self, timeout: float) -> None:
        """Begin to stop: first the feeder, which needs the workers to finish the jobs in flight."""
        if self._is_ending:
            super().stop(timeout)
        else:
            self._stop_at = math.inf
            self._feeding.drain()

    def _converge(self) -> None:
        if self._feeding.has_ended and not self._is_ending:
            self._is_ending = True
            self.stop(_STOP_TIMEOUT)
        super()._converge()

    @property
    def needs_broker(self) -> bool:
        """Whether the feeder still runs, which needs the broker to finish the jobs in flight."""
        return not self._is_ending


@click.command(short_help="Feed jobs and run their workers, on this machine.")
@click.argument("target")
@click.argument("workers", type=options.WholeNumber(1, 10_000))
@jobs.given_argument
@click.option(
    "--get-jobs-callback", metavar="NAME", default=GET_JOBS, help="The function that yields the jobs."
)
@click.option(
    "--handle-job-callback", metavar="NAME", default=HANDLE_JOB, help="The function that takes each."
)
@jobs.threads_option
@jobs.feeding_options
@jobs.pickle_options
@jobs.output_option
@jobs.log_level_option("warning")
@options.broker_options
def run(
    target: str,
    workers: int,
    given: dict[str, str],
    *,
    get_jobs_callback: str,
    handle_job_callback: str,
    source: Source,
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
    if values["reset"]:  # only once; a killed feeder is started again
        with StateFile(state) as file:
            file.remove()
    if values["pickle"] and values["key_file"] is None and jobs.KEY_VARIABLE not in os.environ:
        values["key_file"] = _make_key(Path(f"{state}.key"))
    commands = _commands(targets, workers, given, values | {"config": source.path})
    amqp = source.given() or config.load(source.path, (), as_root=False).amqp
    if amqp is not None:
        sys.exit(Workshop(amqp, None, commands).run(foreground()))
    sys.exit(_with_own_broker(state, commands))


def _with_own_broker(state: Path, commands: list[list[str]]) -> int:
    """Run on a private broker; its data is kept until all jobs are done."""
    directory = default_state_dir().parent / "feeds" / hashlib.sha256(os.fsencode(state)).hexdigest()[:16]
    with PrivateBroker(directory) as broker:
        status = Workshop(of_private_broker(broker.url), broker, commands).run(foreground())
        is_through = status in (ExitStatus.OK, ExitStatus.FAILED) or not state.exists()
        if is_through:
            broker.kill()  # faster than a shutdown; its data is removed anyway
    if is_through:
        shutil.rmtree(directory, ignore_errors=True)
    return status


def _make_key(path: Path) -> str:
    """Create a key file that only its owner can read, unless it exists; return its path."""
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

    def words(*names: str) -> list[str]:
        return as_words(workers=workers, **{name: values[name] for name in names})

    both = ["log_level", "pickle", "config", *(["key_file"] if values["pickle"] else [])]
    feed = ["size", "chunk_max", "retries", "max_failures", "total", "state", "progress_file", "no_progress"]
    values["failed"] = values["only_failed"]
    arguments = [f"{name}={value}" for name, value in given.items()]
    return [
        ["feed", *words(*both, *feed, "failed"), "--", targets[0], *arguments],
        ["work", *words(*both, "threads", "show_output"), "--", targets[1]],
    ]
