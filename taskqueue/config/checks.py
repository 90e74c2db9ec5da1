"""Checks of a single value of the configuration, and the report of a wrong one."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

from configobj.validate import ValidateError

from taskqueue.config.postgresql import is_url
from taskqueue.messages.lanes import FEWEST_LANES, MOST_LANES
from taskqueue.messages.recording import LONGEST_TENANT
from taskqueue.messages.routing import WORKER_TYPE
from taskqueue.texts import one_line, shorten

#: How much of a wrong value a fault shows, in characters.
_SHOWN_LIMIT: Final = 60

#: How much of a file is read to see that it can be, in bytes; no password is longer.
_LINE_LIMIT: Final = 4096

#: Names of secrets.
SECRET_NAME: Final = re.compile("passw|secret|token|api_?key|credential", re.IGNORECASE)

#: Prefix of the names of taskqueue's own queues (broker/topology.py, which needs an AMQP client).
_OURS: Final = ("taskqueue", "worker_")

_LONGEST: Final = 100 * 366 * 86400  # seconds

_YES_NO: Final = {
    **dict.fromkeys(("yes", "true", "on", "1"), True),
    **dict.fromkeys(("no", "false", "off", "0"), False),
}
_UNITS_OF_TIME: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}  # seconds
_UNITS_OF_SIZE: Final = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}  # bytes
_KEY: Final = re.compile(r"[^\x00-\x1f,]{1,100}")
#: A tenant and its weight.
_WEIGHT: Final = re.compile(r"([^\x00-\x1f,]*[^\x00-\x20,]) +([1-9][0-9]{0,2}|1000)")
#: A number between words of a name: a comma is missing before the next tenant.
_NUMBER_WITHIN: Final = re.compile(r" [0-9]+ ")
_CONTENT_TYPE: Final = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+", re.ASCII)
#: HTTP headers that clients set themselves.
_REQUEST_HEADERS: Final = frozenset(
    ("authorization", "connection", "content-length", "content-type", "cookie", "host")
)

_MOST_WORKERS: Final = "65535"  # more could not be prefetched for (AMQP 0-9-1, basic.qos)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of the configuration; prints itself as one line without any secret.

    Args:
        file: the file it is in; None where there is none, or it is not known yet.
        section: the section, without brackets; None where the fault is in no section.
        option: the option; None where the fault is in no single option.
        expected: what would have been right, a noun.
        found: what is there instead.
        advice: what the user can do; "" for none.
    """

    file: str | None
    section: str | None
    option: str | None
    expected: str
    found: str
    advice: str = ""

    def __str__(self) -> str:
        places = [f"section [{self.section}]" if self.section is not None else ""]
        places.append(f"option {self.option}" if self.option is not None else "")
        place = ", ".join(filter(None, places))
        line = ": ".join(filter(None, (self.file, place, f"expected {self.expected}, found {self.found}")))
        return one_line("; ".join(filter(None, (line, self.advice))))


class Refused(ValidateError):  # type: ignore[misc]  # configobj has no types
    """A value is not what its option takes.

    Args:
        expected: what would have been right, a noun.
        found: what is there instead, and no secret.
    """

    def __init__(self, expected: str, found: str) -> None:
        self.expected = expected
        self.found = found


def shown(value: str) -> str:
    """Return a wrong value as a fault may show it: shortened, and without what could be a password."""
    if not value:
        return "nothing"
    if "\n" in value:
        return "several lines (an indented line continues the one before it)"
    if SECRET_NAME.search(value):
        return "what may hold a secret"
    before, at, rest = value.rpartition("@")
    return f"'{shorten('***' + at + rest if before else value, _SHOWN_LIMIT)}'"


def refuse(expected: str, value: str) -> NoReturn:
    """Raise Refused for a value that may be shown."""
    raise Refused(expected, shown(value))


def text(value: str, most: str = "") -> str:
    """Take one line of text, of at most `most` bytes in UTF-8."""
    if not value or not value.isprintable() or len(value.encode()) > int(most or len(value.encode())):
        refuse(f"a text of at most {most} bytes" if most else "a text of one line", value)
    return value


def results_queue(value: str) -> str:
    """Take the name of a queue that is not taskqueue's own: a result there would be taken for a workitem."""
    if value.startswith(_OURS):
        refuse("a queue whose name begins with neither taskqueue nor worker_", value)
    return text(value, "255")


def secret(value: str) -> str:
    """Take one line of text that is never shown."""
    if not value or not value.isprintable():
        raise Refused("a text of one line", "several lines or unprintable characters" if value else "nothing")
    return value


def whole(value: str, least: str, most: str = "") -> int:
    """Take a whole number from `least` to `most`, or without an upper bound."""
    # nine digits: no counter of ours needs more, and int() of very many is slow
    if not re.fullmatch("[0-9]{1,9}", value) or not int(least) <= int(value) <= int(most or value):
        refuse(f"a number from {least} to {most}" if most else f"a number of {least} or more", value)
    return int(value)


