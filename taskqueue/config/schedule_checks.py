"""Checks of the options of a schedule."""

from pathlib import Path

from taskqueue.config.checks import Refused, refuse, shown
from taskqueue.errors import BadSchedule
from taskqueue.messages.routing import WORKER_TYPE
from taskqueue.schedules import fields, zones
from taskqueue.schedules.definition import LARGEST_BODY, LONGEST_TAGS


def cron(value: str) -> str:
    """Take a cron expression."""
    expected = "a cron expression such as 30 3 * * mon-fri or @daily"
    try:
        fields.parse(value)
    except BadSchedule as error:
        raise Refused(expected, f"a wrong one: {error}" if value.isprintable() else shown(value)) from None
    return value


def timezone(value: str) -> str:
    """Take the name of a time zone."""
    try:
        return zones.zone(value).name
    except BadSchedule:
        return refuse("a time zone of this host's tz database, such as Europe/Berlin", value)


def worker_type(value: str) -> str:
    """Take a worker type."""
    if not WORKER_TYPE.match(value):
        refuse("a worker type: 1 to 100 of letters, digits, _ - and ., a letter or digit first", value)
    return value


def body(value: str) -> str:
    """Take the body of a workitem."""
    if "\0" in value or len(value.encode()) > LARGEST_BODY:
        refuse(f"a text of at most {LARGEST_BODY} bytes", value)
    return value


def body_file(value: str) -> str:
    """Take the absolute path of a file and return what it holds; bytes that are not UTF-8 are surrogates."""
    expected = f"the absolute path of a readable file of at most {LARGEST_BODY} bytes"
    if not value.isprintable() or not value.startswith("/"):
        raise Refused(expected, shown(value))
    try:
        if not Path(value).is_file():
            raise Refused(expected, f"'{value}', which is no file")
        with Path(value).open("rb") as file:
            content = file.read(LARGEST_BODY + 1)
    except OSError as error:
        raise Refused(expected, f"'{value}': {error.strerror}") from None
    if len(content) > LARGEST_BODY:
        raise Refused(expected, f"'{value}', which is larger")
    return content.decode("utf-8", "surrogateescape")


def media_type(value: str) -> str:
    """Take a media type, with parameters or without."""
    if not value.isascii() or not value.isprintable() or "/" not in value or len(value) > 200:
        refuse("a media type such as application/json", value)
    return value


def tags(value: str) -> tuple[str, ...]:
    """Take words separated by commas or blanks; "" is none."""
    words = tuple(value.replace(",", " ").split())
    if not value.isprintable() or len(" ".join(words)) > LONGEST_TAGS:
        refuse(f"words separated by commas, together at most {LONGEST_TAGS} characters", value)
    return words
