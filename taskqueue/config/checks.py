"""Checks of a single value of the configuration, and the report of a wrong one."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

from configobj.validate import ValidateError

from taskqueue.messages.routing import WORKER_TYPE
from taskqueue.texts import shorten

#: How much of a wrong value a fault shows, in characters.
_SHOWN_LIMIT: Final = 60

#: How much of a file is read to see that it can be, in bytes; no password is longer.
_LINE_LIMIT: Final = 4096

#: Names of secrets.
SECRET_NAME: Final = re.compile("passw|secret|token|api_?key|credential", re.IGNORECASE)

#: Prefix of the names of taskqueue's own queues (broker/topology.py, which needs an AMQP client).
_OURS: Final = ("taskqueue", "worker_")

_YES_NO: Final = {
    **dict.fromkeys(("yes", "true", "on", "1"), True),
    **dict.fromkeys(("no", "false", "off", "0"), False),
}
_CONTENT_TYPE: Final = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of the configuration; prints itself as one line without any secret.

    Args:
        file: the file it is in; None where there is none.
        section: the section, without brackets; None where the fault is in no section.
        option: the option; None where the fault is in no single option.
        expected: what would have been right, a noun.
        found: what is there instead.
        advice: for the user who meets the fault; "" where it is plain what to do.
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
        return printable("; ".join(filter(None, (line, self.advice))))


class Complaint(NamedTuple):
    """A fault before it is known which file it is in; the fields are those of Fault."""

    section: str
    option: str | None
    expected: str
    found: str


class Refused(ValidateError):  # type: ignore[misc]  # configobj has no types
    """A value is not what its option takes.

    Args:
        expected: what would have been right, a noun.
        found: what is there instead, and no secret.
    """

    def __init__(self, expected: str, found: str) -> None:
        self.expected = expected
        self.found = found


def printable(text: str) -> str:
    """Return a text as one line, every character of which a terminal can be trusted with."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


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


def factor(value: str) -> float:
    """Take a number of 1 or more to multiply by."""
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,4})?", value) or float(value) < 1:
        refuse("a number of 1 or more", value)
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


def workers(value: str) -> int | tuple[str, ...]:
    """Take a number of workers, or names of subgroups separated by commas."""
    expected = "a number of 0 or more, or a list of subgroups"
    if value.isdigit():
        return whole(value, "0", "65535")  # more could not be prefetched for (AMQP 0-9-1, basic.qos)
    names = _listed(value, expected, WORKER_TYPE.match)
    if not names or len(set(names)) < len(names):
        refuse(expected, value)
    return names


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
        if Path(path).exists() and not Path(path).is_file():  # nor shall a pipe keep us waiting
            raise Refused(expected, f"'{path}', which is no file")
        # It may be a pipe by now, where others may write into the directory.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            return file.readline(_LINE_LIMIT) or b""
    except OSError as error:
        raise Refused(expected, f"'{path}': {error.strerror}") from None
