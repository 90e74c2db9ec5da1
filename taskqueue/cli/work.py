"""`taskqueue work`."""

import os
import sys
from dataclasses import replace
from functools import partial

import click

from taskqueue import config
from taskqueue.calls.task_worker import load_tasks, plugin_for
from taskqueue.cli import daemons, jobs, options
from taskqueue.config import GroupSettings
from taskqueue.errors import ExitStatus, TargetError, TaskqueueError
from taskqueue.feed.chunk_worker import PLUGIN, Orders
from taskqueue.feed.target import HANDLE_JOB, Target, current_directory, receipts_queue, worker_type
from taskqueue.process import children, startup
from taskqueue.supervisor.members import Blueprint
from taskqueue.supervisor.supervisor import Plan, Supervisor

_DEPTH = 2  # chunks that a worker is given ahead: it need not wait for the next one


@click.command(short_help="Run workers for the tasks or jobs of a module.")
@click.argument("target")
@click.option(
    "-n",
    "--workers",
    type=click.IntRange(1, 10_000),
    metavar="N",
    help="How many processes; by default one a CPU.",
)
@jobs.threads_option
@jobs.type_option
@jobs.pickle_options
@jobs.output_option
@jobs.log_level_option("info")
@options.config_option
@options.amqp_option
@click.option("--amqp-fd", type=int, hidden=True)
def work(
    target: str,
    *,
    workers: int | None,
    threads: int,
    type_: str | None,
    pickle: bool,
    key_file: str | None,
    show_output: bool,
    log_level: str,
    path: str | None,
    amqp: str | None,
    amqp_fd: int | None,
) -> None:
    """Run workers for a module's tasks, or for the jobs which `taskqueue feed` feeds; on any number of hosts.

    TARGET is MODULE, FILE.py, MODULE:FUNCTION or FILE.py:FUNCTION. The functions with @task in it, or for a
    package in its modules, are served, unless FUNCTION is named or there are none: then FUNCTION, by default
    handle_job, is called with each job. Both must be idempotent: what a worker died of comes twice. The
    workers run as whoever starts them.

    SIGTERM and Ctrl-C let running chunks finish; a second one ends at once.
    """
    arguments = ["work", target, "--threads", str(threads), "--log-level", log_level]
    arguments += ["--workers", str(workers)] if workers else []
    arguments += ["--type", type_] if type_ else []
    arguments += ["--pickle"] if pickle else []
    arguments += ["--show-output"] if show_output else []
    arguments += ["--key-file", key_file] if key_file else []
    arguments += ["--config", path] if path else []
    descriptor = options.hide_address(amqp, amqp_fd, arguments)
    parsed = Target.parse(target, HANDLE_JOB)
    key = jobs.find_key(key_file, pickle=pickle)
    number = workers or os.cpu_count() or 1
    if ":" not in target and _has_tasks(parsed):
        if type_ or pickle or threads > 1:
            raise click.UsageError("--type, --pickle and --threads are for jobs; there are tasks in TARGET.")
        blueprint = Blueprint(GroupSettings(parsed.module, parsed.module, number), plugin_for(target), None)
    else:
        jobs.check(parsed)
        orders = Orders(target, current_directory(), str(threads), key.hex() if key else "")
        blueprint = Blueprint(_group(worker_type(type_ or parsed.module), number, orders), PLUGIN, None)
    shown = replace(blueprint, settings=replace(blueprint.settings, show_output=show_output))
    plan = partial(_plan, path, log_level.lower(), shown)
    supervisor = Supervisor(plan, descriptor, options.reader(descriptor, path))
    if descriptor is None and not supervisor.plan.has_broker:
        options.begin_anew(arguments, options.private_address())
    daemons.run(supervisor, supervisor.plan.logging, stay=True, pidfile=None, amqp_fd=descriptor)


def _group(type_: str, workers: int, orders: Orders) -> GroupSettings:
    return GroupSettings(
        type_,
        type_,
        workers,
        results_routing_key=receipts_queue(type_),
        keep_failed=False,  # the feeder keeps what fails
        max_prefetch=_DEPTH,
        max_crashes=1,  # the feeder divides the chunk
        settings=orders.settings(),
    )


def _has_tasks(target: Target) -> bool:
    """Tell whether a module has tasks; it is loaded in a process that ends at once."""
    reader, writer = os.pipe()

    def look() -> int:
        try:
            os.write(writer, b"tasks" if load_tasks(target.load_module()) else b"none")
        except TaskqueueError as error:
            startup.complain(f"taskqueue: {error}\n")
            return error.status
        except Exception as error:  # noqa: BLE001 -- the user's code may raise anything
            startup.complain(f"taskqueue: target {target}: {type(error).__name__}: {error}\n")
            return TargetError.status
        return ExitStatus.OK

    pid = children.fork(look)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        found = pipe.read()
    _, status = os.waitpid(pid, 0)
    if status:
        sys.exit(os.waitstatus_to_exitcode(status))
    return found == b"tasks"


def _plan(path: str | None, level: str, blueprint: Blueprint) -> Plan:
    settings = config.load(path, (), as_root=False)
    return Plan(
        settings.workerpool,
        replace(settings.logging, level=level),
        (blueprint,),
        (blueprint.settings.worker_type,),
        settings.warnings,
        settings.amqp is not None,
        as_root=False,
    )
