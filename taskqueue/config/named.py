"""Sections of a kind that have a name, such as [schedule NAME]; and options that no section knows."""

from collections.abc import Iterator

from taskqueue.config.checks import Fault
from taskqueue.config.groups import Sections
from taskqueue.config.settings import nearest, specification


def take_sections(kind: str, sections: Sections) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Remove the sections of a kind; yield each one's header, name and options.

    kind -- the table's key, as "schedule NAME"
    """
    prefix = kind.removesuffix("NAME")
    for section in [name for name in sections if name.startswith(prefix)]:
        yield section, section.removeprefix(prefix).strip(), sections.pop(section)


def unknown_options(kind: str, section: str, given: dict[str, str]) -> Iterator[Fault]:
    """Yield a fault for each option that a section of a kind does not have."""
    known = tuple(specification()[kind])
    for name in given:
        if name not in known:
            near = nearest(name, known)
            expected = f"'{near}', the nearest option known here" if near else "one of " + ", ".join(known)
            yield Fault(None, section, name, expected, "an unknown option")
