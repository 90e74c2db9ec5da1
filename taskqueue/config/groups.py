"""Which sections are groups of workers, and what each group inherits."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from taskqueue.config.checks import Complaint
from taskqueue.config.inifile import Sections
from taskqueue.config.settings import GroupSettings
from taskqueue.config.specification import DEFAULT, FIXED_SECTIONS, GROUP, checked, nearest, specification
from taskqueue.messages.routing import WORKER_TYPE

#: Options that there are no more, and those that took their place.
_REPLACED: Final = {"depth": "max_prefetch"}

#: Options that were renamed, and their names now.
_RENAMED: Final = {"max_depth": "max_prefetch"}

#: worker type -> the sections of its subgroups, in the order in which it lists them.
Subgroups = Mapping[str, tuple[str, ...]]


def rename_options(sections: Sections) -> Iterator[str]:
    """Give options of groups their names of today; yield a warning for each that has an earlier one."""
    for section, given in sections.items():
        for old in given.keys() & _RENAMED.keys() if section not in FIXED_SECTIONS else ():
            new, value = _RENAMED[old], given.pop(old)
            given.setdefault(new, value)
            yield f"section [{section}]: option '{old}' is called {new} now"


def find_subgroups(
    sections: Sections, plugin_names: Collection[str], complaints: list[Complaint]
) -> Subgroups:
    """Return which sections are subgroups of which worker type.

    Args:
        sections: the worker sections and [DEFAULT]; where a list of subgroups cannot stand it is taken out.
        plugin_names: the installed plugins.
        complaints: what is wrong is added here.
    """
    found: dict[str, tuple[str, ...]] = {}
    taken: set[str] = set()
    # a subgroup's section has a longer name than its type's, so that it is known as one when its turn comes
    for section in sorted(sections, key=len):
        names = checked(GROUP, sections[section])[0]["workers"]
        if isinstance(names, int):
            continue
        if section in taken or section == DEFAULT:
            del sections[section]["workers"]
            listed = ", ".join(names)
            complaints.append(Complaint(section, "workers", "a number of 0 or more", f"'{listed}'"))
            continue
        complaints += _wrong_subgroups(section, names, sections, taken.union(plugin_names))
        found[section] = tuple(f"{section}_{name}" for name in names)
        taken.update(found[section])
    return found


def _wrong_subgroups(
    section: str, names: tuple[str, ...], sections: Sections, taken: Collection[str]
) -> Iterator[Complaint]:
    for name in names:
        own = f"{section}_{name}"
        if own in taken:
            found = f"'{name}', whose section [{own}] is another worker type's"
            yield Complaint(section, "workers", "subgroups with sections of their own", found)
        elif own not in sections and len(names) == 1:
            expected = "a number of 0 or more, or a list of subgroups"
            yield Complaint(section, "workers", expected, f"'{name}', and no section [{own}] for it")
        elif own not in sections:
            yield Complaint(section, "workers", f"a section [{own}] for the subgroup '{name}'", "none")


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
    group = GroupSettings(name=name, worker_type=worker_type, settings=others, **known)
    return group, sources.get("user", name)


def oddities(sections: Sections, subgroups: Subgroups, plugin_names: Collection[str]) -> Iterator[str]:
    """Yield what is odd about sections and plugins, but does not keep the others from working."""
    installed = ", ".join(sorted(plugin_names)) or "none"
    for section in sections:
        if section in plugin_names or section == DEFAULT or section in _subsections(subgroups):
            continue
        near = nearest(section, (*FIXED_SECTIONS, DEFAULT, *plugin_names))
        hint = f"; is [{near}] meant?" if near else ""
        yield f"section [{section}]: no plugin '{section}' is installed; installed: {installed}{hint}"
    for name in sorted(plugin_names):
        if name in FIXED_SECTIONS:
            yield f"plugin '{name}': [{name}] is no worker's section, so that it runs with [DEFAULT] only"


def near_misses(sections: Sections, subgroups: Subgroups, plugin_names: Collection[str]) -> Iterator[str]:
    """Yield which options are nearly, but not, called like one of taskqueue's own: plugins get them."""
    known = specification()[GROUP]
    for section, given in sections.items():
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


def _subsections(subgroups: Subgroups) -> set[str]:
    return {section for sections in subgroups.values() for section in sections}


def well_named(plugin_names: Collection[str]) -> tuple[list[str], list[str]]:
    """Return the plugins whose name can be a worker type, and a warning for each other one."""
    good = [name for name in plugin_names if WORKER_TYPE.match(name)]
    bad = sorted(set(plugin_names).difference(good))
    return good, [f"plugin {name!r}: the name cannot be a worker type; it is not run" for name in bad]
