"""The groups of workers: which sections they are, what each inherits, which Unix users they name."""

import os
import pwd
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from taskqueue.config.checks import Fault, WorkerRange
from taskqueue.config.settings import (
    DEFAULT,
    FIXED_SECTIONS,
    GROUP,
    LIMIT,
    SCHEDULE,
    GroupSettings,
    PoolSettings,
    RecordSettings,
    checked,
    nearest,
    specification,
)
from taskqueue.messages.routing import WORKER_TYPE

#: Options that there are no more, and those that took their place.
_REPLACED: Final = {"depth": "max_prefetch"}

#: Options that were renamed, and their names now.
_RENAMED: Final = {"max_depth": "max_prefetch"}

#: The sections that have a name, by the first word of their headers.
_NAMED: Final = {"schedule": SCHEDULE, "limit": LIMIT}

#: Options that dispatchers read, too.
_RECORD_OPTIONS: Final = frozenset(("record_body", "redact"))

#: Options for which only root has the privileges.
_ISOLATION: Final = ("private_tmp", "no_network", "read_only")

#: section -> option -> value, as written.
Sections = dict[str, dict[str, str]]

#: worker type -> the sections of its subgroups, in the order in which it lists them.
Subgroups = Mapping[str, tuple[str, ...]]


def rename_options(sections: Sections) -> Iterator[str]:
    """Give options of groups their names of today; yield a warning for each that has an earlier one."""
    for section, given in sections.items():
        for old in given.keys() & _RENAMED.keys() if section not in FIXED_SECTIONS else ():
            new, value = _RENAMED[old], given.pop(old)
            given.setdefault(new, value)
            yield f"section [{section}]: option '{old}' is called {new} now"


def find_subgroups(sections: Sections, plugin_names: Collection[str], faults: list[Fault]) -> Subgroups:
    """Return which sections are subgroups of which worker type.

    Args:
        sections: the worker sections and [DEFAULT]; where a list of subgroups cannot stand it is taken out.
        plugin_names: the installed plugins.
        faults: what is wrong is added here.
    """
    found: dict[str, tuple[str, ...]] = {}
    taken: set[str] = set()
    # a subgroup's section has a longer name than its type's, so that it is known as one when its turn comes
    for section in sorted(sections, key=len):
        names = checked(GROUP, sections[section])[0]["workers"]
        if isinstance(names, WorkerRange):
            continue
        if section in taken or section == DEFAULT:
            del sections[section]["workers"]
            listed = ", ".join(names)
            faults.append(Fault(None, section, "workers", "a number of 0 or more", f"'{listed}'"))
            continue
        faults += _wrong_subgroups(section, names, sections, taken.union(plugin_names))
        found[section] = tuple(f"{section}_{name}" for name in names)
        taken.update(found[section])
    faults += _lane_faults(sections, found)
    return found


def _wrong_subgroups(
    section: str, names: tuple[str, ...], sections: Sections, taken: Collection[str]
) -> Iterator[Fault]:
    for name in names:
        own = f"{section}_{name}"
        if own in taken:
            found = f"'{name}', whose section [{own}] is another worker type's"
            yield Fault(None, section, "workers", "subgroups with sections of their own", found)
        elif own not in sections and len(names) == 1:
            expected = "a number of 0 or more, a range such as 2..16, or a list of subgroups"
            yield Fault(None, section, "workers", expected, f"'{name}', and no section [{own}] for it")
        elif own not in sections:
            yield Fault(None, section, "workers", f"a section [{own}] for the subgroup '{name}'", "none")


def make_groups(
    sections: Sections, subgroups: Subgroups, plugin_names: Collection[str]
) -> dict[GroupSettings, str]:
    """Return the groups of the installed plugins, each with the section that its user is from.

    Those with a section come first, in the order of the file.
    """
    types = [name for name in sections if name in plugin_names]
    types += sorted(set(plugin_names).difference(types))
    groups = {}
    for worker_type in types:
        for name in subgroups.get(worker_type, (worker_type,)):
            group, source = _make_group(name, worker_type, sections)
            groups[group] = source
    return groups


