"""A schedule as its author wrote it: when it is due, and the workitem that each tick submits."""

import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Final, Self

from taskqueue.errors import BadSchedule, Unroutable
from taskqueue.messages.content import JSON, TEXT
from taskqueue.messages.recording import LONGEST_LABELS, LONGEST_TENANT
from taskqueue.messages.routing import checked_type
from taskqueue.schedules.fields import parse
from taskqueue.schedules.timing import Cron, Interval, Timing
from taskqueue.schedules.zones import host_zone, shown_in, zone

#: Treatments of ticks that were due while no scheduler ran.
SKIP, ONCE, ALL = "skip", "once", "all"
MISSED: Final = (SKIP, ONCE, ALL)

#: A schedule's name: it is part of a label and of a section's name.
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}\Z")
NAME_EXPECTED: Final = "a name of 1 to 100 of letters, digits, _ - and ., a letter or digit first"

#: Schedules in an answer of the scheduler.
MOST_LISTED: Final = 500

#: Characters of all tags together; the label with the schedule's name is added to them.
LONGEST_TAGS: Final = LONGEST_LABELS - 120

LARGEST_BODY: Final = 64 * 1024  # bytes; each tick writes the schedule, its body included, to the broker

_IDS: Final = uuid.UUID("6f0c3c6e-3f6d-5f0e-9d4e-6a5a4f1f8b11")  # the namespace of ticks' ids
_MOST_SECONDS: Final = 100 * 366 * 86400.0
_LONGEST_ZONE: Final = 100  # characters
_TEXTS: Final = ("name", "cron", "timezone", "worker_type", "body", "content_type", "tenant", "missed")
_NUMBERS: Final = ("every", "offset", "jitter")
_SECONDS: Final = "a number of seconds, from 0 to 100 years"


