"""The settings of taskqueue's processes, as frozen values.

Each option's default is that of configspec.ini.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final

from taskqueue.config.amqp import AmqpSettings
from taskqueue.config.checks import SECRET_NAME
from taskqueue.config.specification import GROUP, checked

_DISPATCHER, _POOL, _LOGGING, _GROUP = (
    checked(kind, {})[0] for kind in ("dispatcher", "workerpool", "logging", GROUP)
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
    """

    user: str = _POOL["user"]
    worker_user: str = _POOL["worker_user"]
    stop_timeout: float = _POOL["stop_timeout"]


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
        workers: how many processes, 0 or more.
        user: their Unix user; None is the pool's worker_user, or who started the pool if not root.
        results_routing_key: the queue that results go to.
        report_results: whether results are published.
        results_expire: seconds a result is kept; 0 is forever.
        keep_failed: whether workitems that have failed are kept. No option: who says no keeps them himself.
        max_prefetch: workitems a worker is given ahead at most, 1 or more.
        retries: how often a workitem whose handler raised is run again.
        retry_delay: seconds until the first retry.
        retry_backoff: what the delay is multiplied by after each retry.
        retry_max_delay: the longest delay, in seconds.
        retry_jitter: the share, 0 to 1, by which a delay varies at random.
        max_crashes: crashes of its worker that a workitem may cause.
        timeout: seconds a workitem may run; 0 is for ever.
        timeout_grace: seconds between TaskTimeout and the worker's end.
        lease_after: seconds until a workitem that still runs is leased.
        lease_timeout: seconds until a lease that nobody renews ends.
        max_tasks: workitems after which a worker is replaced; 0 is never.
        max_memory: MiB of resident memory above which a worker is replaced; 0 is never.
        memory_limit: MiB of address space a worker may have; 0 is no limit.
        cpu_limit: seconds of processor time a workitem may use; 0 is no limit.
        nice: by how much the workers yield, 0 to 19.
        output_rate: lines of output a second that are logged, a worker.
        show_output: whether they go to stdout instead, as they are. No option: for commands at a terminal.
        settings: all other options by name, as they are written; in no repr, they may hold secrets.
    """

    name: str
    worker_type: str
    workers: int = _GROUP["workers"]
    user: str | None = _GROUP["user"]
    results_routing_key: str = _GROUP["results_routing_key"]
    report_results: bool = _GROUP["report_results"]
    results_expire: float = _GROUP["results_expire"]
    keep_failed: bool = True
    max_prefetch: int = _GROUP["max_prefetch"]
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
    output_rate: int = _GROUP["output_rate"]
    show_output: bool = False
    settings: tuple[tuple[str, str], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Settings:
    """A whole configuration.

    Args:
        path: the file it is from; None if there is none.
        amqp: the broker; None if the file names none.
        dispatcher: the section [dispatcher].
        workerpool: the section [workerpool].
        logging: the section [logging].
        groups: the groups of the installed plugins.
        warnings: what is odd about the file, a line each, but no fault.
        secret_files: files with a password or a private key, but those that `warnings` says are public.
    """

    path: str | None = None
    amqp: AmqpSettings | None = None
    dispatcher: DispatcherSettings = field(default_factory=DispatcherSettings)
    workerpool: PoolSettings = field(default_factory=PoolSettings)
    logging: LoggingSettings = field(default_factory=LoggingSettings)
    groups: tuple[GroupSettings, ...] = ()
    warnings: tuple[str, ...] = ()
    secret_files: tuple[str, ...] = ()


def effective(settings: Settings) -> dict[str, Any]:
    """Return the settings as dicts, lists and scalars, to be printed; secrets are ***."""
    plain = {item.name: getattr(settings, item.name) for item in fields(settings)}
    for name in ("dispatcher", "workerpool", "logging"):
        plain[name] = asdict(plain[name])
    plain["dispatcher"]["formats"] = list(settings.dispatcher.formats)
    plain["amqp"] = _effective_amqp(settings.amqp) if settings.amqp else None
    plain["groups"] = [
        asdict(group) | {"settings": _masked(dict(group.settings))} for group in settings.groups
    ]
    plain["warnings"] = list(settings.warnings)
    del plain["secret_files"]
    return plain


def _effective_amqp(amqp: AmqpSettings) -> dict[str, Any]:
    hosts = [f"[{name}]:{port}" if ":" in name else f"{name}:{port}" for name, port in amqp.hosts]
    plain = asdict(amqp) | {"hosts": hosts, "password": "***"}
    del plain["owner"]  # no file names one
    return plain


def _masked(options: Mapping[str, str]) -> dict[str, str]:
    # plugins have passwords, too, some of them in URLs
    return {
        name: "***" if SECRET_NAME.search(name) else _URL_PASSWORD.sub(":***@", value)
        for name, value in options.items()
    }
