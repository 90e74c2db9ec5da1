"""The parameters of the API: each is read, bounded and documented by the same value."""

import math
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from taskqueue.errors import ExitStatus, TaskqueueError
from taskqueue.messages.routing import WORKER_TYPE
from taskqueue.messages.states import SHOWN
from taskqueue.monitor.record import Filter
from taskqueue.monitor.web.rights import is_pattern
from taskqueue.texts import one_line, shorten

MOST_ROWS: Final = 1000  # of a page
ROWS: Final = 100
MOST_IDS: Final = 1000  # of an action
MOST_VALUES: Final = 100  # of a repeated parameter
LONGEST_TEXT: Final = 255  # characters
LONGEST_SPAN: Final = 366 * 86400.0  # seconds of minutes in one answer
_CURSOR: Final = re.compile(r"[0-9]{1,19}")
_AGO: Final = re.compile(r"([0-9]{1,9})([smhd])")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LATEST: Final = 1e11  # seconds since 1970: the year 5138


class BadRequest(TaskqueueError):
    """A request has a parameter that is unknown, or a value that is not accepted."""

    status = ExitStatus.USAGE


@dataclass(frozen=True, slots=True)
class Parameter:
    """A named value of a request.

    Args:
        name: its name in a query, or in a filter in JSON.
        description: what it does, for the OpenAPI document.
        read: makes the value of a text. Raises ValueError, whose text says what was expected.
        schema: of one value (JSON Schema).
        many: whether it may be repeated; the values are ORed.
    """

    name: str
    description: str
    read: Callable[[str], Any]
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})
    many: bool = False


def text(name: str, description: str, longest: int = LONGEST_TEXT, *, many: bool = False) -> Parameter:
    """Return a parameter that takes 1 to `longest` printable characters."""

    def read(value: str) -> str:
        if not 0 < len(value) <= longest or not value.isprintable():
            raise ValueError(f"1 to {longest} printable characters")
        return value

    return Parameter(name, description, read, {"type": "string", "minLength": 1, "maxLength": longest}, many)


def choice(name: str, description: str, allowed: Sequence[str], *, many: bool = False) -> Parameter:
    """Return a parameter that takes one of some words."""

    def read(value: str) -> str:
        if value not in allowed:
            raise ValueError(f"one of {', '.join(allowed)}")
        return value

    return Parameter(name, description, read, {"type": "string", "enum": list(allowed)}, many)


def whole(name: str, description: str, least: int, most: int, default: int | None = None) -> Parameter:
    """Return a parameter that takes a whole number."""

    def read(value: str) -> int:
        if not (value.isascii() and value.isdecimal() and len(value) < 20 and least <= int(value) <= most):
            raise ValueError(f"a whole number from {least} to {most}")
        return int(value)

    schema = {"type": "integer", "minimum": least, "maximum": most}
    if default is not None:
        schema["default"] = default
    return Parameter(name, description, read, schema)


def moment(name: str, description: str) -> Parameter:
    """Return a parameter that takes a time: seconds since 1970, or a date and time of ISO 8601."""
    return Parameter(name, f"{description} 30m, 2h or 7d ago, seconds since 1970, or ISO 8601.", read_moment)


def read_moment(value: str) -> float:
    """Return seconds since 1970; 2h is two hours ago; local time without a zone. Raises ValueError."""
    expected = "30m, 2h or 7d ago, seconds since 1970, or a time such as 2026-01-31T12:00:00+01:00"
    ago = _AGO.fullmatch(value)
    if ago:
        return max(0.0, time.time() - int(ago[1]) * _UNITS[ago[2]])
    try:
        seconds = float(value[:40])
    except ValueError:
        try:
            seconds = datetime.fromisoformat(value[:40]).timestamp()
        except (ValueError, OverflowError, OSError):
            raise ValueError(expected) from None
    if not (math.isfinite(seconds) and 0 <= seconds <= _LATEST):
        raise ValueError(expected)
    return seconds


def _read_type(value: str) -> str:
    if not WORKER_TYPE.match(value):
        raise ValueError("a worker type: 1 to 100 of letters, digits, _ - and ., a letter or digit first")
    return value


def _read_type_pattern(value: str) -> str:
    if not is_pattern(value):
        return _read_type(value)
    if len(value) > LONGEST_TEXT or not value.isprintable():
        raise ValueError(f"a pattern of at most {LONGEST_TEXT} printable characters")
    return value


TYPE: Final = Parameter("type", "The worker type.", _read_type, many=True)
_TYPES: Final = Parameter(
    "type", "The worker type, or a pattern: * is any text, ? a character.", _read_type_pattern, many=True
)
SINCE: Final = moment("since", "The earliest time: of the end, or of what is not over, of the queueing.")
UNTIL: Final = moment("until", "The latest time.")
#: The parameters that select workitems.
FILTER: Final = (
    choice("state", "The state; duplicates are cancelled, too.", SHOWN, many=True),
    _TYPES,
    text("tenant", "The tenant.", many=True),
    text("label", "A label."),
    text("host", "The host that ran it."),
    SINCE,
    UNTIL,
    text("id", "The beginning of the id."),
    text("error", "Words of the error."),
    text("body", "Words of the body's recorded beginning; needs the right to see bodies."),
)


