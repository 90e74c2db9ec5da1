"""The sections [schedule NAME]: read into definitions of schedules."""

from collections.abc import Iterator, Mapping
from typing import Any

from taskqueue.config.checks import Fault, shown
from taskqueue.config.groups import Sections
from taskqueue.config.named import take_sections, unknown_options
from taskqueue.config.settings import SCHEDULE, checked
from taskqueue.errors import BadSchedule
from taskqueue.schedules.definition import NAME, NAME_EXPECTED, Definition, content_type_of


def take_schedules(sections: Sections, found: list[Fault]) -> tuple[Definition, ...]:
    """Remove the sections of schedules; return the definitions.

    found -- faults are added here
    """
    made: dict[str, Definition] = {}
    for section, name, given in take_sections(SCHEDULE, sections):
        faults = list(_name_faults(section, name, made))
        values, refused = checked(SCHEDULE, given)
        faults += [Fault(None, section, key, error.expected, error.found) for key, error in refused.items()]
        faults += unknown_options(SCHEDULE, section, given)
        faults += list(_conflicts(section, given))
        if not faults:
            try:
                made[name] = Definition.checked(_fields(name, values))
            except BadSchedule as error:
                faults.append(Fault(None, section, None, "a schedule", str(error).partition(": ")[2]))
        found += faults
    return tuple(made.values())


def _fields(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a definition."""
    body = values["body_file"] if values["body_file"] is not None else values["body"]
    fields = {
        "name": name,
        "worker_type": values["type"],
        "body": body,
        "content_type": values["content_type"] or content_type_of(body),
    }
    same = ("cron", "every", "offset", "timezone", "tenant", "tags", "jitter", "missed", "overlap")
    return fields | {key: values[key] for key in same if values[key] is not None}


def _name_faults(section: str, name: str, made: Mapping[str, Definition]) -> Iterator[Fault]:
    if not NAME.match(name):
        yield Fault(None, section, None, NAME_EXPECTED, shown(name))
    elif name in made:
        yield Fault(None, section, None, "one schedule of this name", "another")


def _conflicts(section: str, given: Mapping[str, str]) -> Iterator[Fault]:
    """Yield which options are missing, contradict each other or are without effect."""
    both = "both" if "cron" in given else "neither"
    if ("cron" in given) == ("every" in given):
        yield Fault(None, section, None, "either cron or every", both)
    if "type" not in given:
        yield Fault(None, section, "type", "a worker type", "none")
    if "body" in given and "body_file" in given:
        yield Fault(None, section, "body_file", "either body or body_file", "both")
    for option, other in (("offset", "every"), ("timezone", "cron")):
        if option in given and other not in given:
            yield Fault(None, section, option, f"{other} beside it", "none")