def _make_group(name: str, worker_type: str, sections: Sections) -> tuple[GroupSettings, str]:
    given: dict[str, str] = {}
    sources: dict[str, str] = {}
    for section in dict.fromkeys((DEFAULT, worker_type, name)):
        options = dict(sections.get(section, {}))
        if section == worker_type != name:
            options.pop("workers", None)  # the list of subgroups, this one among them
        given |= options
        sources |= dict.fromkeys(options, section)
    known: dict[str, Any] = checked(GROUP, given)[0]
    others = tuple(sorted(item for item in given.items() if item[0] not in specification()[GROUP]))
    least, most = known.pop("workers")
    known |= {"workers": least, "most_workers": most if most > least else 0}
    group = GroupSettings(name=name, worker_type=worker_type, settings=others, **known)
    return group, sources.get("user", name)


def make_records(sections: Sections) -> Iterator[tuple[str, RecordSettings]]:
    """Yield what events contain of bodies, for sections that say so; no plugin need be installed for them."""
    shared = sections.get(DEFAULT, {})
    for section, given in sections.items():
        if not _RECORD_OPTIONS.isdisjoint(given):
            options = checked(GROUP, shared | given)[0]
            yield section, RecordSettings(options["record_body"], options["redact"])


def make_lanes(sections: Sections) -> Iterator[tuple[str, int]]:
    """Yield the numbers of lanes, for sections that name one; no plugin need be installed for them."""
    for section, given in sections.items():
        if "lanes" in given:
            yield section, checked(GROUP, given)[0]["lanes"]


def _lane_faults(sections: Sections, subgroups: Subgroups) -> Iterator[Fault]:
    """Yield which subgroups have lanes of their own: dispatchers know the types, and no subgroups."""
    for worker_type, names in subgroups.items():
        for name in names:
            if "lanes" in sections.get(name, {}):
                expected = f"it in [{worker_type}] or [{DEFAULT}], where dispatchers read it"
                yield Fault(None, name, "lanes", expected, "it in the section of a subgroup")


def warnings_of(sections: Sections, subgroups: Subgroups, plugin_names: Collection[str]) -> Iterator[str]:
    """Yield what is odd about sections, plugins and options, but does not keep the others from working."""
    yield from _oddities(sections, subgroups, plugin_names)
    yield from _near_misses(sections, subgroups, plugin_names)
    yield from _idle_weights(sections, subgroups)


def _oddities(sections: Sections, subgroups: Subgroups, plugin_names: Collection[str]) -> Iterator[str]:
    """Yield what is odd about sections and plugins."""
    installed = ", ".join(sorted(plugin_names)) or "none"
    for section in sections:
        if section in plugin_names or section == DEFAULT or section in _subsections(subgroups):
            continue
        named = _NAMED.get(nearest(section, tuple(_NAMED)) or "")
        near = named or nearest(section, (*FIXED_SECTIONS, DEFAULT, *plugin_names))
        hint = f"; is [{near}] meant?" if near else ""
        yield f"section [{section}]: no plugin '{section}' is installed; installed: {installed}{hint}"
    for name in sorted(plugin_names):
        if name in FIXED_SECTIONS:
            yield f"plugin '{name}': [{name}] is no worker's section, so that it runs with [DEFAULT] only"


def _near_misses(sections: Sections, subgroups: Subgroups, plugin_names: Collection[str]) -> Iterator[str]:
    """Yield which options are nearly, but not, called like one of taskqueue's own: plugins get them."""
    known, others = specification()[GROUP], commanded(sections, subgroups)
    for section, given in sections.items():
        if section in others:
            continue
        if section not in plugin_names and section != DEFAULT and section not in _subsections(subgroups):
            continue
        for name in given:
            if name in _REPLACED:
                hint = f"{_REPLACED[name]} took its place"
            elif name not in known and (near := nearest(name, known)):
                hint = f"is {near} meant?"
            else:
                continue
            yield f"section [{section}]: option '{name}' is passed to the plugin; {hint}"


def _idle_weights(sections: Sections, subgroups: Subgroups) -> Iterator[str]:
    """Yield which worker types have weights, but no lanes."""
    shared = sections.get(DEFAULT, {})
    for section, given in sections.items():
        is_type = section != DEFAULT and section not in _subsections(subgroups)
        if is_type and "weights" in given and not checked(GROUP, shared | given)[0]["lanes"]:
            yield f"section [{section}]: option 'weights' is without effect, as the type has no lanes"