def _read_cursor(value: str) -> str:
    if not _CURSOR.fullmatch(value) or int(value) >= 2**63:
        raise ValueError("`next` of the page before")
    return value


PAGE: Final = (
    Parameter("cursor", "Where the page begins: `next` of the page before.", _read_cursor),
    whole("limit", "The number of rows.", 1, MOST_ROWS, ROWS),
)

#: Fields of Filter by the names of their parameters; the others have the same name.
_FIELDS: Final = {
    "state": "states",
    "type": "worker_types",
    "tenant": "tenants",
    "id": "id_prefix",
    "error": "error_text",
    "body": "body_text",
}


def read(parameters: Sequence[Parameter], given: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return the values by the names of their parameters; absent ones are left out.

    Args:
        parameters: those that the request may have.
        given: what it has, as texts.

    Raises:
        BadRequest: a parameter is unknown or repeated, or its value is not accepted.
    """
    known = {each.name: each for each in parameters}
    unknown = [name for name in given if name not in known]
    if unknown:
        expected = f"one of {', '.join(known)}" if known else "none"
        raise BadRequest(f"parameter {_shown(unknown[0])}: unknown; expected {expected}")
    return {name: _value(known[name], texts) for name, texts in given.items()}


def _value(parameter: Parameter, texts: Sequence[str]) -> Any:
    most = MOST_VALUES if parameter.many else 1
    if len(texts) > most:
        found = f"expected at most {most} value{'s' if most > 1 else ''}, found {len(texts)}"
        raise BadRequest(f"parameter {parameter.name}: {found}")
    try:
        values = [parameter.read(each) for each in texts]
    except ValueError as error:
        culprit = next((each for each in texts if not _is_read(parameter, each)), "")
        raise BadRequest(f"parameter {parameter.name}: expected {error}, found {_shown(culprit)}") from None
    return frozenset(values) if parameter.many else values[0]


def _is_read(parameter: Parameter, value: str) -> bool:
    try:
        parameter.read(value)
    except ValueError:
        return False
    return True


def _shown(value: str) -> str:
    return f"'{shorten(one_line(value), 80)}'"


def filter_of(values: Mapping[str, Any]) -> Filter:
    """Return the filter of values that `read` has returned for FILTER; others are ignored."""
    names = {each.name for each in FILTER}
    chosen = {_FIELDS.get(name, name): value for name, value in values.items() if name in names}
    found = Filter(**chosen)
    if found.since is not None and found.until is not None and found.since > found.until:
        raise BadRequest("parameter since: expected a time that is not after until")
    return found


# --- the same in JSON ---


def filter_of_json(value: object) -> Filter:
    """Return the filter of a JSON object with the parameters' names. Raises BadRequest."""
    if not isinstance(value, dict):
        raise BadRequest(f"filter: expected an object, found {_kind(value)}")
    given = {str(name)[:LONGEST_TEXT]: _texts(str(name), each) for name, each in value.items()}
    return filter_of(read(FILTER, given))


def _texts(name: str, value: object) -> list[str]:
    values = value if isinstance(value, list) else [value]
    for each in values:
        if isinstance(each, bool) or not isinstance(each, str | int | float):
            raise BadRequest(
                f"filter, {_shown(name)}: expected a text or a list of texts, found {_kind(each)}"
            )
    return [each if isinstance(each, str) else repr(each) for each in values]


def ids_of_json(value: object) -> tuple[str, ...]:
    """Return the ids of a JSON list. Raises BadRequest."""
    if not isinstance(value, list) or not value:
        raise BadRequest(f"ids: expected a list of ids, found {_kind(value)}")
    if len(value) > MOST_IDS:
        raise BadRequest(f"ids: expected at most {MOST_IDS}, found {len(value)}")
    for each in value:
        if not isinstance(each, str) or not 0 < len(each) <= LONGEST_TEXT:
            raise BadRequest(f"ids: expected texts of 1 to {LONGEST_TEXT} characters, found {_kind(each)}")
    return tuple(dict.fromkeys(value))


def _kind(value: object) -> str:
    names: Collection[tuple[type, str]] = (
        (bool, "true or false"),
        (dict, "an object"),
        (list, "a list" if value else "an empty list"),
        (str, "a text"),
        (int, "a number"),
        (float, "a number"),
    )
    return next((name for kind, name in names if isinstance(value, kind)), "null")


def json_of(wanted: Filter) -> dict[str, Any]:
    """Return a filter as `filter_of_json` reads it; for the audit, and for the recorder."""
    values: dict[str, Any] = {}
    for each in FILTER:
        value = getattr(wanted, _FIELDS.get(each.name, each.name))
        if value not in (None, "", frozenset()):
            values[each.name] = sorted(value) if each.many else value
    return values