@dataclass(frozen=True)
class Definition:
    """One schedule; `checked` makes one of what is not known to be valid.

    Args:
        name: unique among all schedules of a broker.
        worker_type: that of the workitem.
        cron: a cron expression; "" if it is due at intervals.
        every: seconds between two ticks; 0 with `cron`.
        offset: seconds that intervals are moved by.
        timezone: the zone of `cron`.
        body: the workitem's; bytes that are not UTF-8 are surrogates, as os.fsdecode has them.
        content_type: the body's media type.
        tenant: for whom the workitem is; "" for nobody.
        tags: the workitem's labels.
        jitter: maximum seconds that a tick is fired after its time.
        missed: one of MISSED.
        overlap: whether a tick is fired while the last one's workitem is not over.
    """

    name: str
    worker_type: str
    cron: str = ""
    every: float = 0.0
    offset: float = 0.0
    timezone: str = "UTC"
    body: str = "null"
    content_type: str = JSON
    tenant: str = ""
    tags: tuple[str, ...] = ()
    jitter: float = 0.0
    missed: str = SKIP
    overlap: bool = True

    @cached_property
    def timing(self) -> Timing:
        """When it is due. Raises BadSchedule if this host's tz database lacks its zone."""
        return Cron(self.cron, self.timezone) if self.cron else Interval(self.every, self.offset)

    @property
    def when(self) -> str:
        """When it is due, in a few words."""
        if self.cron:
            return f"{self.cron} ({self.timezone})"
        return f"every {self.every:g} s" + (f" + {self.offset:g} s" if self.offset else "")

    def next_times(self, after: float) -> Iterator[float]:
        """Yield the times at which it is due, in seconds since 1970."""
        while (after := self.timing.next_after(after)) != float("inf"):
            yield after

    def shown(self, at: float) -> str:
        """Return a time, in seconds since 1970, with its offset in the schedule's zone."""
        return shown_in(self.timezone if self.cron else host_zone(), at)

    def tick_id(self, tick: float) -> str:
        """Return the id of a tick's workitem, which is the same whoever fires it.

        tick -- its time in seconds since 1970, before jitter
        """
        return str(uuid.uuid5(_IDS, f"{self.name} {tick:.3f}"))

    def left_out_id(self, tick: float) -> str:
        """Return the id under which the record has a tick that is left out; no workitem has it."""
        return str(uuid.uuid5(_IDS, f"left out {self.name} {tick:.3f}"))

    def run_id(self, command: str) -> str:
        """Return the id of the workitem that a command runs, the same for whichever leader acts on it.

        command -- the command's id
        """
        return str(uuid.uuid5(_IDS, f"run {self.name} {command}"))

    def fire_at(self, tick: float) -> float:
        """Return when a tick is fired: its time and a part of `jitter`, the same whoever asks."""
        if not self.jitter:
            return tick
        share = uuid.uuid5(_IDS, f"jitter {self.name} {tick:.3f}").int % 2**32 / 2**32
        return tick + share * self.jitter

    def body_bytes(self) -> bytes:
        """Return the body as it is sent."""
        return self.body.encode("utf-8", "surrogateescape")

    @property
    def labels(self) -> str:
        """The labels of its workitems, separated by spaces."""
        return " ".join((*self.tags, f"schedule:{self.name}"))

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON has it; `checked` takes that."""
        return asdict(self) | {"tags": list(self.tags)}

    @classmethod
    def checked(cls, fields: object, *, is_ours: bool = True) -> Self:
        """Return the definition of these fields, of which all but `name` and `worker_type` may be missing.

        Without `timezone`, it is that of this host. Raises BadSchedule with the first fault.

        is_ours -- whether this host must know the time zone; else another host has checked it
        """
        if not isinstance(fields, Mapping):
            raise BadSchedule("a schedule is no object")
        known = {name: value for name, value in fields.items() if name in cls.__dataclass_fields__}
        if known.get("cron"):
            known.setdefault("timezone", host_zone())
        _check_types(known)
        known["tags"] = tuple(known.get("tags", ()))
        made = cls(**known)
        for option, fault in _faults(made, is_ours=is_ours):
            raise _bad(made.name, option, fault)
        return made


def content_type_of(body: str) -> str:
    """Return the media type of a body without one: JSON if it is that, else text."""
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return TEXT
    return JSON


def _bad(name: str, option: str, fault: str) -> BadSchedule:
    return BadSchedule(f"schedule {name!r:.102}: {fault}", option=option, fault=fault)


def _check_types(fields: Mapping[str, Any]) -> None:
    for name in ("name", "worker_type"):
        if not isinstance(fields.get(name), str):
            raise BadSchedule(f"a schedule needs a {name}", option=name)
    tags = fields.get("tags", ())
    is_list = isinstance(tags, list | tuple) and all(isinstance(tag, str) for tag in tags)
    wrong = {name: "a text" for name in _TEXTS if not isinstance(fields.get(name, ""), str)}
    wrong |= {name: _SECONDS for name in _NUMBERS if not _is_number(fields.get(name, 0.0))}
    wrong |= {} if isinstance(fields.get("overlap", True), bool) else {"overlap": "true or false"}
    wrong |= {} if is_list else {"tags": "a list of texts"}
    for option, expected in wrong.items():
        raise _bad(fields["name"], option, f"{option}: expected {expected}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MOST_SECONDS


def _faults(made: Definition, *, is_ours: bool) -> Iterator[tuple[str, str]]:
    """Yield the options that have a fault, and the faults."""
    if not NAME.match(made.name):
        yield "name", f"expected {NAME_EXPECTED}"
    yield from _unknown(made, is_ours=is_ours)
    if bool(made.cron) == bool(made.every):
        found = "both" if made.cron else "neither"
        yield "every" if made.cron else "cron", f"expected either cron or every, found {found}"
    if made.every and made.every < 1:
        yield "every", f"every: expected a second or more, found {made.every:g}"
    if len(made.timezone) > _LONGEST_ZONE:
        yield "timezone", f"timezone: expected at most {_LONGEST_ZONE} characters"
    if made.missed not in MISSED:
        yield "missed", f"missed: expected one of {', '.join(MISSED)}, found {made.missed!r:.60}"
    yield from _faults_of_workitem(made)


def _unknown(made: Definition, *, is_ours: bool) -> Iterator[tuple[str, str]]:
    checks: list[tuple[str, Callable[[], object]]] = [("worker_type", lambda: checked_type(made.worker_type))]
    if made.cron:
        checks.append(("cron", lambda: parse(made.cron)))
        checks.append(("timezone", lambda: zone(made.timezone if is_ours else "UTC")))
    for option, check in checks:
        try:
            check()
        except (BadSchedule, Unroutable) as error:
            yield option, str(error)


def _faults_of_workitem(made: Definition) -> Iterator[tuple[str, str]]:
    try:
        if len(made.body) > LARGEST_BODY or len(made.body_bytes()) > LARGEST_BODY:
            yield "body", f"the body has more than {LARGEST_BODY} bytes"
    except UnicodeEncodeError:
        yield "body", "the body has a character that UTF-8 has not"
    if len(made.tenant) > LONGEST_TENANT or not (made.tenant.isprintable() and _is_utf8(made.tenant)):
        yield "tenant", f"tenant: expected at most {LONGEST_TENANT} printable characters"
    labels = " ".join(made.tags)
    is_short = len(labels) <= LONGEST_TAGS and _is_utf8(labels)
    if not is_short or labels.split() != list(made.tags):
        yield "tags", f"tags: expected words without blanks, together at most {LONGEST_TAGS} characters"
    if not made.content_type.isascii() or not 0 < len(made.content_type) <= 200:
        yield "content_type", "content_type: expected a media type"


def _is_utf8(text: str) -> bool:
    return text == text.encode("utf-8", "replace").decode()