def commanded(sections: Sections, subgroups: Subgroups) -> set[str]:
    """Return the sections of worker types with a command, and those of their subgroups."""
    types = [name for name, given in sections.items() if "command" in given and name != DEFAULT]
    return {name for each in types for name in (each, *subgroups.get(each, ()))}


def _subsections(subgroups: Subgroups) -> set[str]:
    return {section for sections in subgroups.values() for section in sections}


def well_named(plugin_names: Collection[str]) -> tuple[list[str], list[str]]:
    """Return the plugins whose name can be a worker type, and a warning for each other one."""
    good = [name for name in plugin_names if WORKER_TYPE.match(name)]
    bad = sorted(set(plugin_names).difference(good))
    return good, [f"plugin {name!r}: the name cannot be a worker type; it is not run" for name in bad]


_UNPRIVILEGED: Final = "an unprivileged user"
_NOT_THE_CONSUMERS: Final = "another user than the consumers', who know the broker's password"


class UnixUsers:
    """The users of this machine."""

    def uid(self, name: str) -> int | None:
        """Return a user's number; None if there is no user of this name."""
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            return None

    def own_uid(self) -> int:
        """Return the number of this process's user."""
        return os.geteuid()


def privilege_faults(
    sources: Mapping[GroupSettings, str],
    sections: Sections,
    pool: PoolSettings,
    users: UnixUsers,
    *,
    as_root: bool,
) -> Iterator[Fault]:
    """Yield what is wrong with users, as far as processes are to run as them, and with what only root may do.

    Args:
        sources: the groups, each with the section that its user is from.
        sections: the worker sections and [DEFAULT].
        pool: the section [workerpool].
        users: the Unix users of the machine.
        as_root: whether root starts the pool; else its section is not looked at.
    """
    running = {group: section for group, section in sources.items() if group.workers}
    for group, section in running.items():
        expected = _expected_of(group.user, pool, users, as_root=as_root) if group.user else None
        if expected:
            yield Fault(None, section, "user", expected, f"'{group.user}'")
    if as_root:
        yield from _pool_faults(running, pool, users)
    else:
        yield from _isolation_faults(running, sections)


def _isolation_faults(groups: Collection[GroupSettings], sections: Sections) -> Iterator[Fault]:
    """Yield which workers cannot be isolated in a pool that root does not start."""
    for group in groups:
        for option in _ISOLATION:
            if getattr(group, option):
                places = (group.name, group.worker_type, DEFAULT)
                section = next(place for place in places if option in sections.get(place, {}))
                yield Fault(None, section, option, "a pool started by root, or no isolation", "'yes'")


def _expected_of(user: str, pool: PoolSettings, users: UnixUsers, *, as_root: bool) -> str | None:
    uid = users.uid(user)
    if uid == 0:
        return _UNPRIVILEGED
    if not as_root:
        return None if uid == users.own_uid() else "a pool started by root, or no other user than its own"
    if uid is None:
        return "a Unix user that exists"
    if uid == users.uid(pool.user):
        return _NOT_THE_CONSUMERS
    return None


def _pool_faults(running: Collection[GroupSettings], pool: PoolSettings, users: UnixUsers) -> Iterator[Fault]:
    needed = {"user": pool.user} if running else {}
    if any(group.user is None for group in running):
        needed["worker_user"] = pool.worker_user
    missing = {option: name for option, name in needed.items() if users.uid(name) is None}
    if missing:
        names = list(dict.fromkeys(missing.values()))
        commands = " && ".join(f"adduser --system --group --no-create-home {name}" for name in names)
        expected = f"Unix users that exist (to make what is missing: {commands})"
        yield Fault(None, "workerpool", next(iter(missing)), expected, f"no {' and no '.join(names)}")
    for option, name in needed.items():
        if users.uid(name) == 0:
            yield Fault(None, "workerpool", option, _UNPRIVILEGED, f"'{name}'")
    is_same = pool.worker_user == pool.user or users.uid(pool.worker_user) == users.uid(pool.user) is not None
    if "worker_user" in needed and is_same:
        yield Fault(None, "workerpool", "worker_user", _NOT_THE_CONSUMERS, f"'{pool.user}'")
