"""`taskqueue work`."""

import os
from dataclasses import replace
from functools import partial
from typing import Any

import click

from taskqueue import config
from taskqueue.address import Source
from taskqueue.calls.task_worker import load_tasks, plugin_for
from taskqueue.cli import daemons, jobs, options
from taskqueue.config import GroupSettings
from taskqueue.feed.chunk_worker import PLUGIN, ChunkWorkerSettings
from taskqueue.feed.target import HANDLE_JOB, Target, current_directory, receipts_queue, worker_type
from taskqueue.supervisor import Plan, Supervisor
from taskqueue.supervisor.members import Blueprint

_DEPTH = 2  # chunks that a worker has at a time, so that it need not wait for the next one


@click.command(short_help="Run workers for the tasks or jobs of a module.")
@click.argument("target")
@options.number("-n", "--workers", meaning="Number of worker processes; by default one per CPU.", most=10_000)
@jobs.threads_option
@jobs.type_option
@jobs.pickle_options
@jobs.output_option
@click.option(
    "--result-store",
    metavar="DIRECTORY",
    type=click.Path(file_okay=False, resolve_path=True),
    help="Directory for results of steps of workflows that are too large to be passed on by value.",
)
@jobs.log_level_option("info")
@options.broker_options
def work(target: str, *, source: Source, **given: Any) -> None:
    """Run workers for a module's tasks, or for the jobs which `taskqueue feed` feeds; on any number of hosts.

    TARGET is MODULE, FILE.py, MODULE:FUNCTION or FILE.py:FUNCTION. The functions with @task in it, or for a
    package in its modules, are served, unless FUNCTION is named or there are none: then FUNCTION, by default
    handle_job, is called with each job. Both must be idempotent: a job or call whose worker died is run
    again. The workers run as the user who starts them.

    SIGTERM and Ctrl-C let running chunks finish; a second one ends at once.
    """
    arguments = ["work", target, *options.as_words(**given, config=source.path)]
    options.hide_address(source, arguments)
    parsed = Target.parse(target, HANDLE_JOB)
    key = jobs.find_key(given["key_file"], pickle=given["pickle"])
    number = given["workers"] or os.cpu_count() or 1
    if ":" not in target and jobs.look_at(parsed, lambda: bool(load_tasks(parsed.load_module()))):
        if given["type"] or given["pickle"] or given["threads"] > 1:
            raise click.UsageError("--type, --pickle and --threads are for jobs; there are tasks in TARGET.")
        group = GroupSettings(parsed.module, parsed.module, number, result_store=given["result_store"])
        blueprint = Blueprint(group, plugin_for(target), None)
    else:
        jobs.check(parsed)
        chunk_settings = ChunkWorkerSettings(
            target, current_directory(), str(given["threads"]), key.hex() if key else ""
        )
        blueprint = Blueprint(
            _group(worker_type(given["type"] or parsed.module), number, chunk_settings), PLUGIN, None
        )
    shown = replace(blueprint, settings=replace(blueprint.settings, show_output=given["show_output"]))
    plan = partial(_plan, source.path, given["log_level"].lower(), shown)
    supervisor = Supervisor(plan, source)
    options.need_address(source, arguments, is_configured=supervisor.plan.has_broker)
    daemons.run(supervisor, supervisor.plan.logging, source)


def _group(type_: str, workers: int, chunk_settings: ChunkWorkerSettings) -> GroupSettings:
    return GroupSettings(
        type_,
        type_,
        workers,
        results_routing_key=receipts_queue(type_),
        keep_failed=False,  # the feeder keeps what fails
        max_prefetch=_DEPTH,
        max_crashes=1,  # the feeder divides the chunk
        settings=chunk_settings.settings(),
    )


def _plan(path: str | None, level: str, blueprint: Blueprint) -> Plan:
    settings = config.load(path, (), as_root=False)
    return Plan(
        settings.workerpool,
        replace(settings.logging, level=level),
        (blueprint,),
        (blueprint.settings.worker_type,),
        settings.warnings,
        None,  # it takes no commands: it ends by itself
        None,
        settings.amqp is not None,
        as_root=False,
    )
