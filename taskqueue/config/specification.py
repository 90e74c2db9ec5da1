"""configspec.ini, the one table of options: it validates sections and supplies the defaults."""

import difflib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from configobj import ConfigObj, flatten_errors
from configobj.validate import Validator

from taskqueue.config import checks
from taskqueue.config.amqp import read_hosts, read_url

#: The sections that are about no worker type.
FIXED_SECTIONS: Final = ("amqp", "dispatcher", "workerpool", "logging")

#: The section that all groups inherit.
DEFAULT: Final = "DEFAULT"

#: What the table has for worker sections and [DEFAULT]; the name is configobj's.
GROUP: Final = "__many__"

#: The types that the table's options have.
CHECKS: Final = {
    "choice": checks.choice,
    "content_types": checks.content_types,
    "destination": checks.destination,
    "factor": checks.factor,
    "file": checks.readable_file,
    "hosts": read_hosts,
    "password_file": checks.password_file,
    "results_queue": checks.results_queue,
    "seconds": checks.seconds,
    "secret": checks.secret,
    "share": checks.share,
    "text": checks.text,
    "url": read_url,
    "whole": checks.whole,
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
        kind: one of FIXED_SECTIONS, or GROUP.
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
