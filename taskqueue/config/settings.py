"""The settings of taskqueue's processes, and configspec.ini, the one table of options.

The table validates sections and supplies the defaults.
"""

import difflib
import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

from configobj import ConfigObj, flatten_errors
from configobj.validate import Validator

from taskqueue.config import checks, command_checks, limit_checks, schedule_checks
from taskqueue.config.amqp import AmqpSettings, read_hosts, read_url
from taskqueue.config.checks import SECRET_NAME
from taskqueue.config.postgresql import is_url, without_password
from taskqueue.limits.definition import Limit, LimitUse
from taskqueue.schedules.definition import Definition

#: The sections that are about no worker type.
FIXED_SECTIONS: Final = ("amqp", "dispatcher", "workerpool", "monitor", "flow", "logging")

#: The section that all groups inherit.
DEFAULT: Final = "DEFAULT"

#: The table's key for worker sections and [DEFAULT]; the name is configobj's.
GROUP: Final = "__many__"

#: The table's key for the sections of schedules.
SCHEDULE: Final = "schedule NAME"

#: The table's key for the sections of limits.
LIMIT: Final = "limit NAME"

#: The types that the table's options have.
CHECKS: Final = {
    "body": schedule_checks.body,
    "body_file": schedule_checks.body_file,
    "broker_users": checks.broker_users,
    "choice": checks.choice,
    "command": command_checks.command,
    "content_types": checks.content_types,
    "cron": schedule_checks.cron,
    "destination": checks.destination,
    "directory": checks.directory,
    "result_store": checks.result_store,
    "duration": checks.duration,
    "factor": checks.factor,
    "file": checks.readable_file,
    "file_path": checks.file_path,
    "header": checks.header,
    "hosts": read_hosts,
    "keys": checks.keys,
    "lanes": checks.lanes,
    "limits": limit_checks.limits,
    "listen": checks.listen,
    "media_type": schedule_checks.media_type,
    "processors": checks.processors,
    "password_file": checks.password_file,
    "results_queue": checks.results_queue,
    "seconds": checks.seconds,
    "secret": checks.secret,
    "share": checks.share,
    "size": checks.size,
    "postgresql_url": checks.postgresql_url,
    "http_url": checks.http_url,
    "rate": limit_checks.rate,
    "database_place": checks.database_place,
    "record_place": checks.record_place,
    "tags": schedule_checks.tags,
    "text": checks.text,
    "timezone": schedule_checks.timezone,
    "url": read_url,
    "weights": checks.weights,
    "whole": checks.whole,
    "worker_type": schedule_checks.worker_type,
    "workers": checks.workers,
    "yes_no": checks.yes_no,
}


@cache
def specification() -> Mapping[str, Any]:
    """Return the table: section -> option -> type and default; a section's `comments` hold the meanings."""
    path = Path(__file__).parent.parent / "configspec.ini"
    return ConfigObj(str(path), encoding="utf-8", interpolation=False, list_values=False, _inspec=True)  # type: ignore[no-any-return]


@cache
def validator() -> Any:
    """Return configobj's Validator with the types of the table."""
    return Validator(CHECKS)


def checked(kind: str, given: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, checks.Refused]]:
    """Validate the options of one section.

    Args:
        kind: one of FIXED_SECTIONS, GROUP, SCHEDULE or LIMIT.
        given: the options as they are written.

    Returns:
        All known options with their typed values or defaults, and those refused. An option that is
        refused has its default.
    """
    values, refused = _validated(kind, given)
    if refused:
        accepted = {name: value for name, value in given.items() if name not in refused}
        values = _validated(kind, accepted)[0]
    return values, refused


def nearest(name: str, known: Mapping[str, Any] | tuple[str, ...], cutoff: float = 0.75) -> str | None:
    """Return the known name that a misspelt one most likely means; None if none is near.

    cutoff -- how near it must be: 0 for anything, 1 for the same (difflib.get_close_matches)
    """
    by_folded = {other.casefold(): other for other in known}
    found = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=cutoff)
    return by_folded[found[0]] if found else None