def seconds(value: str, least: str = "0", most: str = "inf") -> float:
    """Take a number of seconds from `least` to `most`."""
    written = re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value)
    if not written or not float(least) <= float(value) <= float(most):
        span = f", {least} or more" if most == "inf" else f" from {least} to {most}"
        refuse(f"a number of seconds{span}", value)
    return float(value)


def duration(value: str, least: str) -> float:
    """Take a time of at least `least` seconds: a number, with the unit s (the default), m, h or d."""
    written = re.fullmatch(r"([0-9]{1,9})([smhd]?)", value.lower())
    number = int(written[1]) * _UNITS_OF_TIME[written[2]] if written else -1
    if not int(least) <= number <= _LONGEST:
        refuse(f"a time such as 90d, 12h, 30m, 15s or a number of seconds, {least} or more", value)
    return float(number)


def size(value: str, least: str, most: str = "1000000000000000") -> int:
    """Take a size from `least` to `most` bytes: a number of bytes, or of K, M or G."""
    written = re.fullmatch(r"([0-9]{1,15})([kmg]?)", value.lower())
    number = int(written[1]) * _UNITS_OF_SIZE[written[2]] if written else -1
    if not int(least) <= number <= int(most):
        refuse(f"a size such as 10G, 500M or a number of bytes, from {least} to {most}", value)
    return number


def factor(value: str) -> float:
    """Take a number of 1 or more to multiply by."""
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,4})?", value) or float(value) < 1:
        refuse("a number of 1 or more", value)
    return float(value)


def processors(value: str) -> float:
    """Take a number of processors, 0 or from 0.01."""
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,2})?", value):
        refuse("a number of processors, such as 0.5 or 2", value)
    return float(value)


def share(value: str) -> float:
    """Take a number from 0 to 1."""
    if not re.fullmatch(r"[01](\.[0-9]{1,4})?", value) or float(value) > 1:
        refuse("a number from 0 to 1", value)
    return float(value)


def yes_no(value: str) -> bool:
    """Take yes or no, in the words that configparser knows."""
    if value.lower() not in _YES_NO:
        refuse("yes or no", value)
    return _YES_NO[value.lower()]


def choice(value: str, *names: str) -> str:
    """Take one of some words, in lower or upper case."""
    if value.lower() not in names:
        refuse("one of " + ", ".join(names), value)
    return value.lower()


def readable_file(value: str) -> str:
    """Take the absolute path of a file that can be read."""
    _first_line(value, "the absolute path of a readable file")
    return value


def password_file(value: str) -> str:
    """Take the absolute path of a file and return its first line, a password."""
    expected = "the absolute path of a readable file whose first line is the password"
    line = _first_line(value, expected).decode(errors="replace").rstrip("\r\n")
    if not line or not line.isprintable() or "\N{REPLACEMENT CHARACTER}" in line:
        raise Refused(expected, f"'{value}': no text in its first line")
    return line


def directory(value: str) -> str:
    """Take the absolute path of a directory, which need not exist."""
    if not value.isprintable() or not value.startswith("/") or len(value) > _LINE_LIMIT:
        refuse("the absolute path of a directory", value)
    return value


def result_store(value: str) -> str | None:
    """Take the absolute path of a directory or the name of a plugin; none is None."""
    if value.lower() == "none":
        return None
    if value.startswith("/"):
        return directory(value)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,99}", value):
        refuse("the absolute path of a directory, the name of a plugin, or none", value)
    return value


def record_place(value: str) -> str:
    """Take the URL of a PostgreSQL database, or the absolute path of a directory."""
    return postgresql_url(value) if "://" in value else directory(value)


def database_place(value: str) -> str:
    """Take the URL of a PostgreSQL database, or the absolute path of a file, which need not exist."""
    if "://" in value:
        return postgresql_url(value)
    is_short = len(value) <= _LINE_LIMIT
    if not (value.startswith("/") and not value.endswith("/") and value.isprintable() and is_short):
        refuse("the absolute path of a file, or postgresql://USER@HOST/DATABASE", value)
    return value


def postgresql_url(value: str) -> str:
    """Take the URL of a PostgreSQL database, as its library has them."""
    if not is_url(value) or not value.isprintable() or " " in value or len(value) > _LINE_LIMIT:
        raise Refused("postgresql://USER@HOST/DATABASE", "another URL, which may hold a secret")
    return value


def http_url(value: str) -> str:
    """Take the URL of a server, http or https, without a user, a path or more."""
    if not re.fullmatch(r"https?://[A-Za-z0-9.:\[\]-]{1,255}/?", value):
        raise Refused("http://HOST:PORT or https://HOST:PORT", "another URL, which may hold a secret")
    return value.rstrip("/")


