"""`taskqueue work`."""

import os
from dataclasses import replace
from functools import partial

import click

from taskqueue import config
from taskqueue.cli import daemons, jobs, options
from taskqueue.config import GroupSettings
from taskqueue.feed.chunk_worker import PLUGIN, Orders
from taskqueue.feed.target import HANDLE_JOB, Target, receipts_queue, worker_type
from taskqueue.pool.group import Blueprint
from taskqueue.pool.supervisor import Plan, Supervisor

_DEPTH = 2  # chunks that a worker is given ahead: it need not wait for the next one


@click.command(short_help="Run workers for the jobs that `taskqueue feed` feeds.")
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
    log_level: str,
    path: str | None,
    amqp: str | None,
    amqp_fd: int | None,
) -> None:
    """Run workers that perform the jobs which `taskqueue feed` feeds, here and on any number of hosts.

    TARGET is MODULE, FILE.py, MODULE:FUNCTION or FILE.py:FUNCTION; without FUNCTION handle_job is meant. It
    is called with each job, and must be idempotent: a job may come twice. The workers run as whoever starts
    them.

    SIGTERM and Ctrl-C let running chunks finish; a second one ends at once.
    """
    arguments = ["work", target, "--threads", str(threads), "--log-level", log_level]
    arguments += ["--workers", str(workers)] if workers else []
    arguments += ["--type", type_] if type_ else []
    arguments += ["--pickle"] if pickle else []
    arguments += ["--key-file", key_file] if key_file else []
    arguments += ["--config", path] if path else []
    descriptor = options.hide_address(amqp, amqp_fd, arguments)
    parsed = Target.parse(target, HANDLE_JOB)
    key = jobs.find_key(key_file, pickle=pickle)
    jobs.check(parsed)
    orders = Orders(target, os.getcwd(), str(threads), key.hex() if key else "")  # noqa: PTH109 -- as it is
    group = _group(worker_type(type_ or parsed.module), workers or os.cpu_count() or 1, orders)
    supervisor = Supervisor(
        partial(_plan, path, log_level.lower(), group), descriptor, options.reader(descriptor, path)
    )
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
        depth=_DEPTH,
        max_crashes=1,  # the feeder divides the chunk
        settings=orders.settings(),
    )


def _plan(path: str | None, level: str, group: GroupSettings) -> Plan:
    settings = config.load(path, (), as_root=False)
    return Plan(
        settings.workerpool,
        replace(settings.logging, level=level),
        (Blueprint(group, PLUGIN, None),),
        settings.warnings,
        settings.amqp is not None,
        as_root=False,
    )