def _validated(kind: str, given: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, checks.Refused]]:
    table = specification()[kind]
    known = {name: value for name, value in given.items() if name in table}
    section = ConfigObj(known, configspec=table, interpolation=False, list_values=False)
    outcome = section.validate(validator(), preserve_errors=True)
    return dict(section), {name: error for _, name, error in flatten_errors(section, outcome)}


_DISPATCHER, _POOL, _MONITOR, _FLOW, _LOGGING, _GROUP = (
    checked(kind, {})[0] for kind in (*FIXED_SECTIONS[1:], GROUP)
)

_URL_PASSWORD: Final = re.compile(r":(?!//)\S*@")


@dataclass(frozen=True, slots=True)
class DispatcherSettings:
    """The section [dispatcher].

    Args:
        instances: how many processes.
        window: workitems in flight, a process.
        max_types: worker types a process declares queues for.
        formats: content types whose plugins may be loaded.
        stop_timeout: seconds to wait for confirmations at the end.
    """

    instances: int = _DISPATCHER["instances"]
    window: int = _DISPATCHER["window"]
    max_types: int = _DISPATCHER["max_types"]
    formats: tuple[str, ...] = _DISPATCHER["formats"]
    stop_timeout: float = _DISPATCHER["stop_timeout"]


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """The section [workerpool].

    Args:
        user: the consumers' Unix user in a pool started by root.
        worker_user: the Unix user of workers whose group names none, in a pool started by root.
        stop_timeout: seconds that running workitems are given to end.
        control_key: the file with the control key; None: control.key beside the configuration file.
        control_socket: the Unix socket on which root commands a pool without a key; None: the default place,
            or without the system's configuration none.
        max_total_workers: maximum number of workers that ranges and commands may make of all groups together.
    """

    user: str = _POOL["user"]
    worker_user: str = _POOL["worker_user"]
    stop_timeout: float = _POOL["stop_timeout"]
    control_key: str | None = _POOL["control_key"]
    control_socket: str | None = _POOL["control_socket"]
    max_total_workers: int = _POOL["max_total_workers"]


@dataclass(frozen=True, slots=True)
class MonitorSettings:
    """The section [monitor].

    Args:
        database: the directory of the record, or the URL of its PostgreSQL database; None is the default
            place.
        database_reader: the URL by which that database is read; None is that of `database`.
        user: the web process's Unix user in a monitor started by root.
        listen: the address of the web process, host:port.
        cert_file: its certificate (PEM), for HTTPS; None for HTTP.
        key_file: the private key of cert_file (PEM); None: it is in the same file.
        proxy_socket: a Unix socket on which it listens for a proxy; None for none.
        proxy_user_header: the HTTP header in which that proxy names the user.
        management: the URL of the broker's management API; None: it is not asked.
        control_key: the file with the control key, with which it commands pools; None: it does not.
        stream_max_age: seconds that the stream keeps events.
        stream_max_size: bytes of the stream.
        stream_segment_size: bytes of each of its segments.
        keep_succeeded: seconds that the record keeps succeeded workitems.
        keep_failed: seconds that it keeps failed and lost ones.
        keep_rejected: seconds that it keeps rejected messages.
        keep_cancelled: seconds that it keeps cancelled workitems.
        keep_minutes: seconds that it keeps the counts of each minute.
        max_size: bytes of the record.
    """

    database: str | None = _MONITOR["database"]
    database_reader: str | None = _MONITOR["database_reader"]
    user: str = _MONITOR["user"]
    listen: str = _MONITOR["listen"]
    cert_file: str | None = _MONITOR["cert_file"]
    key_file: str | None = _MONITOR["key_file"]
    proxy_socket: str | None = _MONITOR["proxy_socket"]
    proxy_user_header: str | None = _MONITOR["proxy_user_header"]
    management: str | None = _MONITOR["management"]
    control_key: str | None = _MONITOR["control_key"]
    stream_max_age: float = _MONITOR["stream_max_age"]
    stream_max_size: int = _MONITOR["stream_max_size"]
    stream_segment_size: int = _MONITOR["stream_segment_size"]
    keep_succeeded: float = _MONITOR["keep_succeeded"]
    keep_failed: float = _MONITOR["keep_failed"]
    keep_rejected: float = _MONITOR["keep_rejected"]
    keep_cancelled: float = _MONITOR["keep_cancelled"]
    keep_minutes: float = _MONITOR["keep_minutes"]
    max_size: int = _MONITOR["max_size"]