def file_path(value: str) -> str:
    """Take the absolute path of a file, which the process that uses it opens: other users may not."""
    if (
        not value.isprintable()
        or not value.startswith("/")
        or value.endswith("/")
        or len(value) > _LINE_LIMIT
    ):
        refuse("the absolute path of a file", value)
    return value


def header(value: str) -> str:
    """Take the name of an HTTP header that has no meaning of its own for a request."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]{0,63}", value) or value.lower() in _REQUEST_HEADERS:
        refuse("the name of an HTTP header, such as X-Remote-User", value)
    return value


def listen(value: str) -> str:
    """Take an address to listen on: host:port, an IPv6 address in brackets."""
    written = re.fullmatch(r"(?:\[[0-9A-Fa-f:.]+\]|[\w.-]+):([0-9]{1,5})", value)
    if not written or int(written[1]) > 65535:
        refuse("host:port, such as 127.0.0.1:8672; port 0 is a free one", value)
    return value


def destination(value: str) -> str:
    """Take where to log: stderr, syslog, or the absolute path of a file."""
    if value.lower() in ("stderr", "syslog"):
        return value.lower()
    if not value.isprintable() or not value.startswith("/") or value.endswith("/"):
        refuse("stderr, syslog or the absolute path of a file", value)
    return value


def content_types(value: str) -> tuple[str, ...]:
    """Take content types separated by commas, without parameters; "" is none."""
    expected = "content types such as application/cbor, separated by commas"
    return _listed(value, expected, _CONTENT_TYPE.fullmatch)


def broker_users(value: str) -> tuple[str, ...]:
    """Take names of broker users separated by commas, or * for all; "" is none."""
    users = _listed(value, "broker users, separated by commas", lambda item: item and item.isprintable())
    if "*" in users and len(users) > 1:
        refuse("broker users, or * alone", value)
    return users


def keys(value: str) -> tuple[str, ...]:
    """Take keys of JSON objects separated by commas; "" is none."""
    return _listed(value, "keys of JSON objects, separated by commas", _KEY.fullmatch)


class WorkerRange(NamedTuple):
    """The least and the greatest number of workers of a group; the same where the number is fixed."""

    least: int
    most: int


def workers(value: str) -> WorkerRange | tuple[str, ...]:
    """Take a number of workers, a range such as 2..16, or names of subgroups separated by commas."""
    expected = "a number of 0 or more, a range such as 2..16, or a list of subgroups"
    if value.isdigit():
        number = whole(value, "0", _MOST_WORKERS)
        return WorkerRange(number, number)
    if written := re.fullmatch(r"(\d+) ?\.\. ?(\d+)", value):
        found = WorkerRange(*(whole(each, "1", _MOST_WORKERS) for each in written.groups()))
        if found.least > found.most:
            refuse(f"{expected}; the first number is the smaller one", value)
        return found
    names = _listed(value, expected, WORKER_TYPE.match)
    if not names or len(set(names)) < len(names):
        refuse(expected, value)
    return names


def lanes(value: str) -> int:
    """Take a number of lanes, or none: 0."""
    if value.lower() == "none":
        return 0
    if not re.fullmatch("[0-9]{1,9}", value) or not FEWEST_LANES <= int(value) <= MOST_LANES:
        refuse(f"a number from {FEWEST_LANES} to {MOST_LANES}, or none", value)
    return int(value)


def weights(value: str) -> tuple[tuple[str, int], ...]:
    """Take tenants with their weights, separated by commas; "" is none."""
    expected = "tenants with weights from 1 to 1000, such as acme 3, example 1"
    found = [_WEIGHT.fullmatch(item) for item in _listed(value, expected, _WEIGHT.fullmatch)]
    by_name = {each[1]: int(each[2]) for each in found if each}
    if any(_NUMBER_WITHIN.search(name) for name in by_name):
        refuse(f"{expected}; a comma after each weight", value)
    if len(by_name) < len(found) or any(len(name) > LONGEST_TENANT for name in by_name):
        refuse(f"{expected}; each tenant once, with up to {LONGEST_TENANT} characters", value)
    return tuple(by_name.items())


def _listed(value: str, expected: str, accept: Callable[[str], object]) -> tuple[str, ...]:
    items = tuple(item.strip() for item in value.split(",")) if value else ()
    if not all(accept(item) for item in items):
        refuse(expected, value)
    return items


def _first_line(path: str, expected: str) -> bytes:
    # a relative path would mean something else to a daemon, which leaves its directory;
    # it is not shown, as it may be a password that stands where its file should
    if not path.isprintable() or not path.startswith("/"):
        raise Refused(
            expected, "what does not begin with / or holds unprintable characters" if path else "nothing"
        )
    try:
        if Path(path).exists() and not Path(path).is_file():  # a pipe would block
            raise Refused(expected, f"'{path}', which is no file")
        # It may be a pipe by now, where others may write into the directory.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            return file.readline(_LINE_LIMIT) or b""
    except OSError as error:
        raise Refused(expected, f"'{path}': {error.strerror}") from None
