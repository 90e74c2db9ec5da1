"""The sections [limit NAME], and the groups that name them."""

from collections.abc import Collection, Iterator, Mapping

from taskqueue.config.checks import Fault, shown
from taskqueue.config.groups import Sections
from taskqueue.config.named import take_sections, unknown_options
from taskqueue.config.settings import GROUP, LIMIT, checked, nearest
from taskqueue.limits.definition import NAME, NAME_EXPECTED, Limit


def take_limits(sections: Sections, found: list[Fault]) -> tuple[Limit, ...]:
    """Remove the sections of limits; return the limits.

    found -- faults are added here
    """
    made: dict[str, Limit] = {}
    for section, name, given in take_sections(LIMIT, sections):
        values, refused = checked(LIMIT, given)
        faults = list(_name_faults(section, name, made))
        faults += [Fault(None, section, key, error.expected, error.found) for key, error in refused.items()]
        faults += unknown_options(LIMIT, section, given)
        if not given.keys() & {"concurrency", "rate"}:
            faults.append(Fault(None, section, None, "concurrency, rate or both", "neither"))
        starts, period = values["rate"] or (None, 0.0)
        made[name] = Limit(name, values["concurrency"], starts, period)
        found += faults
    return tuple(made.values())


def _name_faults(section: str, name: str, made: Mapping[str, Limit]) -> Iterator[Fault]:
    if not NAME.match(name):
        yield Fault(None, section, None, NAME_EXPECTED, shown(name))
    elif name in made:
        yield Fault(None, section, None, "one limit of this name", "another")


def limit_faults(workers: Sections, limits: Collection[Limit]) -> Iterator[Fault]:
    """Yield which worker sections name limits that no section defines."""
    known = {limit.name for limit in limits}
    for section, given in workers.items():
        if "limits" in given:
            names = [use.limit for use in checked(GROUP, given)[0]["limits"]]
            for name in (each for each in names if each not in known):
                near = nearest(name, tuple(known))
                hint = f"; is [limit {near}] meant?" if near else ""
                yield Fault(None, section, "limits", f"a section [limit {name}]", f"none{hint}")


def limit_warnings(workers: Sections) -> Iterator[str]:
    """Yield which worker sections have limits by a header that is nearly, but not, called tenant."""
    for section, given in workers.items():
        for use in checked(GROUP, given)[0]["limits"] if "limits" in given else ():
            if use.by != "tenant" and nearest(use.by, ("tenant",)):
                yield f"section [{section}]: limit {use.limit} is by the header '{use.by}'; is tenant meant?"
