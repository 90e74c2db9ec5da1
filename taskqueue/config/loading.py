"""From config.ini to settings, or to all that is wrong with it."""

from collections.abc import Collection, Iterator
from typing import Any

from taskqueue.config import groups, inifile, users
from taskqueue.config.amqp import AmqpSettings, amqp_settings, conflicts, has_password
from taskqueue.config.checks import Complaint, Fault, Refused, printable, shown
from taskqueue.config.inifile import Sections
from taskqueue.config.settings import DispatcherSettings, LoggingSettings, PoolSettings, Settings
from taskqueue.config.specification import FIXED_SECTIONS, GROUP, checked, nearest, specification
from taskqueue.errors import ConfigError
from taskqueue.messages.routing import WORKER_TYPE


def load(
    path: str | None,
    plugin_names: Collection[str],
    *,
    as_root: bool,
    unix_users: users.UnixUsers | None = None,
) -> Settings:
    """Read a configuration file.

    Args:
        path: the file; None for all defaults, with a group for every plugin.
        plugin_names: the installed plugins, which are the worker types.
        as_root: whether root starts the pool, so that it can switch users.
        unix_users: where to look users up; those of this machine if None.

    Raises:
        ConfigError: the file has faults; the error has all of them, and the warnings.
    """
    sections, is_public, faults, warnings = inifile.read(path) if path is not None else ({}, False, [], [])
    complaints: list[Complaint] = []
    fixed = {kind: _fixed_values(kind, sections.get(kind, {}), complaints) for kind in FIXED_SECTIONS}
    pool = PoolSettings(**fixed["workerpool"])
    names, misnamed = groups.well_named(plugin_names)
    warnings += misnamed
    warnings += groups.rename_options(sections)
    workers = _worker_sections(sections, complaints)
    subgroups = groups.find_subgroups(workers, names, complaints)
    sources = groups.make_groups(workers, subgroups, names)
    complaints += users.complaints(sources, pool, unix_users or users.UnixUsers(), as_root=as_root)
    # what is wrong in [DEFAULT] would otherwise be said once for every group that inherits it
    faults += [Fault(path, *complaint) for complaint in dict.fromkeys(complaints)]
    warnings += groups.oddities(workers, subgroups, names)
    warnings += groups.near_misses(workers, subgroups, names)
    warnings += _amqp_oddities(sections.get("amqp", {}), is_public=is_public)
    warnings = [printable(warning) for warning in warnings]
    if faults:
        raise ConfigError(faults, warnings)
    return Settings(
        path=path,
        amqp=amqp_settings(fixed["amqp"]),
        dispatcher=DispatcherSettings(**fixed["dispatcher"]),
        workerpool=pool,
        logging=LoggingSettings(**fixed["logging"]),
        groups=tuple(sources),
        warnings=tuple(warnings),
        secret_files=tuple(_secret_files(path or "", sections.get("amqp", {}), is_public=is_public)),
    )


def load_amqp(path: str | None) -> AmqpSettings | None:
    """Read the broker's address alone: with hundreds of groups, all of a file takes a second.

    Raises ConfigError with the faults of the file and of the section [amqp].
    """
    sections, _, faults, _ = inifile.read(path) if path is not None else ({}, False, [], [])
    complaints: list[Complaint] = []
    values = _fixed_values("amqp", sections.get("amqp", {}), complaints)
    faults += [Fault(path, *complaint) for complaint in complaints]
    if faults:
        raise ConfigError(faults)
    return amqp_settings(values)


def _fixed_values(kind: str, given: dict[str, str], complaints: list[Complaint]) -> dict[str, Any]:
    values, refused = checked(kind, given)
    complaints += _refusals(kind, refused)
    table = specification()[kind]
    complaints += [_unknown(kind, name) for name in given if name not in table]
    if kind == "amqp":
        complaints += [Complaint(kind, *conflict) for conflict in conflicts(given, values)]
    return values


def _refusals(section: str, refused: dict[str, Refused]) -> list[Complaint]:
    return [Complaint(section, name, error.expected, error.found) for name, error in refused.items()]


def _unknown(kind: str, name: str) -> Complaint:
    known = tuple(specification()[kind])
    near = nearest(name, known)
    expected = f"'{near}', the nearest option known here" if near else "one of " + ", ".join(known)
    return Complaint(kind, name, expected, "an unknown option")


def _worker_sections(sections: Sections, complaints: list[Complaint]) -> Sections:
    """Return [DEFAULT] and the worker sections, without what was refused in them."""
    kept: Sections = {}
    for section, given in sections.items():
        if section in FIXED_SECTIONS:
            continue
        if not WORKER_TYPE.match(section):
            expected = "a worker type: 1 to 100 of letters, digits, _ - and ., a letter or digit first"
            complaints.append(Complaint(section, None, expected, shown(section)))
            continue
        refused = checked(GROUP, given)[1]
        complaints += _refusals(section, refused)
        kept[section] = {name: value for name, value in given.items() if name not in refused}
    return kept


def _amqp_oddities(given: dict[str, str], *, is_public: bool) -> Iterator[str]:
    if given and not {"url", "host", "hosts"}.intersection(given):
        yield f"section [amqp]: {', '.join(given)} without effect: there is no url, host or hosts"
    if is_public and _holds_password(given):
        yield "section [amqp]: every user of this machine can read the password (mode o+r)"


def _holds_password(given: dict[str, str]) -> bool:
    return "password" in given or "passwd" in given or has_password(given.get("url", ""))


def _secret_files(path: str, given: dict[str, str], *, is_public: bool) -> Iterator[str]:
    if _holds_password(given) and not is_public:
        yield path
    for name in ("passwd_file", "key_file" if "key_file" in given else "cert_file"):
        if name in given:
            yield given[name]