@dataclass(frozen=True, slots=True)
class FlowSettings:
    """The section [flow].

    Args:
        database: the file of the database of workflows, or the URL of a PostgreSQL database; None is the
            default place.
        keep: seconds that workflows are kept after their end.
        is_wanted: whether there is such a section, so that a dispatcher daemon has a flow process.
    """

    database: str | None = _FLOW["database"]
    keep: float = _FLOW["keep"]
    is_wanted: bool = False


@dataclass(frozen=True, slots=True)
class LoggingSettings:
    """The section [logging].

    Args:
        level: debug, info, warning or error.
        format: text or json.
        destination: stderr, syslog, or the absolute path of a file.
    """

    level: str = _LOGGING["level"]
    format: str = _LOGGING["format"]
    destination: str = _LOGGING["destination"]


@dataclass(frozen=True, slots=True)
class GroupSettings:
    """One group of workers: a worker type, a Unix user, a number of workers.

    Args:
        name: the section, for example worker2_bifh1.
        worker_type: the worker type, for example worker2.
        workers: how many processes, 0 or more; at least, if `most_workers` is set.
        most_workers: how many at most, if the number follows the load; 0 if it does not.
        scale_up_after: seconds that a workitem waits until there are more workers.
        scale_down_after: seconds that workers are idle until there are fewer.
        user: their Unix user; None is the pool's worker_user, or the user who started the pool if not root.
        command: a program and its arguments, which perform its workitems; None for a plugin.
        mode: whether the command performs one workitem (exec) or one after the other (stream).
        result_type: the media type of the command's results.
        max_result: bytes of the largest result of the command.
        results_routing_key: the queue that results go to.
        report_results: whether results are published.
        results_expire: seconds a result is kept; 0 is forever.
        result_store: a directory or the name of a plugin, which keeps large results of steps; None is none.
        result_store_keep: seconds that the directory keeps them.
        keep_failed: whether failed workitems are kept. No option: a feed keeps its failed jobs itself.
        max_prefetch: workitems a worker is given ahead at most, 1 or more.
        lanes: queues beside that of the worker type, by priority and tenant; 0 is none.
        weights: the tenants whose share of the workers is not 1, with their shares.
        max_wait: seconds until the first workitem of a lane is taken whatever its priority; 0 is never.
        limits: what its workitems need permits of; none for no limit.
        retries: how often a workitem whose handler raised is run again.
        retry_delay: seconds until the first retry.
        retry_backoff: what the delay is multiplied by after each retry.
        retry_max_delay: the longest delay, in seconds.
        retry_jitter: the share, 0 to 1, by which a delay varies at random.
        max_crashes: crashes of its worker that a workitem may cause.
        timeout: seconds a workitem may run; 0 is for ever.
        timeout_grace: seconds between TaskTimeout and the worker's end.
        lease_after: seconds until a workitem that still runs is leased.
        lease_timeout: seconds until a lease that is not renewed ends.
        max_tasks: workitems after which a worker is replaced; 0 is never.
        max_memory: MiB of resident memory above which a worker is replaced; 0 is never.
        memory_limit: MiB of address space a worker may have; 0 is no limit.
        cpu_limit: seconds of processor time a workitem may use; 0 is no limit.
        nice: by how much the workers yield, 0 to 19.
        memory_max: bytes of memory of a worker and its programs; 0 is no limit.
        cpu_weight: their share of processor time, 1 to 10000; 0 is the kernel's default.
        cpu_max: processors whose time they may use; 0 is no limit.
        tasks_max: processes and threads; 0 is no limit.
        io_weight: their share of disk time, 1 to 10000; 0 is the kernel's default.
        private_tmp: whether each worker has temporary directories of its own.
        no_network: whether the workers have no network.
        read_only: whether all file systems are read-only for the workers.
        output_rate: lines of output a second that are logged, a worker.
        record_body: bytes of a workitem's body that events contain.
        redact: keys of JSON objects whose values events never contain.
        record_result: maximum size in bytes of results that events contain.
        show_output: whether they go to stdout instead, as they are. No option: for commands at a terminal.
        settings: all other options by name, as they are written; in no repr, they may hold secrets.
    """

    name: str
    worker_type: str
    workers: int = _GROUP["workers"].least
    most_workers: int = 0
    scale_up_after: float = _GROUP["scale_up_after"]
    scale_down_after: float = _GROUP["scale_down_after"]
    user: str | None = _GROUP["user"]
    command: tuple[str, ...] | None = _GROUP["command"]
    mode: str = _GROUP["mode"]
    result_type: str = _GROUP["result_type"]
    max_result: int = _GROUP["max_result"]
    results_routing_key: str = _GROUP["results_routing_key"]
    report_results: bool = _GROUP["report_results"]
    results_expire: float = _GROUP["results_expire"]
    result_store: str | None = _GROUP["result_store"]
    result_store_keep: float = _GROUP["result_store_keep"]
    keep_failed: bool = True
    max_prefetch: int = _GROUP["max_prefetch"]
    lanes: int = _GROUP["lanes"]
    weights: tuple[tuple[str, int], ...] = _GROUP["weights"]
    max_wait: float = _GROUP["max_wait"]
    limits: tuple[LimitUse, ...] = _GROUP["limits"]
    retries: int = _GROUP["retries"]
    retry_delay: float = _GROUP["retry_delay"]
    retry_backoff: float = _GROUP["retry_backoff"]
    retry_max_delay: float = _GROUP["retry_max_delay"]
    retry_jitter: float = _GROUP["retry_jitter"]
    max_crashes: int = _GROUP["max_crashes"]
    timeout: float = _GROUP["timeout"]
    timeout_grace: float = _GROUP["timeout_grace"]
    lease_after: float = _GROUP["lease_after"]
    lease_timeout: float = _GROUP["lease_timeout"]
    max_tasks: int = _GROUP["max_tasks"]
    max_memory: int = _GROUP["max_memory"]
    memory_limit: int = _GROUP["memory_limit"]
    cpu_limit: int = _GROUP["cpu_limit"]
    nice: int = _GROUP["nice"]
    memory_max: int = _GROUP["memory_max"]
    cpu_weight: int = _GROUP["cpu_weight"]
    cpu_max: float = _GROUP["cpu_max"]
    tasks_max: int = _GROUP["tasks_max"]
    io_weight: int = _GROUP["io_weight"]
    private_tmp: bool = _GROUP["private_tmp"]
    no_network: bool = _GROUP["no_network"]
    read_only: bool = _GROUP["read_only"]
    output_rate: int = _GROUP["output_rate"]
    record_body: int = _GROUP["record_body"]
    redact: tuple[str, ...] = _GROUP["redact"]
    record_result: int = _GROUP["record_result"]
    show_output: bool = False
    settings: tuple[tuple[str, str], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class RecordSettings:
    """The part of a worker type's body that events contain.

    Args:
        body: bytes of its beginning.
        redact: keys of JSON objects whose values are left out.
    """

    body: int = _GROUP["record_body"]
    redact: tuple[str, ...] = _GROUP["redact"]


@dataclass(frozen=True, slots=True)
class Settings:
    """A whole configuration.

    Args:
        path: the file it is from; None if there is none.
        amqp: the broker; None if the file names none.
        dispatcher: the section [dispatcher].
        workerpool: the section [workerpool].
        monitor: the section [monitor].
        flow: the section [flow].
        logging: the section [logging].
        groups: the groups of the installed plugins.
        records: what events contain of bodies, by section; under "DEFAULT" that of all other types.
        schedules: the sections [schedule NAME].
        lanes: the number of lanes, by section; under "DEFAULT" that of all other types.
        limits: the sections [limit NAME].
        warnings: what is odd about the file, a line each, but no fault.
        secret_files: files with a password or a private key, but those that `warnings` says are public.
    """

    path: str | None = None
    amqp: AmqpSettings | None = None
    dispatcher: DispatcherSettings = field(default_factory=DispatcherSettings)
    workerpool: PoolSettings = field(default_factory=PoolSettings)
    monitor: MonitorSettings = field(default_factory=MonitorSettings)
    flow: FlowSettings = field(default_factory=FlowSettings)
    logging: LoggingSettings = field(default_factory=LoggingSettings)
    groups: tuple[GroupSettings, ...] = ()
    records: tuple[tuple[str, RecordSettings], ...] = ()
    schedules: tuple[Definition, ...] = ()
    lanes: tuple[tuple[str, int], ...] = ()
    limits: tuple[Limit, ...] = ()
    warnings: tuple[str, ...] = ()
    secret_files: tuple[str, ...] = ()


def effective(settings: Settings) -> dict[str, Any]:
    """Return the settings as dicts, lists and scalars, to be printed; secrets are ***."""
    plain = {item.name: getattr(settings, item.name) for item in fields(settings)}
    for name in ("dispatcher", "workerpool", "monitor", "logging"):
        plain[name] = asdict(plain[name])
    plain["monitor"] = asdict(without_passwords(settings.monitor))
    plain["flow"] = {"database": _shown(settings.flow.database), "keep": settings.flow.keep}
    plain["dispatcher"]["formats"] = list(settings.dispatcher.formats)
    plain["amqp"] = _effective_amqp(settings.amqp) if settings.amqp else None
    plain["groups"] = [
        asdict(group)
        | {"settings": _masked(dict(group.settings)), "redact": list(group.redact)}
        | {"weights": [f"{tenant} {weight}" for tenant, weight in group.weights]}
        | {"limits": [str(use) for use in group.limits]}
        | {"command": _shown_command(group.command)}
        for group in settings.groups
    ]
    plain["schedules"] = [schedule.as_json() for schedule in settings.schedules]
    plain["limits"] = [
        {"name": limit.name, "concurrency": limit.concurrency, "rate": limit.rate or None}
        for limit in settings.limits
    ]
    plain["warnings"] = list(settings.warnings)
    del plain["secret_files"], plain["records"], plain["lanes"]
    return plain


def without_passwords(monitor: MonitorSettings) -> MonitorSettings:
    """Return the settings of a monitor without the passwords of its database."""
    return replace(
        monitor, database=_shown(monitor.database), database_reader=_shown(monitor.database_reader)
    )


def _shown(place: str | None) -> str | None:
    return without_password(place) if place and is_url(place) else place


def _effective_amqp(amqp: AmqpSettings) -> dict[str, Any]:
    hosts = [f"[{name}]:{port}" if ":" in name else f"{name}:{port}" for name, port in amqp.hosts]
    plain = asdict(amqp) | {"hosts": hosts, "password": "***", "trusted_users": list(amqp.trusted_users)}
    del plain["owner"]  # no file names one
    return plain


def _shown_command(words: tuple[str, ...] | None) -> str | None:
    return _URL_PASSWORD.sub(":***@", shlex.join(words)) if words else None


def _masked(options: Mapping[str, str]) -> dict[str, str]:
    # plugins have passwords, too, some of them in URLs
    return {
        name: "***" if SECRET_NAME.search(name) else _URL_PASSWORD.sub(":***@", value)
        for name, value in options.items()
    }
